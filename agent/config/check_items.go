package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

var keyTypes = []string{"rsa-2048", "rsa-3072", "rsa-4096", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519"}

func (k *checker) identity(at, name string, id Identity) {
	k.issuance(at, name, id.Issuance)
	k.unless(!id.Key.InFile(), at+".key.store", "the key of an identity never leaves the HSM; use a certificate for a key in a file")
	issuer, ok := k.c.Upstreams[id.Issuer]
	if ok && issuer.Type == Manager {
		k.unless(id.Subject.CommonName != "", at+".subject.common_name", "missing; the manager wants a subject that no other host has")
	}
	k.absolute(at+".credentials_file", id.CredentialsFile)
	k.unless(id.CredentialsFile == "" || !ok || issuer.Type == Manager, at+".credentials_file", "only a manager registers with one-time credentials; remove it")
}

// accounts refuses two identities of one account of a Manager. The account has
// one key: each rotation of the one would revoke the other.
func (k *checker) accounts() {
	owners := map[string]string{}
	for name := range sortedKeys(k.c.Identities) {
		issuer := k.c.Identities[name].Issuer
		u := k.c.Upstreams[issuer]
		if u.Type != Manager || u.AccountID <= 0 {
			continue
		}
		account := fmt.Sprintf("%s %d", serverOf(u.URL), u.AccountID)
		owner, taken := owners[account]
		k.unless(!taken, join("identities", name)+".issuer",
			"account %d of %q is that of identity %q already, and an account has one key; have another account made, as an upstream of its own", u.AccountID, clip(issuer), owner)
		if !taken {
			owners[account] = name
		}
	}
}

// serverOf is the same for all URLs of one server.
func serverOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text // its own fault is reported
	}
	return strings.ToLower(u.Hostname()) + ":" + or(u.Port(), "443")
}

func (k *checker) certificate(at, name string, c Certificate) {
	k.issuance(at, name, c.Issuance)
	_, taken := k.c.Identities[name]
	k.unless(!taken, at, "there is an identity of that name, and keys are named after them; choose another")
	k.unless(k.c.Upstreams[c.Issuer].Type != Manager, at+".issuer", "%q is a manager, which issues the certificate of an identity alone; see identities", clip(c.Issuer))
	k.unless(c.Subject.CommonName != "" || len(c.DNSNames)+len(c.IPAddresses)+len(c.Emails)+len(c.URIs) > 0,
		at+".dns_names", "missing; a certificate needs at least one name")
	if c.Key.InFile() {
		k.unless(c.Key.Token == "", at+".key.token", "a key with store: file is in no token; remove it")
		k.unless(!c.OnToken, at+".on_token", "a key with store: file is in no token; remove it")
	}
}

// The names of the agent's own keys in the HSM.
const (
	auditKey   = "audit" // signs the audit; its public half can be read
	sealingKey = "kek"   // wraps the data key
)

func (k *checker) issuance(at, name string, i Issuance) {
	k.name(at, name)
	k.unless(name != auditKey && name != sealingKey, at, "is the name of a key of the agent's own")
	k.oneOf(at+".key.type", i.Key.Type, keyTypes...)
	k.oneOf(at+".key.store", i.Key.Store, "hsm", "file")
	if i.Key.Token != "" {
		_, ok := k.c.Token(i.Key.Token)
		k.unless(ok, at+".key.token", "there is no token %q in hsm; see hsm.name", clip(i.Key.Token))
	}
	k.issuer(at, i)
	k.oneOf(at+".purpose", i.Purpose, "server", "client", "ca")
	k.alternativeNames(at, i)
	k.unless(i.Subject.Country == "" || len(i.Subject.Country) == 2, at+".subject.country", "%q is not a country code; it has two letters", clip(i.Subject.Country))
	k.positive(at+".duration", i.Duration)
	k.positive(at+".rotate_every", i.RotateEvery)
}

// issuer checks who signs, and that what only some issuers know is asked of one
// of them.
func (k *checker) issuer(at string, i Issuance) {
	if !k.unless(i.Issuer != "", at+".issuer", "missing; name the upstream that signs") {
		return
	}
	u, ok := k.c.Upstreams[i.Issuer]
	if !k.unless(ok, at+".issuer", "there is no upstream %q; %s", clip(i.Issuer), guess(i.Issuer, k.c.Upstreams)) {
		return
	}
	k.unless(u.Type != OAuth2 && u.Type != Senhasegura, at+".issuer", "%q is %s upstream, which issues no certificates", i.Issuer, a(u.Type))
	k.unless(i.CA == "" || u.Type == CipherTrust, at+".ca", "is for a ciphertrust issuer, and %q is %s; remove it", i.Issuer, a(u.Type))
	k.unless(i.CA != "" || u.Type != CipherTrust, at+".ca", "missing; a ciphertrust issuer has several, name one by id or name")
	k.unless(i.Profile == "" || u.Type == ManPKI, at+".profile", "is for a manpki issuer, and %q is %s; remove it", i.Issuer, a(u.Type))
}

func (k *checker) alternativeNames(at string, i Issuance) {
	for n, name := range i.DNSNames {
		k.unless(isDNSName(name), index(at+".dns_names", n), "%q is not a DNS name", clip(name))
	}
	for n, ip := range i.IPAddresses {
		addr, err := netip.ParseAddr(ip)
		k.unless(err == nil && addr.Zone() == "", index(at+".ip_addresses", n), "%q is not an IP address", clip(ip))
	}
	for n, mail := range i.Emails {
		user, host, ok := strings.Cut(mail, "@")
		k.unless(ok && user != "" && isDNSName(host), index(at+".emails", n), "%q is not an e-mail address", clip(mail))
	}
	for n, uri := range i.URIs {
		u, err := url.Parse(uri)
		k.unless(err == nil && u.Scheme != "" && (u.Host != "" || u.Opaque != ""), index(at+".uris", n), "%q is not a URI", clip(uri))
	}
}

// isDNSName allows a wildcard as first label, and underscores, which are no
// host names but are in use.
func isDNSName(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
			}) {
			return false
		}
	}
	return true
}

// secretKinds are the fields that say what to read, by the upstream type that
// has such items.
var secretKinds = map[string][]string{
	Senhasegura: {"credential", "info", "application"},
	CipherTrust: {"secret"},
}

func (k *checker) secret(at, name string, s Secret) {
	k.name(at, name)
	k.positive(at+".ttl", s.TTL)
	if !k.unless(s.Upstream != "", at+".upstream", "missing; name the upstream that keeps it") {
		return
	}
	u, ok := k.c.Upstreams[s.Upstream]
	if !k.unless(ok, at+".upstream", "there is no upstream %q; %s", clip(s.Upstream), guess(s.Upstream, k.c.Upstreams)) || u.Type == "" {
		return
	}
	kinds := secretKinds[u.Type]
	if !k.unless(len(kinds) > 0, at+".upstream", "%q is %s upstream, which keeps no secrets", s.Upstream, a(u.Type)) {
		return
	}
	given := ""
	for _, kind := range []string{"credential", "info", "application", "secret"} {
		if path := at + "." + kind; k.has(path) {
			k.unless(slices.Contains(kinds, kind), path, "%s upstream has none; want %s", a(u.Type), alternatives(kinds))
			k.unless(given == "" || !slices.Contains(kinds, kind), path, "is one too many, there is %s already; make two secrets of it", given)
			given = kind
		}
	}
	k.unless(given != "", at, "does not say what to read; give it %s", alternatives(kinds))
	k.unless(given != "credential" || s.Credential != "", at+".credential", "is empty")
	k.unless(given != "info" || s.Info != "", at+".info", "is empty")
	k.unless(given != "secret" || s.Secret != "", at+".secret", "is empty")
	k.unless(given != "application" || s.Application, at+".application", "want true; it reads what the authorized application has")
}

package config

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// typeFields says which upstream types have the fields that not all have.
var typeFields = map[string][]string{
	"auth":            {CipherTrust, Senhasegura, ManPKI, OAuth2},
	"domain":          {CipherTrust},
	"account_id":      {Manager},
	"register_method": {Manager},
	"profile":         {ManPKI},
	"token_url":       {OAuth2},
	"revocation_url":  {OAuth2},
	"timezone":        {Senhasegura},
	"decryption_key":  {Senhasegura},
	"decryption_hash": {Senhasegura},
}

// A grantFields says which fields of auth a grant has, and which it needs.
type grantFields struct{ needs, may []string }

// grants are those of each type. A type without a grant of its own has one
// named "".
var grants = map[string]map[string]grantFields{
	CipherTrust: {
		// Without a password, `signet login` gives the first refresh token.
		GrantPassword:         {nil, []string{"username", "password", "connection", "auth_domain", "client_id", "refresh_token_lifetime", "refresh_token_idle"}},
		GrantRefreshToken:     {[]string{"refresh_token"}, []string{"client_id", "refresh_token_lifetime", "refresh_token_idle"}},
		GrantUserCertificate:  {nil, []string{"client_id", "refresh_token_lifetime", "refresh_token_idle"}},
		GrantClientCredential: {[]string{"client_id"}, nil},
	},
	Senhasegura: {
		GrantClientCredentials: {[]string{"client_id", "client_secret"}, []string{"method", "scopes"}},
		GrantOAuth1:            {[]string{"consumer_key", "consumer_secret", "token", "token_secret"}, nil},
		GrantURLToken:          {[]string{"consumer_key", "token"}, nil},
	},
	ManPKI: {
		"": {[]string{"username", "password"}, nil},
	},
	OAuth2: {
		GrantClientCredentials: {[]string{"client_id"}, []string{"client_secret", "method", "scopes", "audience"}},
		GrantPassword:          {[]string{"username", "password"}, []string{"client_id", "client_secret", "method", "scopes", "audience"}},
		GrantRefreshToken:      {[]string{"client_id"}, []string{"refresh_token", "client_secret", "method", "scopes", "audience"}},
	},
}

func (k *checker) upstream(at, name string, u Upstream) {
	k.name(at, name)
	types := []string{CipherTrust, Senhasegura, Manager, ManPKI, OAuth2}
	if !k.unless(u.Type != "", at+".type", "missing; want %s", alternatives(types)) {
		return
	}
	if k.oneOf(at+".type", u.Type, types...); !slices.Contains(types, u.Type) {
		return
	}
	for field := range sortedKeys(typeFields) {
		has := typeFields[field]
		k.unless(!k.has(at+"."+field) || slices.Contains(has, u.Type), at+"."+field,
			"is not a field of %s upstream, only of %s; remove it", a(u.Type), alternatives(has))
	}
	if u.URL != "" {
		k.httpsURL(at+".url", u.URL, false)
	} else {
		k.unless(u.Type == OAuth2, at+".url", "missing; write it like https://HOST")
	}
	k.absolute(at+".ca_file", u.CAFile)
	k.positive(at+".timeout", u.Timeout)
	k.upstreamIdentity(at+".identity", name, u)
	k.byType(at, u)
	if grants[u.Type] != nil {
		k.auth(at, u)
	}
}

func (k *checker) byType(at string, u Upstream) {
	switch u.Type {
	case Manager:
		k.unless(u.AccountID > 0, at+".account_id", "missing; it is the number of the account that the administrator made for this host")
	case OAuth2:
		if k.unless(u.TokenURL != "", at+".token_url", "missing; it is the whole URL of the token endpoint") {
			k.httpsURL(at+".token_url", u.TokenURL, true)
		}
		if u.RevocationURL != "" {
			k.httpsURL(at+".revocation_url", u.RevocationURL, true)
		}
	case Senhasegura:
		if u.Timezone != "" {
			_, err := time.LoadLocation(u.Timezone)
			k.unless(err == nil, at+".timezone", "%q is not a time zone; write it like Europe/Berlin", clip(u.Timezone))
		}
		k.source(at+".decryption_key", u.DecryptionKey, false)
		k.oneOf(at+".decryption_hash", u.DecryptionHash, "sha1", "sha256")
		k.unless(u.DecryptionHash == "" || !u.DecryptionKey.IsZero(), at+".decryption_hash", "says nothing without decryption_key; remove it")
	}
}

// upstreamIdentity checks the client certificate that is presented.
func (k *checker) upstreamIdentity(at, name string, u Upstream) {
	if u.Identity == "" {
		return
	}
	id, ok := k.c.Identities[u.Identity]
	if !k.unless(ok, at, "there is no identity %q; %s", clip(u.Identity), guess(u.Identity, k.c.Identities)) {
		return
	}
	k.unless(u.Type != Manager || id.Issuer == name, at, "a manager knows only the identity that it issues itself; remove it")
}

func (k *checker) auth(at string, u Upstream) {
	grant := u.Auth.Grant
	known := grants[u.Type]
	at += ".auth"
	if !k.unless(k.has(at), at, "missing; it says how to log in") {
		return
	}
	rules, ok := known[grant]
	if !ok {
		words := slices.Sorted(maps.Keys(known))
		switch {
		case u.Type == ManPKI:
			k.unless(false, at+".grant", "a manpki upstream has no grants; remove it")
			return
		case grant == "":
			k.unless(false, at+".grant", "missing; want %s", alternatives(words))
			return
		}
		k.unless(false, at+".grant", "%q is no grant of %s upstream; want %s", clip(grant), a(u.Type), alternatives(words))
		return
	}
	with := a(u.Type) + " upstream"
	if grant != "" {
		with = "the grant " + grant
	}
	for _, field := range authFields {
		path := at + "." + field
		allowed := slices.Contains(rules.needs, field) || slices.Contains(rules.may, field)
		k.unless(allowed || !k.has(path), path, "is not used with %s; remove it", with)
		if slices.Contains(rules.needs, field) {
			hint := "give it"
			if slices.Contains(secretFields, field) {
				hint = sourceForms
			}
			k.unless(k.has(path), path, "missing, %s needs it; %s", with, hint)
		}
	}
	k.authValues(at, u)
}

// authFields are the keys of Auth but for grant, secretFields those of them
// that are Sources.
var (
	authFields = []string{"method", "client_id", "client_secret", "scopes", "audience", "username", "password",
		"connection", "auth_domain", "refresh_token", "refresh_token_lifetime", "refresh_token_idle",
		"consumer_key", "consumer_secret", "token", "token_secret"}
	secretFields = []string{"client_secret", "password", "refresh_token", "consumer_secret", "token_secret"}
)

func (k *checker) authValues(at string, u Upstream) {
	a := u.Auth
	k.source(at+".client_secret", a.ClientSecret, false)
	k.source(at+".password", a.Password, false)
	k.source(at+".refresh_token", a.RefreshToken, false)
	k.source(at+".consumer_secret", a.ConsumerSecret, false)
	k.source(at+".token_secret", a.TokenSecret, false)
	if a.Token.Text == "" {
		k.source(at+".token", a.Token.Source, false)
	}
	k.unless(a.Token.Text == "" || a.Grant != GrantURLToken, at+".token", "a secret cannot be written into this file; "+sourceForms)
	k.unless(a.Password.IsZero() || a.Username != "", at+".username", "missing; the password has to be somebody's")
	k.positive(at+".refresh_token_lifetime", a.RefreshTokenLifetime)
	k.positive(at+".refresh_token_idle", a.RefreshTokenIdle)
	k.unless(!a.RefreshTokenIdle.Set || a.RefreshIdle() <= a.RefreshLifetime(), at+".refresh_token_idle", "is longer than refresh_token_lifetime; make it shorter")
	k.clientProof(at, u)
}

// clientProof checks how the client shows who it is.
func (k *checker) clientProof(at string, u Upstream) {
	a := u.Auth
	switch u.Type {
	case Senhasegura:
		k.oneOf(at+".method", a.Method, "client_secret_basic", "client_secret_post")
	case OAuth2:
		k.oneOf(at+".method", a.Method, "client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth")
		switch a.Method {
		case "private_key_jwt", "tls_client_auth":
			k.unless(u.Identity != "", parent(at)+".identity", "missing, the method %s needs it", a.Method)
			k.unless(a.ClientSecret.IsZero(), at+".client_secret", "is not used with the method %s; remove it", a.Method)
		default:
			k.unless(!a.ClientSecret.IsZero() || a.Grant != GrantClientCredentials, at+".client_secret", "missing; "+sourceForms)
		}
	case CipherTrust:
		needs := a.Grant == GrantUserCertificate || a.Grant == GrantClientCredential
		k.unless(!needs || u.Identity != "", parent(at)+".identity", "missing, the grant %s logs in by client certificate", a.Grant)
	}
}

// cycles looks for identities that wait for each other: to be issued by an
// upstream that lets nobody in without the identity itself. A manager is told
// apart by its one-time credentials.
func (k *checker) cycles() {
	for name := range sortedKeys(k.c.Identities) {
		var way []string
		for cur := name; cur != ""; {
			way = append(way, cur)
			up, ok := k.c.Upstreams[k.c.Identities[cur].Issuer]
			if !ok || up.Type == Manager {
				break
			}
			if cur = up.Identity; slices.Contains(way, cur) {
				k.unless(cur != name, join("identities", name)+".issuer",
					"%s needs itself to be issued: %s; let its issuer do without identity", name, strings.Join(append(way, cur), " -> "))
				break
			}
		}
	}
}

package config

import (
	"errors"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/signet-agent/signet/internal/access"
)

func (k *checker) rule(at string, r Rule) {
	c := r.Callers
	k.unless(len(c.Users)+len(c.Groups)+len(c.Units) > 0, at+".callers", "names nobody; want users, groups or units")
	for i, unit := range c.Units {
		k.unit(index(at+".callers.units", i), unit)
	}
	for i, u := range c.Users {
		k.unless(u != "", index(at+".callers.users", i), "is empty")
	}
	for i, g := range c.Groups {
		k.unless(g != "", index(at+".callers.groups", i), "is empty")
	}
	a, at := r.Allow, at+".allow"
	k.unless(k.has(at), at, "missing; want secrets, certificates, keys, tokens, proxy, metrics or admin")
	allowed(k, at+".secrets", a.Secrets, "secret", k.c.Secrets)
	allowed(k, at+".certificates", a.Certificates, "certificate", k.certificatesAndIdentities())
	allowed(k, at+".tokens", a.Tokens, "upstream", k.c.Upstreams)
	for name := range sortedKeys(a.Keys) {
		k.keyRule(join(at+".keys", name), name, a.Keys[name])
	}
	for name := range sortedKeys(a.Proxy) {
		k.proxyRule(join(at+".proxy", name), name, a.Proxy[name])
	}
}

// allowed checks that each name is one that there is, or "*".
func allowed[V any](k *checker, at string, list []string, what string, known map[string]V) {
	for i, name := range list {
		_, ok := known[name]
		k.unless(ok || name == "*", index(at, i), "there is no %s %q; %s", what, clip(name), guess(name, known))
	}
}

func (k *checker) certificatesAndIdentities() map[string]Issuance {
	all := map[string]Issuance{}
	for name, c := range k.c.Certificates {
		all[name] = c.Issuance
	}
	for name, id := range k.c.Identities {
		all[name] = id.Issuance
	}
	return all
}

func (k *checker) keyRule(at, name string, verbs []string) {
	known := k.certificatesAndIdentities()
	i, ok := known[name]
	if name == auditKey { // signs the audit and nothing else
		ok = true
		k.unless(!slices.Contains(verbs, "sign"), at, "the key of the audit signs nothing else; want [read]")
	}
	k.unless(ok || name == "*", at, "there is no identity or certificate %q that a key is named after; %s", clip(name), guess(name, known))
	k.unless(!i.Key.InFile() || !slices.Contains(verbs, "sign"), at, "the key of %q is in a file and not in the HSM; nothing can be signed with it here", name)
	k.unless(len(verbs) > 0, at, "allows nothing; want [sign] or [read]")
	for n, verb := range verbs {
		k.oneOf(index(at, n), or(verb, `""`), "sign", "read")
	}
}

func (k *checker) proxyRule(at, name string, patterns []string) {
	u, ok := k.c.Upstreams[name]
	k.unless(ok || name == "*", at, "there is no upstream %q; %s", clip(name), guess(name, k.c.Upstreams))
	k.unless(!ok || u.URL != "", at, "upstream %q has no url to forward to", name)
	k.unless(len(patterns) > 0, at, "allows nothing; want patterns like \"GET /api/*\"")
	for i, p := range patterns {
		_, err := access.ParsePattern(p)
		k.unless(err == nil, index(at, i), "%v; write it like \"GET /api/*\"", err)
	}
}

// host checks what only the host knows, and the version of the agent on it.
func (k *checker) host() {
	for name := range sortedKeys(k.c.Upstreams) {
		kind := k.c.Upstreams[name].Type
		k.unless(kind == "" || slices.Contains(served, kind), join("upstreams", name)+".type",
			"%q is not served by this version; remove the upstream and what uses it", kind)
	}
	for i, r := range k.c.Policy {
		at := index("policy", i) + ".callers"
		for n, u := range r.Callers.Users {
			k.user(index(at+".users", n), u)
		}
		for n, g := range r.Callers.Groups {
			k.group(index(at+".groups", n), g)
		}
	}
	for i, f := range k.c.Files {
		at := index("files", i)
		k.label(at, f.Access)
		for name := range sortedKeys(f.Entries) {
			k.label(join(at+".entries", name), f.Entries[name].Access)
		}
	}
}

func (k *checker) label(at string, a Access) {
	if a.SELinux != "" {
		_, err := os.Stat("/sys/fs/selinux/enforce")
		k.unless(err == nil, at+".selinux", "SELinux is not enabled on this host, so that nobody would heed the label; remove it")
	}
}

// user accepts any number, which is a uid whether somebody has it or not, and
// refuses a name that is sure not to exist. That the question cannot be
// answered now is not the configuration's fault.
func (k *checker) user(at, name string) {
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return
	}
	_, err := user.Lookup(name)
	_, unknown := errors.AsType[user.UnknownUserError](err)
	k.unless(!unknown, at, "there is no user %q on this host; create it or correct the name", clip(name))
}

func (k *checker) group(at, name string) {
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return
	}
	_, err := user.LookupGroup(name)
	_, unknown := errors.AsType[user.UnknownGroupError](err)
	k.unless(!unknown, at, "there is no group %q on this host; create it or correct the name", clip(name))
}

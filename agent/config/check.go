package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/signet-agent/signet/internal/tokenuri"
)

// A checker looks for what is wrong with a Config that could be decoded. It
// goes on after a fault in one place, but says no more of that place.
type checker struct {
	c    *Config
	d    *decoder
	said map[string]bool
	// around are the places that hold one which could not be decoded. What
	// seems to be missing there is probably there, and misspelt.
	around map[string]bool
}

func newChecker(c *Config, d *decoder) *checker {
	k := &checker{c: c, d: d, said: map[string]bool{}, around: map[string]bool{}}
	for _, f := range d.faults {
		k.said[f.Path] = true
		for p := parent(f.Path); p != ""; p = parent(p) {
			k.around[p] = true
		}
	}
	return k
}

// unless records a fault if ok is false. The format may have a hint after "; ".
func (k *checker) unless(ok bool, path, format string, args ...any) bool {
	if !ok && !k.said[path] && !k.around[path] {
		k.said[path] = true
		// Cut by a mark that no argument has: a value may hold "; " itself.
		text := fmt.Sprintf(strings.Replace(format, "; ", "\x00", 1), args...)
		what, hint, _ := strings.Cut(text, "\x00")
		k.d.fault(path, what, hint)
	}
	return ok
}

// has reports whether the file says anything at path.
func (k *checker) has(path string) bool { return k.d.places[path].line != 0 }

func (k *checker) all() {
	c := k.c
	k.absolute("state_dir", c.StateDir)
	k.absolute("runtime_dir", c.RuntimeDir)
	k.tokens()
	for name := range sortedKeys(c.Upstreams) {
		k.upstream(join("upstreams", name), name, c.Upstreams[name])
	}
	for name := range sortedKeys(c.Identities) {
		k.identity(join("identities", name), name, c.Identities[name])
	}
	k.accounts()
	for name := range sortedKeys(c.Secrets) {
		k.secret(join("secrets", name), name, c.Secrets[name])
	}
	for name := range sortedKeys(c.Certificates) {
		k.certificate(join("certificates", name), name, c.Certificates[name])
	}
	k.cycles()
	k.files()
	k.sockets()
	for i, r := range c.Policy {
		k.rule(index("policy", i), r)
	}
	k.absolute("audit.file", c.Audit.File)
	k.oneOf("audit.on_failure", c.Audit.OnFailure, "refuse", "allow")
	k.unless(c.Audit.MaxMiB >= 0, "audit.max_mib", "is negative")
	k.unless(c.Audit.Keep >= 0, "audit.keep", "is negative")
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
}

func (k *checker) tokens() {
	if !k.unless(len(k.c.HSM) > 0, "hsm", "missing; name the PKCS#11 module, token and pin that keep the keys") {
		return
	}
	list := k.has("hsm[0]")
	seen := map[string]bool{}
	for i, h := range k.c.HSM {
		at := "hsm"
		if list {
			at = index("hsm", i)
		}
		if len(k.c.HSM) > 1 {
			k.unless(h.Name != "", at+".name", "missing; every token of a list has a name")
			k.unless(!seen[h.Name], at+".name", "%q is taken by an earlier token", h.Name)
			seen[h.Name] = true
		}
		if h.Name != "" {
			k.name(at+".name", h.Name)
		}
		k.token(at, h)
	}
}

func (k *checker) token(at string, h HSM) {
	u, read := k.tokenURI(at+".uri", h.URI)
	k.absolute(at+".module", h.Module)
	k.unless(h.Module != "" || u.Module != "" || !read, at+".module", "missing; the path of the vendor's PKCS#11 library")
	k.unless(h.Module == "" || u.Module == "" || h.Module == u.Module, at+".module", "the uri has another module-path; keep one of them")
	if h.URI != "" {
		k.unless(h.Label == "" && h.Serial == "", at+".uri", "cannot be given together with token or serial; put them into the URI")
	} else {
		k.unless(h.Label != "" || h.Serial != "", at+".token", "missing; it is the label that `pkcs11-tool -L` shows")
	}
	k.unless(len(h.Label) <= tokenuri.MaxLabel, at+".token", "%d bytes are too long; a label has %d at most", len(h.Label), tokenuri.MaxLabel)
	k.unless(len(h.Serial) <= tokenuri.MaxSerial, at+".serial", "%d bytes are too long; a serial number has %d at most", len(h.Serial), tokenuri.MaxSerial)
	k.source(at+".pin", h.PIN, u.PINFile == "" && read)
	k.unless(h.PIN.IsZero() || u.PINFile == "", at+".pin", "the uri has a pin-source already; keep one of them")
	k.absolute(at+".worker", h.Worker)
	k.positive(at+".timeout", h.Timeout)
	k.unless(h.Sessions == 0 || h.Sessions >= 4 && h.Sessions <= 1024, at+".sessions", "%d is not between 4 and 1024", h.Sessions)
	k.oneOf(at+".sandbox", h.Sandbox, "on", "off")
	k.oneOf(at+".audit", h.Audit, "strict", "lenient")
}

// tokenURI reads a URI as the HSM will. What it may have held is not missed if it
// could not be read.
func (k *checker) tokenURI(at, uri string) (u tokenuri.URI, read bool) {
	if uri == "" {
		return u, true
	}
	u, err := tokenuri.Parse(uri)
	if !k.unless(err == nil, at, "%v", err) {
		return u, false
	}
	k.unless(u.Chooses(), at, "does not say which token; write it like pkcs11:token=LABEL")
	return u, true
}

func (k *checker) sockets() {
	c := k.c
	k.absolute("socket.path", c.Socket.Path)
	k.mode("socket.mode", c.Socket.Mode)
	k.unless(len(c.SocketPath()) <= 107, "socket.path", "is longer than the 107 bytes that a socket's path may have")
	k.unless(c.Socket.RateLimit.PerSecond >= 0, "socket.rate_limit.per_second", "is negative")
	k.unless(c.Socket.RateLimit.Burst >= 0, "socket.rate_limit.burst", "is negative")
	k.unless(c.Socket.RateLimit.Burst == 0 || c.Socket.RateLimit.PerSecond > 0, "socket.rate_limit.per_second", "missing; a burst alone limits nothing")
	k.absolute("credentials_socket.path", c.CredentialsSocket.Path)
	k.unless(len(c.CredentialsSocket.Path) <= 107, "credentials_socket.path", "is longer than the 107 bytes that a socket's path may have")
	k.unless(c.CredentialsSocket.Path != "" || !k.has("credentials_socket.wait"), "credentials_socket.path", "missing; without it no credentials are served")
	k.unless(c.CredentialsSocket.Path == "" || c.CredentialsSocket.Path != c.SocketPath(), "credentials_socket.path", "is the same as that of socket")
}

// absolute allows the empty path.
func (k *checker) absolute(at, path string) {
	if path != "" {
		k.unless(filepath.IsAbs(path), at, "%q is not an absolute path; begin it with /", clip(path))
	}
}

func (k *checker) oneOf(at, got string, want ...string) {
	if got != "" {
		k.unless(slices.Contains(want, got), at, "%q is not known here; want %s", clip(got), alternatives(want))
	}
}

func (k *checker) positive(at string, d Duration) {
	k.unless(!d.Set || d.Duration > 0, at, "must be more than 0")
}

var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// name checks what becomes part of a URL path, of a label of a key, and of the
// name of a systemd credential.
func (k *checker) name(at, name string) {
	k.unless(names.MatchString(name), at, "%q is not a name; want at most 64 letters, digits, and . _ - after the first", clip(name))
}

func (k *checker) mode(at string, m Mode) {
	if m == "" {
		return
	}
	n, err := strconv.ParseUint(string(m), 8, 32)
	k.unless(err == nil && n <= 0o777, at, "%q is not a file mode; write it in octal, like \"0640\"", clip(string(m)))
}

// source checks a Source that may be left out only if it is not required.
func (k *checker) source(at string, s Source, required bool) {
	n := 0
	for _, given := range []string{s.File, s.Credential, s.Env} {
		if given != "" {
			n++
		}
	}
	switch {
	case n == 0:
		k.unless(!required && !k.has(at), at, "missing; "+sourceForms)
	case n > 1:
		k.unless(false, at, "has more than one source; "+sourceForms)
	}
	k.absolute(at+".file", s.File)
	k.unless(!strings.ContainsAny(s.Credential, "/\x00") && !strings.HasPrefix(s.Credential, "."), at+".credential", "%q is not the name of a systemd credential", clip(s.Credential))
	k.unless(!strings.ContainsAny(s.Env, "=\x00"), at+".env", "%q is not the name of an environment variable", clip(s.Env))
}

// address checks HOST:PORT.
func (k *checker) address(at, addr string) {
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	k.unless(err == nil && host != "" && perr == nil && n > 0, at, "%q is not an address; write it as HOST:PORT", clip(addr))
}

// httpsURL checks a URL, and that it is one of a server only unless it may have
// a path.
func (k *checker) httpsURL(at, text string, path bool) {
	u, err := url.Parse(text)
	if !k.unless(err == nil && u.Host != "" && u.Hostname() != "", at, "%q is not a URL; write it like https://HOST", clip(redact(text))) {
		return
	}
	if !k.unless(u.Scheme != "http", at, "http is not encrypted; write https://%s", u.Host) {
		return
	}
	k.unless(u.Scheme == "https", at, "%q is not a scheme that is used here; write https://%s", u.Scheme, u.Host)
	k.unless(u.User == nil, at, "has a user name or password in it; remove them, see auth")
	k.unless(u.RawQuery == "" && u.Fragment == "", at, "has a query or fragment; remove it")
	k.unless(path || u.Path == "" || u.Path == "/", at, "has a path, want scheme and host only; write https://%s", u.Host)
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		k.unless(err == nil && n > 0, at, "port %s does not exist", port)
	}
}

// redact keeps a password in a URL that could not be parsed out of the report.
func redact(text string) string {
	if i := strings.LastIndex(text, "@"); i >= 0 {
		return "..." + text[i:]
	}
	return text
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// a puts the article before a type of upstream.
func a(upstream string) string {
	if upstream == OAuth2 {
		return "an " + upstream
	}
	return "a " + upstream
}

func alternatives(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func sortedKeys[V any](m map[string]V) func(func(string) bool) {
	return slices.Values(slices.Sorted(maps.Keys(m)))
}

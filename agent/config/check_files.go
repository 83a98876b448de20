package config

import (
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/signet-agent/signet/internal/itemref"
)

var (
	secretFormats      = []string{"raw", "json", "env"}
	certificateFormats = []string{"pem-bundle", "pem-bundle-key-first", "pem-chain", "pem-key", "pkcs12"}
	signals            = []string{"HUP", "USR1", "USR2", "INT", "TERM", "WINCH"}
)

func (k *checker) files() {
	targets := map[string]string{}
	for i, f := range k.c.Files {
		at := index("files", i)
		if f.Target() != "" {
			clean := filepath.Clean(f.Target())
			k.unless(targets[clean] == "", at, "%q is written by %s already; keep one of them", clean, targets[clean])
			targets[clean] = at
		}
		k.file(at, f)
	}
	for target, at := range targets {
		for dir := filepath.Dir(target); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			outer, ok := targets[dir]
			k.unless(!ok, at, "%q lies in the directory of the set %s, which is replaced as a whole", target, outer)
		}
	}
}

func (k *checker) file(at string, f File) {
	switch {
	case k.has(at+".path") && k.has(at+".dir"):
		k.unless(false, at, "has both path and dir; make two of it")
	case k.has(at + ".dir"):
		k.set(at, f)
	default:
		if k.unless(f.Path != "", at+".path", "missing; a file has a path, or a set of files a dir") {
			k.absolute(at+".path", f.Path)
			k.unless(!strings.HasSuffix(f.Path, "/"), at+".path", "is a directory; for a set of files use dir")
			k.clean(at+".path", f.Path)
		}
		k.content(at, f.Content)
		k.unless(!k.has(at+".entries"), at+".entries", "is for a set of files, with dir")
		k.unless(!k.has(at+".keep"), at+".keep", "is for a set of files, with dir")
	}
	k.access(at, f.Access)
	k.oneOf(at+".in_place", f.InPlace, "write", "refuse")
	k.unless(len(f.Test) == 0 || f.Test[0] != "", at+".test", "names no command")
	k.reload(at+".reload", f)
	k.prove(at, f)
}

// clean refuses a path with "//", "/./" or ".." in it.
func (k *checker) clean(at, path string) {
	clean := filepath.Clean(path)
	k.unless(path == "" || path == clean, at, "%q is not the shortest way to write it; write %q", clip(path), clip(clean))
}

func (k *checker) set(at string, f File) {
	k.absolute(at+".dir", f.Dir)
	k.clean(at+".dir", f.Dir)
	k.unless(filepath.Clean(f.Dir) != "/", at+".dir", "is the whole file system; give the set a directory of its own")
	for _, field := range []string{"secret", "certificate", "field", "format", "template", "password"} {
		k.unless(!k.has(at+"."+field), at+"."+field, "belongs into one of the entries")
	}
	k.unless(!k.has(at+".keep") || f.Keep >= 1 && f.Keep <= 100, at+".keep", "%d is not between 1 and 100", f.Keep)
	if !k.unless(len(f.Entries) > 0, at+".entries", "missing; a set has files, each as NAME: {certificate: .., format: ..}") {
		return
	}
	for name := range sortedKeys(f.Entries) {
		e := join(at+".entries", name)
		k.unless(name != "." && name != ".." && name == path.Base(name) && !strings.ContainsAny(name, "/\x00") && len(name) <= 255,
			e, "%q is not the name of a file", clip(name))
		k.content(e, f.Entries[name].Content)
		k.access(e, f.Entries[name].Access)
	}
}

// content checks what is in one file.
func (k *checker) content(at string, c Content) {
	switch {
	case c.Secret != "" && c.Certificate != "":
		k.unless(false, at, "has both a secret and a certificate; make two files of it, or a template")
		return
	case c.Secret != "":
		_, ok := k.c.Secrets[c.Secret]
		k.unless(ok, at+".secret", "there is no secret %q; %s", clip(c.Secret), guess(c.Secret, k.c.Secrets))
		k.secretContent(at, c)
	case c.Certificate != "":
		k.certificateContent(at, c)
	default:
		k.unless(c.Template != "", at, "has nothing in it; name a secret or a certificate")
	}
	if c.Template != "" {
		k.unless(c.Format == "", at+".format", "is not used with a template; remove it")
		k.template(at+".template", c)
	}
	container := c.Format == "pkcs12"
	k.source(at+".password", c.Password, container)
	k.unless(container || c.Password.IsZero(), at+".password", "is for the format pkcs12; remove it")
}

func (k *checker) secretContent(at string, c Content) {
	k.oneOf(at+".format", c.Format, secretFormats...)
	k.unless(c.Template == "" || c.Field == "", at+".field", "is not used with a template; write {{ .fields.%s }} in it", c.Field)
	// Of others it is not known here whether they have one field or several.
	several := k.c.Secrets[c.Secret].Credential != ""
	raw := c.Format == "" || c.Format == "raw"
	k.unless(!raw || !several || c.Field != "" || c.Template != "", at+".field", "missing; name the field to write, or use format: json or env")
}

// certificateContent checks the certificate of a file. That of an identity may
// be delivered too, but never its key.
func (k *checker) certificateContent(at string, c Content) {
	cert, ok := k.c.Certificates[c.Certificate]
	id, isIdentity := k.c.Identities[c.Certificate]
	k.unless(ok || isIdentity, at+".certificate", "there is no certificate %q; %s", clip(c.Certificate), guess(c.Certificate, k.c.Certificates))
	k.unless(c.Field == "", at+".field", "is for secrets; remove it")
	if c.Format == "jks" {
		k.unless(false, at+".format", "jks is not written; use pkcs12, which Java 8u301 and later read as a key store")
		return
	}
	if k.oneOf(at+".format", c.Format, certificateFormats...); c.Template != "" || !ok && !isIdentity {
		return
	}
	inFile := cert.Key.InFile() || id.Key.InFile()
	k.unless(inFile || c.Format == "pem-chain" || !slices.Contains(append(certificateFormats, ""), c.Format), at+".format",
		"the key of %q is in the HSM and cannot be written to a file; use format: pem-chain, or key: {store: file}", c.Certificate)
}

// templateFunctions are those that sinks/files gives to templates, and the
// builtin ones.
var templateFunctions = []string{"secret", "certificate", "base64", "json", "env", "url", "indent",
	"and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf", "println", "urlquery", "eq", "ge", "gt", "le", "lt", "ne"}

// template checks the syntax, the functions and the items that it names. Which
// fields there are is known when it is executed.
func (k *checker) template(at string, c Content) {
	t := parse.New("template")
	t.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	if _, err := t.Parse(c.Template, "", "", trees); err != nil {
		k.unless(false, at, "%s", strings.TrimPrefix(firstLine(err.Error()), "template: "))
		return
	}
	refs, functions, err := itemref.Find(trees)
	if err != nil {
		k.unless(false, at, "%v", err)
		return
	}
	for _, f := range functions {
		k.unless(slices.Contains(templateFunctions, f), at, "there is no function %q; want %s", clip(f), alternatives(templateFunctions[:7]))
	}
	for _, r := range refs {
		if r.Kind == itemref.Secret {
			_, ok := k.c.Secrets[r.Name]
			k.unless(ok, at, "there is no secret %q; %s", clip(r.Name), guess(r.Name, k.c.Secrets))
			continue
		}
		_, ok := k.c.Certificates[r.Name]
		_, isIdentity := k.c.Identities[r.Name]
		k.unless(ok || isIdentity, at, "there is no certificate %q; %s", clip(r.Name), guess(r.Name, k.c.Certificates))
	}
	k.unless(c.Secret != "" || c.Certificate != "" || len(refs) > 0, at, "names no item; write {{ secret \"NAME\" \"FIELD\" }} in it")
}

func (k *checker) access(at string, a Access) {
	k.mode(at+".mode", a.Mode)
	k.account(at+".owner", a.Owner)
	k.account(at+".group", a.Group)
	for i, e := range a.ACL {
		parts := strings.Split(e, ":")
		ok := len(parts) == 3 && slices.Contains([]string{"u", "g", "user", "group"}, parts[0]) && parts[1] != "" &&
			parts[2] != "" && strings.Trim(parts[2], "rwx-") == ""
		if k.unless(ok, index(at+".acl", i), "%q is not an ACL entry; write it like u:app:r", clip(e)) {
			k.account(index(at+".acl", i), parts[1])
		}
	}
}

// account refuses the number that is nobody's: to the kernel it is "no change".
func (k *checker) account(at, name string) {
	n, err := strconv.ParseUint(name, 10, 64)
	k.unless(err != nil || n < 1<<32-1, at, "%q is no number of a user or group; the highest is 4294967294", clip(name))
}

func (k *checker) reload(at string, f File) {
	r := f.Reload
	ways := []string{}
	for _, way := range []string{"unit", "exec", "signal", "haproxy", "redis"} {
		if k.has(at + "." + way) {
			ways = append(ways, way)
		}
	}
	k.unless(len(ways) <= 1, at, "has more than one way: %s; keep one", strings.Join(ways, ", "))
	k.unless(len(ways) > 0 || !k.has(at), at, "has no way; want unit, exec, signal, haproxy or redis")
	k.positive(at+".timeout", r.Timeout)
	if r.Unit != "" {
		k.unit(at+".unit", r.Unit)
	}
	if k.has(at + ".exec") {
		k.unless(len(r.Exec) > 0 && r.Exec[0] != "", at+".exec", "names no command; write it as [COMMAND, ARGUMENT, ..]")
	}
	if k.has(at + ".signal") {
		k.unless(r.Signal.PIDFile != "", at+".signal.pid_file", "missing; it is the file with the process number")
		k.absolute(at+".signal.pid_file", r.Signal.PIDFile)
		k.absolute(at+".signal.program", r.Signal.Program)
		k.oneOf(at+".signal.signal", strings.TrimPrefix(r.Signal.Signal, "SIG"), signals...)
	}
	if k.has(at + ".haproxy") {
		k.unless(r.HAProxy.Socket != "", at+".haproxy.socket", "missing; it is the path of the admin socket")
		k.absolute(at+".haproxy.socket", r.HAProxy.Socket)
		k.unless(f.Dir == "" || r.HAProxy.Cert != "", at+".haproxy.cert", "missing; a set has several files, name the one that HAProxy reads")
	}
	if k.has(at + ".redis") {
		k.redis(at+".redis", f)
	}
}

func (k *checker) redis(at string, f File) {
	r := f.Reload.Redis
	if k.unless(r.Address != "", at+".address", "missing; HOST:PORT, or the path of a socket") && !filepath.IsAbs(r.Address) {
		k.address(at+".address", r.Address)
	}
	k.absolute(at+".ca_file", r.CAFile)
	k.source(at+".password", r.Password, false)
	k.unless(f.Dir == "" || r.CertFile != "" && r.KeyFile != "", at, "a set has several files; give cert_file and key_file")
}

func (k *checker) prove(at string, f File) {
	p := f.Prove
	if at += ".prove"; !k.has(at) {
		return
	}
	if k.unless(p.TLS != "", at+".tls", "missing; the address to connect to, as HOST:PORT") {
		k.address(at+".tls", p.TLS)
	}
	has := f.Certificate != ""
	for _, e := range f.Entries {
		has = has || e.Certificate != ""
	}
	k.unless(has, at, "compares a served certificate, and there is none here; remove it")
	k.oneOf(at+".starttls", p.StartTLS, "none", "postgres", "smtp", "imap")
	k.positive(at+".within", p.Within)
	k.unless(p.Connections >= 0 && p.Connections <= 1000, at+".connections", "%d is not between 1 and 1000", p.Connections)
}

// unitCharacters are what the name of a unit may have.
const unitCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"

// unit checks the name of a systemd unit: one with a type at its end.
func (k *checker) unit(at, name string) {
	dot := strings.LastIndexByte(name, '.')
	types := []string{"service", "socket", "target", "scope", "slice", "mount", "timer", "path"}
	k.unless(dot > 0 && slices.Contains(types, name[dot+1:]) && strings.Trim(name, unitCharacters) == "", at,
		"%q is not a unit; write it in full, like app.service", clip(name))
}

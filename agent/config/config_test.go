package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// minimal is the least that a configuration needs.
const minimal = "hsm: {module: /m.so, token: signet, pin: {file: /pin}}\n"

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("signet.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// faultsOf are the paths of the faults in a configuration.
func faultsOf(err error) []string {
	var paths []string
	if e, ok := errors.AsType[*Errors](err); ok {
		for _, f := range e.Faults {
			paths = append(paths, f.Path)
		}
	}
	return paths
}

// TestExample holds that the documented example is a good configuration, and
// that it shows every key there is.
func TestExample(t *testing.T) {
	const file = "../../docs/signet.yaml"
	if _, err := Load(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, d := decode(file, data)
	shown := map[string]bool{}
	for path := range d.places {
		shown[path[strings.LastIndex(path, ".")+1:]] = true
		shown[generic(path)] = true
	}
	for _, key := range keysOf(reflect.TypeFor[Config](), "") {
		if !shown[key] {
			t.Errorf("docs/signet.yaml does not show %s", key)
		}
	}
}

// generic puts * in place of the names that the user chooses, and one place for
// the keys that two have in common: what an identity shows need not be shown
// with a certificate again.
func generic(path string) string {
	words := strings.Split(strings.NewReplacer("key.pem", "k", "cert.pem", "c", "key.p12", "p").Replace(path), ".")
	for i, w := range words {
		words[i], _, _ = strings.Cut(w, "[")
		if i == 1 && strings.Contains(" upstreams identities secrets certificates ", " "+words[0]+" ") || i == 2 && words[1] == "entries" {
			words[i] = "*"
		}
	}
	return strings.NewReplacer("identities.*", "certificates.*", "files.entries.*", "files").Replace(strings.Join(words, "."))
}

// keysOf are the keys of a struct and of all below it.
func keysOf(typ reflect.Type, at string) []string {
	switch typ.Kind() {
	case reflect.Slice:
		return keysOf(typ.Elem(), at)
	case reflect.Map:
		if typ.Elem().Kind() != reflect.Struct {
			return nil
		}
		return keysOf(typ.Elem(), at+".*")
	case reflect.Struct:
	default:
		return nil
	}
	if typ == reflect.TypeFor[Source]() || typ == reflect.TypeFor[TextOrSource]() {
		return nil // shown at the head of the file
	}
	var keys []string
	for f := range typ.Fields() {
		tag, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case opts == "inline":
			keys = append(keys, keysOf(f.Type, at)...)
		case tag != "":
			keys = append(keys, generic(join(at, tag)))
			keys = append(keys, keysOf(f.Type, join(at, tag))...)
		}
	}
	return keys
}

func TestDefaults(t *testing.T) {
	c := mustParse(t, minimal)
	h, _ := c.Token("")
	for _, tt := range []struct{ name, got, want string }{
		{"state", c.StatePath(), "/var/lib/signet"},
		{"runtime", c.RuntimePath(), "/run/signet"},
		{"socket", c.SocketPath(), "/run/signet/signet.sock"},
		{"audit", c.AuditPath(), "/var/lib/signet/audit.jsonl"},
		{"token", h.TokenName(), "default"},
		{"call timeout", h.CallTimeout().String(), "10s"},
		{"grace", Issuance{}.GraceTime().String(), "1h0m0s"},
		{"key", Key{}.KeyType(), "rsa-2048"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
	if !c.Audit.Refuses() {
		t.Error("an access that cannot be recorded is allowed by default")
	}
	if got := c.Socket.Mode.Or(0o666); got != 0o666 {
		t.Errorf("mode %o", got)
	}
}

// TestContractExample holds that the configuration of the design is accepted
// as it is printed there.
func TestContractExample(t *testing.T) {
	c, err := Load("testdata/contract.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Identities["host"].RotateEvery.Duration; got != 90*24*time.Hour {
		t.Errorf("rotate_every is %v", got)
	}
	if got := c.Secrets["db"].MaxStale.Or(0); got != 24*time.Hour {
		t.Errorf("max_stale is %v", got)
	}
	if got := c.Files[0].Mode.Or(0); got != 0o640 {
		t.Errorf("mode is %o", got)
	}
	if got := c.Files[0].Reload.Consumer(); got != "nginx.service" {
		t.Errorf("consumer is %q", got)
	}
	if got := c.Upstreams["oauth1"].Auth.Token.Text; got != "t0" {
		t.Errorf("oauth1 token is %q", got)
	}
}

// TestNamesLikePaths holds that names which together look like the paths of
// other things are names like all others.
func TestNamesLikePaths(t *testing.T) {
	c, err := Load("testdata/names.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{c.Secrets["db"].Secret, c.Secrets["db.secret"].Secret, c.Secrets["db.secret.ttl"].Secret}; !slices.Equal(got, []string{"x", "y", "z"}) {
		t.Errorf("secrets %q", got)
	}
	if got := c.Certificates["web.key.store"].DNSNames; !slices.Equal(got, []string{"b.example"}) {
		t.Errorf("certificate %q", got)
	}
	for name, want := range map[string]string{"a": "0600", "a.mode": "0640", "a.acl[0]": "0644"} {
		if got := c.Files[0].Entries[name].Mode; string(got) != want {
			t.Errorf("mode of %s is %q, want %s", name, got, want)
		}
	}
	if n := len(c.Files[0].Entries); n != 6 {
		t.Errorf("%d entries", n)
	}
}

// TestRelativeTimesAreHonoured holds that no time is clamped.
func TestRelativeTimesAreHonoured(t *testing.T) {
	c := mustParse(t, minimal+`
upstreams: {cm: {type: ciphertrust, url: "https://c.example", auth: {grant: password}}}
secrets:
  a: {upstream: cm, secret: x, ttl: 3s}
  b: {upstream: cm, secret: x, ttl: 3s, max_stale: 0s}
`)
	if got := c.Secrets["a"].TTL.Or(DefaultTTL); got != 3*time.Second {
		t.Errorf("ttl is %v", got)
	}
	if got := c.Secrets["b"].MaxStale.Or(DefaultMaxStale); got != 0 {
		t.Errorf("max_stale 0s is %v", got)
	}
}

// TestOwnKeys holds that the key of the audit can be shown and not used, and that
// nothing else takes the names of the agent's own keys.
func TestOwnKeys(t *testing.T) {
	mustParse(t, minimal+"policy: [{callers: {users: [root]}, allow: {keys: {audit: [read]}}}]\n")
	for _, bad := range []string{
		"policy: [{callers: {users: [root]}, allow: {keys: {audit: [sign]}}}]\n",
		"upstreams: {v: {type: manager, url: \"https://v.example\", account_id: 1}}\nidentities: {kek: {issuer: v}}\n",
		"upstreams: {v: {type: manager, url: \"https://v.example\", account_id: 1}}\nidentities: {audit: {issuer: v}}\n",
	} {
		if _, err := Parse("signet.yaml", []byte(minimal+bad)); err == nil {
			t.Errorf("passed: %s", bad)
		} else if !strings.Contains(err.Error(), "own") && !strings.Contains(err.Error(), "nothing else") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestAnchors(t *testing.T) {
	c := mustParse(t, minimal+`
upstreams:
  a: {type: senhasegura, url: "https://a.example", auth: &auth {grant: url_token, consumer_key: 0123, token: {env: T}}}
  b: {type: senhasegura, url: "https://b.example", auth: *auth}
`)
	if got := c.Upstreams["b"].Auth.ConsumerKey; got != "0123" {
		t.Errorf("consumer_key is %q, want it as written", got)
	}
}

// TestUnreadable holds that a file that cannot be opened is not told as a
// fault of its text.
func TestUnreadable(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	if _, isFaults := errors.AsType[*Errors](err); err == nil || isFaults {
		t.Errorf("got %v", err)
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v does not say that there is no such file", err)
	}
}

// TestCheckKnowsTheHost holds that a policy that names somebody who does not
// exist is refused, at the place where he is named; a label where there is no
// SELinux; and what others find.
func TestCheckKnowsTheHost(t *testing.T) {
	text := minimal + `
upstreams: {cm: {type: ciphertrust, url: "https://c.example", auth: {grant: password}}}
secrets: {db: {upstream: cm, secret: x}}
files:
  - {path: /x, secret: db, field: value}
  - {dir: /y, entries: {a.b: {secret: db, field: value}}}
  - {path: /z, secret: db, field: value, selinux: "system_u:object_r:cert_t:s0"}
policy:
  - callers: {users: [root, 4242, no-such-user-2], groups: [root, no-such-group-2]}
    allow: {secrets: [db]}
`
	_, _, err := Examine("signet.yaml", []byte(text), func(_ *Config, r *Report) {
		r.Fault("files[0].path", "is not liked")
		r.Fault("files[1].entries.\"a.b\"", "is not liked")
		r.Warning("files[1]", "is not nice")
	})
	label := "files[2].selinux "
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		label = ""
	}
	want := "files[0].path files[1].entries.\"a.b\" " + label + "policy[0].callers.users[2] policy[0].callers.groups[1]"
	if got := strings.Join(faultsOf(err), " "); got != want {
		t.Errorf("faults at %s\nwant      %s", got, want)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "signet.yaml:6:12: files[0].path: is not liked\n") {
		t.Errorf("no place in %v", err)
	}
}

// TestWarnings holds that a warning has its place, and is no fault.
func TestWarnings(t *testing.T) {
	_, warnings, err := Examine("signet.yaml", []byte(minimal+`
state_dir: /var/lib/x
`), func(_ *Config, r *Report) { r.Warning("state_dir", "is not nice") })
	if err != nil || len(warnings) != 1 || warnings[0].Error() != "signet.yaml:3:12: state_dir: is not nice" {
		t.Errorf("%v, %v", warnings, err)
	}
}

// TestExamineSaysAllAtOnce holds that what only the host knows, and what others
// find, is not kept back until the rest is in order; of what could not be read no
// more is said.
func TestExamineSaysAllAtOnce(t *testing.T) {
	sound := map[string]bool{}
	_, warnings, err := Examine("signet.yaml", []byte(minimal+`
state_dirs: /var/lib/x
upstreams:
  pki: {type: manpki, url: "https://pki.example", auth: {username: x, password: {file: /p}}}
  api: {type: {}, url: "https://api.example"}
  pam: {url: "https://pam.example"}
files: [{path: x, certificate: web}, {path: /y, template: '{{ secret "db" "x" }}'}]
policy: [{callers: {users: [no-such-user-2]}, allow: {admin: true}}, {callers: {users: {}}, allow: {admin: true}}]
`), func(c *Config, r *Report) {
		for _, path := range []string{"files[0]", "files[1]", "policy[0].callers", "policy[1].callers", "hsm"} {
			sound[path] = r.Sound(path)
		}
		r.Fault("upstreams.pki.ca_file", "is not liked")
		r.Warning("hsm", "is not nice")
	})
	want := "state_dirs upstreams.pki.ca_file upstreams.pki.type upstreams.api.type upstreams.pam.type files[0].path files[0].certificate files[1].template policy[0].callers.users[0] policy[1].callers.users"
	if got := strings.Join(faultsOf(err), " "); got != want {
		t.Errorf("faults at %s\nwant      %s\n%v", got, want, err)
	}
	if len(warnings) != 1 {
		t.Errorf("warnings: %v", warnings)
	}
	if sound["files[0]"] || sound["policy[0].callers"] || sound["policy[1].callers"] || !sound["hsm"] {
		t.Errorf("sound: %v", sound)
	}
}

func TestSource(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("SIGNET_TEST_SECRET", "from env")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write("hsm-pin", "from credential\n")
	for _, tt := range []struct {
		name string
		src  Source
		want string // "" for an error
	}{
		{"file", Source{File: write("a", "from file\n")}, "from file"},
		{"one newline only is cut", Source{File: write("b", "x\n\n")}, "x\n"},
		{"spaces are part of it", Source{File: write("c", " x ")}, " x "},
		{"credential", Source{Credential: "hsm-pin"}, "from credential"},
		{"environment", Source{Env: "SIGNET_TEST_SECRET"}, "from env"},
		{"empty file", Source{File: write("d", "\n")}, ""},
		{"no file", Source{File: filepath.Join(dir, "none")}, ""},
		{"no credential", Source{Credential: "none"}, ""},
		{"no variable", Source{Env: "SIGNET_TEST_NONE"}, ""},
		{"no source", Source{}, ""},
	} {
		v, err := tt.src.Read()
		if got := string(v.Reveal()); got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestEnrolmentFile(t *testing.T) {
	for _, text := range []string{`{"username": "tmp", "password": "pw"}`, "username: tmp\npassword: pw\n"} {
		name, pw, err := ParseEnrolment("f", []byte(text))
		if name != "tmp" || string(pw.Reveal()) != "pw" || err != nil {
			t.Errorf("%s: %q %v", text, name, err)
		}
	}
	for _, text := range []string{"", "username: tmp", "hunter2", "username: tmp\npasword: hunter2", "{hunter2", "username: tmp\npassword: [hunter2]"} {
		_, _, err := ParseEnrolment("f", []byte(text))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzParse holds that no file makes Parse panic, that it gives a Config or
// faults and never both, and that a report is one line for each fault.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"testdata/bad/*.yaml", "testdata/*.yaml", "../../docs/signet.yaml"} {
		files, _ := filepath.Glob(dir)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c != nil, err)
		}
		e, ok := errors.AsType[*Errors](err)
		if err != nil && (!ok || strings.Count(e.Error(), "\n") != len(e.Faults)-1) {
			t.Fatalf("report:\n%v", err)
		}
	})
}

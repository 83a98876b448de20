package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
)

// checked is a configuration with more lines, as `signet check` finds it.
func checked(t *testing.T, more string) (*config.Config, []config.Fault, error) {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf(`state_dir: %[1]s
runtime_dir: %[1]s
hsm: {module: /bin/sh, token: x, pin: {env: PIN}}
identities: {host: {issuer: cm, ca: c, subject: {common_name: h}}}
secrets: {db: {upstream: cm, secret: x}}
certificates: {web: {issuer: cm, ca: c, dns_names: [w.example], key: {store: file}}}
`, dir) + more
	if !strings.Contains(more, "upstreams:") {
		text += `upstreams: {cm: {type: ciphertrust, url: "https://c.example", auth: {grant: password}}}` + "\n"
	}
	return CheckConfig("f", []byte(text))
}

// What a check accepts starts: the parts of the agent are made of it, and what
// they would refuse the check refuses, with its place.
func TestWhatACheckAcceptsStarts(t *testing.T) {
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noPEM, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(more string) string { return "files: [{path: /etc/x, secret: db, " + more + "}]\n" }
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{file(`owner: root, group: "0", mode: "0640", acl: ["u:root:r", "g:daemon:rw-"]`), ""},
		{file(`template: "{{ secret \"db\" \"value\" }} {{ (certificate \"web\").chain }}"`), ""},
		{"files: [{dir: /etc/x, entries: {a.pem: {certificate: web}, b: {secret: db, format: json}}}]\n", ""},
		{"policy: [{callers: {users: [root, 4242], groups: [0], units: [a.service]}, allow: {secrets: ['*'], keys: {host: [sign]}, proxy: {cm: ['GET /x']}}}]\n", ""},
		{file(`acl: ["u:root:r", "u:0:w"]`), `f:7:9: files[0]: acl "u:0:w": is there twice`},
		{file(`acl: ["u:4294967295:r"]`), "f:7:42: files[0].acl[0]: "},
		{file(`owner: "4294967295"`), "f:7:43: files[0].owner: "},
		{"files: [{dir: /etc/x, group: '4294967295', entries: {a: {certificate: web}}}]\n", "f:7:30: files[0].group: "},
		{"files: [{path: /etc//x, secret: db}]\n", "f:7:16: files[0].path: "},
		{"files: [{path: /etc/y/../x, secret: db}]\n", "f:7:16: files[0].path: "},
		{"files: [{dir: /etc/x/, entries: {a: {certificate: web}}}]\n", "f:7:15: files[0].dir: "},
		{"policy: [{callers: {users: ['4294967295']}, allow: {admin: true}}]\n", "f:7:29: policy[0].callers.users[0]: "},
		{`upstreams: {cm: {type: ciphertrust, url: "https://c.example", auth: {grant: password}, ca_file: ` + noPEM + "}}\n",
			"f:7:97: upstreams.cm.ca_file: " + noPEM + " holds no PEM certificate"},
		{`upstreams: {cm: {type: ciphertrust, url: "https://c.example", auth: {grant: password}, ca_file: /nowhere/ca.pem}}` + "\n",
			"f:7:97: upstreams.cm.ca_file: open /nowhere/ca.pem: no such file or directory; the agent does not start without it"},
		{"certificates2: {}\n", "f:7:1: certificates2: "},
	} {
		cfg, warnings, err := checked(t, tt.text)
		if tt.want != "" {
			if err == nil || !strings.Contains("\n"+err.Error(), "\n"+tt.want) {
				t.Errorf("%s the check says %v, want %q", tt.text, err, tt.want)
			}
			continue
		}
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s the check says %v %v", tt.text, err, warnings)
			continue
		}
		starts(t, cfg)
	}
}

// starts holds that an agent can be made of a configuration.
func starts(t *testing.T, cfg *config.Config) {
	t.Helper()
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st)
	if err != nil {
		t.Errorf("it was accepted, and does not start: %v", err)
	} else if err := a.audit.Close(); err != nil {
		t.Error(err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

// What may yet come, such as the user of a consumer that is not installed, is a
// warning, with its place; the other files are none of its business, and the agent
// starts.
func TestACheckWarns(t *testing.T) {
	cfg, found, err := checked(t, `files:
  - {path: /etc/x, secret: db, owner: nosuch1, group: nosuch2, acl: ["u:nosuch3:r", "g:root:r"]}
  - {path: /etc/y, secret: db, owner: root}
  - {dir: /etc/z, group: nosuch4, entries: {a: {secret: db}, b: {secret: db, owner: nosuch5}}}
`)
	var got []string
	for _, w := range found {
		got = append(got, w.Error())
	}
	const rest = " on this host; it is not written until there is"
	want := []string{`f:8:5: files[0]: there is no group "nosuch2"` + rest, `f:8:5: files[0]: there is no user "nosuch1"` + rest, `f:8:5: files[0]: there is no user "nosuch3"` + rest,
		`f:10:5: files[2]: there is no group "nosuch4"` + rest, `f:10:5: files[2]: there is no user "nosuch5"` + rest}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%s", err, strings.Join(got, "\n"))
	} else {
		starts(t, cfg)
	}
}

// What has to be there for something to work, and is not, is a warning with its
// place: a package may yet bring it. What is in a secret's file is not looked at.
func TestACheckWarnsOfWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	pin := filepath.Join(dir, "pin")
	if err := syscall.Mkfifo(pin, 0o600); err != nil { // whoever reads it waits for ever
		t.Fatal(err)
	}
	text := fmt.Sprintf(`state_dir: %[1]s/state
runtime_dir: %[1]s/run
hsm:
  - {name: a, module: /nowhere/a.so, token: x, pin: {file: /nowhere/pin}, worker: /nowhere/worker}
  - {name: b, uri: "pkcs11:token=x?module-path=/nowhere/b.so", pin: {file: %[1]s}}
  - {name: c, module: /bin/sh, token: y, pin: {file: %[1]s/pin}}
upstreams:
  pam: {type: senhasegura, url: "https://p.example", auth: {grant: client_credentials, client_id: x, client_secret: {file: /nowhere/secret}}}
secrets: {db: {upstream: pam, credential: x}}
files:
  - {path: /etc/x, secret: db, field: password, test: [/nowhere/prog, -t], reload: {exec: [no-such-program-2]}}
  - {path: /etc/y, secret: db, field: password, test: [sh], reload: {exec: [/bin/sh, -c, "true"]}}
audit: {file: /nowhere/audit.jsonl}
socket: {path: %[1]s/sock/s}
`, dir)
	_, found, err := CheckConfig("f", []byte(text))
	var got []string
	for _, w := range found {
		got = append(got, w.Error())
	}
	const none = ": no such file or directory; "
	want := []string{
		"f:4:23: hsm[0].module: open /nowhere/a.so" + none + "the token stays closed until it is there",
		"f:4:60: hsm[0].pin.file: open /nowhere/pin" + none + "what needs it does not work until it is there",
		"f:4:83: hsm[0].worker: /nowhere/worker: there is no such program; the token stays closed until that is mended",
		"f:5:20: hsm[1].uri: open /nowhere/b.so" + none + "the token stays closed until it is there",
		"f:5:76: hsm[1].pin.file: open " + dir + ": is a directory; what needs it does not work until that is mended",
		"f:8:124: upstreams.pam.auth.client_secret.file: open /nowhere/secret" + none + "what needs it does not work until it is there",
		"f:11:49: files[0].test: /nowhere/prog: there is no such program; the reload fails until that is mended",
		"f:11:85: files[0].reload.exec: no-such-program-2: there is no such program; the reload fails until that is mended",
		"f:13:15: audit.file: open /nowhere" + none + "the agent does not start until it is there",
		"f:14:16: socket.path: open " + dir + "/sock" + none + "the agent does not start until it is there",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What keeps the agent from starting, and will not come by itself, is a fault; so is
// the rest that is wrong, at once.
func TestACheckRefusesWhatDoesNotStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := CheckConfig("f", fmt.Appendf(nil, `state_dir: %[1]s/state
runtime_dir: %[1]s
state_dirs: x
hsm: {module: /bin/sh, token: x, pin: {env: PIN}}
upstreams:
  cm: {type: ciphertrust, url: "https://c.example", auth: {grant: password}, ca_file: /nowhere/ca.pem}
  api: {type: oauth2, token_url: "https://as.example/t", auth: {grant: client_credentials, client_id: x, client_secret: {env: X}}}
policy: [{callers: {users: [no-such-user-2]}, allow: {admin: true}}]
`, file))
	const rest = ": not a directory; the agent does not start without a directory there"
	want := []string{
		"f:1:12: state_dir: open " + file + "/state" + rest,
		"f:2:14: runtime_dir: open " + file + rest,
		"f:3:1: state_dirs: unknown key; did you mean state_dir?",
		"f:6:87: upstreams.cm.ca_file: open /nowhere/ca.pem: no such file or directory; the agent does not start without it",
		"f:7:15: upstreams.api.type: \"oauth2\" is not served by this version; remove the upstream and what uses it",
		"f:8:29: policy[0].callers.users[0]: there is no user \"no-such-user-2\" on this host; create it or correct the name",
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("%v\nwant\n%s", err, strings.Join(want, "\n"))
	}
}

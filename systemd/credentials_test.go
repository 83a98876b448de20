package systemd

import (
	"crypto/tls"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestCredentials holds what units get by LoadCredential= from the real agent
// under the real systemd: what policy gives to the unit, or no start at all,
// and never an empty credential (failures T59, T60, T61, T64).
func TestCredentials(t *testing.T) {
	b := newBed(t)
	b.build("../cmd/signet", "/usr/bin/signet", "0")
	b.build("../cmd/signet-hsm", "/usr/bin/signet-hsm", "1")
	b.build("../cmd/signet-sim", "/usr/bin/signet-sim", "0")
	b.build("./testdata/forge", "/usr/bin/forge", "0")
	b.makeToken()
	b.startSimulator()
	long := strings.Repeat("n", 83-len("db.password")-len(".service")) + ".service" // as long as systemd can say
	b.agentConfig("late.service", "app.service", "web.service", "own@1.service", "noname.service", "expected.service", long, "n"+long)
	b.run("install", "-d", "-o", "signet", "-g", "www-data", "-m", "0750", "/etc/app")
	b.dropIn("LoadCredential=hsm-pin:/etc/signet/pin", "Environment=SOFTHSM2_CONF=/etc/signet/softhsm2.conf", "ReadWritePaths=/etc/app")
	b.write("/run/systemd/system/eater.service", "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n", 0o644)
	b.run("systemctl", "start", "signet-credentials.socket", "eater.service")

	// The agent is not even started: the connection starts it, and the unit
	// waits for the token, the access token and the first fetch.
	b.consumer("app.service", "LoadCredential=db.password:/run/signet/credentials.sock", "LoadCredential=db:/run/signet/credentials.sock")
	b.run("systemctl", "start", "app.service")
	if got := b.run("cat", "/run/app.service/db.password"); got != "secret@2504" {
		t.Errorf("db.password is %q", got)
	}
	var fields map[string]string
	if err := json.Unmarshal([]byte(b.run("cat", "/run/app.service/db")), &fields); err != nil || fields["username"] != "credential_5" {
		t.Errorf("db is %v, %v", fields, err)
	}
	b.consumer("own@1.service", "DynamicUser=yes", "PrivateNetwork=yes", "LoadCredential=db.username:/run/signet/credentials.sock")
	b.run("systemctl", "start", "own@1.service")
	if got := b.run("cat", "/run/own@1.service/db.username"); got != "credential_5" {
		t.Errorf("with a user of its own: %q", got)
	}

	b.pairAsCredentials()
	b.refusedCredentials()
	b.forgedAddress()
	b.longNames(long)

	// Files of another owner are made with no more than CAP_CHOWN.
	stat := func() string {
		return b.run("stat", "-L", "-c", "%U %G %a %i %y", "/etc/app/pw", "/etc/app/set/pw")
	}
	written := stat()
	for line := range strings.Lines(written) {
		if !strings.HasPrefix(line, "www-data adm 640 ") {
			t.Errorf("file of another owner: %s", line)
		}
	}
	if got := b.run("cat", "/etc/app/pw", "/etc/app/set/pw"); got != "secret@2504secret@2504" {
		t.Errorf("the files hold %q", got)
	}

	b.rightToReload()
	b.killedWhileAUnitWaits()
	b.reloadedWhileAUnitWaits()

	// While the agent is down, units wait for it.
	b.run("systemctl", "stop", "signet.service")
	b.run("systemctl", "restart", "app.service")
	if got := b.run("cat", "/run/app.service/db.password"); got != "secret@2504" {
		t.Errorf("after a restart of the agent: %q", got)
	}
	if got := stat(); got != written {
		t.Errorf("files that the agent may not read were written again though nothing changed:\n%s\nwere\n%s", got, written)
	}
}

// pairAsCredentials holds that certificate and key are a pair, together and one
// by one.
func (b *bed) pairAsCredentials() {
	b.t.Helper()
	b.consumer("web.service", "LoadCredential=web.key:/run/signet/credentials.sock", "LoadCredential=web.crt:/run/signet/credentials.sock", "LoadCredential=web.pem:/run/signet/credentials.sock")
	b.run("systemctl", "start", "web.service")
	key, chain := b.run("cat", "/run/web.service/web.key"), b.run("cat", "/run/web.service/web.crt")
	if pair, err := tls.X509KeyPair([]byte(chain), []byte(key)); err != nil || len(pair.Certificate) < 2 || pair.Leaf.VerifyHostname("web.example") != nil {
		b.t.Errorf("web.crt and web.key are no pair for web.example: %d certificates, %v", len(pair.Certificate), err)
	}
	if got := b.run("cat", "/run/web.service/web.pem"); got != chain+"\n"+key {
		b.t.Errorf("web.pem is not web.crt and web.key: %d bytes", len(got))
	}
}

// refusedCredentials holds that what no rule gives, what is not configured and
// what the secret does not have keep a unit from starting, and that journal and
// audit say why.
func (b *bed) refusedCredentials() {
	b.t.Helper()
	for unit, credential := range map[string]string{
		"evil.service":     "db.password", // no rule names it
		"noname.service":   "nope",
		"expected.service": "db.nope",
	} {
		b.consumer(unit, "LoadCredential="+credential+":/run/signet/credentials.sock")
		b.refused(unit)
		if got := b.try("journalctl", "-o", "cat", "-u", "signet.service", "SIGNET_UNIT="+unit); !strings.Contains(got, "credential refused") || !strings.Contains(got, "credential="+credential) {
			b.t.Errorf("the journal does not say why %s was refused: %q", unit, got)
		}
	}
	audit := b.run("cat", "/var/lib/signet/audit.jsonl")
	for _, want := range []string{`"unit":"evil.service"`, `"event":"credential.read"`, `"outcome":"denied"`} {
		if !strings.Contains(audit, want) {
			b.t.Errorf("the audit lacks %s", want)
		}
	}
}

// forgedAddress holds that root itself gets nothing outside of the unit: anybody
// can bind the address.
func (b *bed) forgedAddress() {
	b.t.Helper()
	out := b.run("systemd-run", "--quiet", "--wait", "--pipe", "/usr/bin/forge", "@aaaabbbbccccdddd/unit/app.service/db.password", "/run/signet/credentials.sock")
	if n, err := strconv.Atoi(out); err != nil || n <= 1<<20 {
		b.t.Errorf("a forged address was answered %q bytes", out)
	}
	if got := b.try("journalctl", "-o", "cat", "-u", "signet.service", "SIGNET_UNIT=app.service"); !strings.Contains(got, "claims to be the service manager starting app.service") {
		b.t.Errorf("the journal does not tell of the forged address: %q", got)
	}
}

// longNames holds that a name as long as systemd can say is served, and that one
// that is longer is no empty credential.
func (b *bed) longNames(long string) {
	b.t.Helper()
	b.consumer(long, "LoadCredential=db.password:/run/signet/credentials.sock")
	b.run("systemctl", "start", long)
	// The address begins with a random number that is not padded: a name that is
	// too long by one fits every sixteenth time.
	tooLong := "nnnnnnnn" + long
	b.consumer(tooLong, "LoadCredential=db.password:/run/signet/credentials.sock")
	b.refused(tooLong)
}

// rightToReload holds that the doctor misses the right until the rule is made,
// and that the rule is for what is reloaded alone.
func (b *bed) rightToReload() {
	b.t.Helper()
	reloads := func() string {
		doctor := b.try("signet", "doctor")
		_, rest, _ := strings.Cut(doctor, "reload eater.service")
		before, _, _ := strings.Cut(doctor, "reload eater.service")
		next, _, _ := strings.Cut(rest, "\n"+"ok ")
		return before[strings.LastIndex(before, "\n")+1:] + next
	}
	if got := reloads(); !strings.HasPrefix(got, "failed") || !strings.Contains(got, "does not list eater.service; make it again, as root: signet polkit --output "+PolkitRulesPath) {
		b.t.Errorf("the doctor says %q", got)
	}
	b.run("signet", "polkit", "--output", PolkitRulesPath)
	if rule := b.run("cat", PolkitRulesPath); rule != strings.TrimSpace(PolkitRule([]string{"eater.service"})) {
		b.t.Errorf("the rule is\n%s", rule)
	}
	b.run("systemctl", "restart", "polkit.service")
	if got := reloads(); !strings.HasPrefix(got, "ok") {
		b.t.Errorf("with the rule the doctor says %q", got)
	}
}

// killedWhileAUnitWaits holds that no answer is not an empty one.
func (b *bed) killedWhileAUnitWaits() {
	b.t.Helper()
	b.consumer("late.service", "LoadCredential=late.value:/run/signet/credentials.sock")
	b.run("systemctl", "start", "--no-block", "late.service")
	b.run("sleep", "1")
	b.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "signet.service")
	b.refused("late.service")
	if got := b.try("journalctl", "-o", "cat", "-u", "signet.service", "SIGNET_UNIT=late.service"); !strings.Contains(got, "it was waited for") {
		b.t.Errorf("the journal does not tell of the unit that waited: %q", got)
	}
	b.await("SubState", "running")
}

// reloadedWhileAUnitWaits holds that a unit that waits goes on waiting when the
// agent reads its configuration again, and is answered by what is configured then.
func (b *bed) reloadedWhileAUnitWaits() {
	b.t.Helper()
	const file = "/etc/signet/signet.yaml"
	before := b.run("cat", file)
	patient := strings.Replace(before, "wait: 5s", "wait: 60s", 1)
	b.write(file, patient, 0o644)
	b.run("systemctl", "reload", "signet.service")
	b.consumer("late.service", "LoadCredential=late.password:/run/signet/credentials.sock")
	b.run("systemctl", "start", "--no-block", "late.service")
	b.run("sleep", "1")
	_, credential, _ := strings.Cut(before, "{db: {upstream: pam, ")
	credential, _, _ = strings.Cut(credential, "}")
	b.write(file, strings.Replace(patient, "late: {upstream: away, info: X}", "late: {upstream: pam, "+credential+"}", 1), 0o644)
	b.run("systemctl", "reload", "signet.service")
	b.run("systemctl", "start", "late.service") // waits for the start that is under way
	if got := b.run("cat", "/run/late.service/late.password"); got != "secret@2504" {
		b.t.Errorf("the unit that waited over a reload got %q", got)
	}
	b.write(file, before, 0o644)
	b.run("systemctl", "reload", "signet.service")
}

// consumer makes a unit that copies its credentials to /run/UNIT.
func (b *bed) consumer(unit string, lines ...string) {
	b.t.Helper()
	b.write("/run/systemd/system/"+unit, "[Service]\nType=oneshot\nTimeoutStartSec=60\nRuntimeDirectoryPreserve=yes\nRuntimeDirectory=%n\n"+
		"ExecStart=/bin/sh -c 'cp $CREDENTIALS_DIRECTORY/* /run/%n/'\n"+strings.Join(lines, "\n")+"\n", 0o644)
	b.run("systemctl", "daemon-reload")
}

// refused holds that a unit does not start, for want of its credentials.
func (b *bed) refused(unit string) {
	b.t.Helper()
	b.try("systemctl", "start", unit)
	if got := b.run("systemctl", "show", "--value", "-p", "ExecMainStatus", unit); got != "243" { // CREDENTIALS
		b.t.Errorf("%s: status %s, want 243: %s", unit, got, b.run("systemctl", "show", "-p", "ActiveState", "-p", "Result", unit))
	}
	if out := b.try("ls", "/run/"+unit); !strings.Contains(out, "No such file") && out != "" {
		b.t.Errorf("%s started: %s", unit, out)
	}
}

// startSimulator serves the upstreams in the bed.
func (b *bed) startSimulator() {
	b.t.Helper()
	b.run("systemd-run", "--quiet", "--unit=simulator", "-p", "ExecStartPost=/bin/sh -c 'until [ -S /run/sim/control.sock ]; do sleep 0.1; done'",
		"/usr/bin/signet-sim", "--dir", "/run/sim", "serve", "--any-caller")
	b.run("chmod", "-R", "a+rX", "/run/sim")
}

// agentConfig gives units a secret and a certificate of the simulators.
func (b *bed) agentConfig(units ...string) {
	b.t.Helper()
	data, err := os.ReadFile(b.root + "/run/sim/endpoints.json")
	if err != nil {
		b.t.Fatal(err)
	}
	var e struct {
		Senhasegura struct {
			URL        string `json:"url"`
			CAFile     string `json:"ca_file"`
			ClientID   string `json:"client_id"`
			SecretFile string `json:"client_secret_file"`
			Credential string `json:"credential"`
		} `json:"senhasegura"`
		CipherTrust struct {
			URL          string `json:"url"`
			CAFile       string `json:"ca_file"`
			CA           string `json:"ca"`
			Username     string `json:"admin_username"`
			PasswordFile string `json:"admin_password_file"`
		} `json:"ciphertrust"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		b.t.Fatal(err)
	}
	s, cm := e.Senhasegura, e.CipherTrust
	b.write("/etc/signet/signet.yaml", strings.Join([]string{
		"hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {credential: hsm-pin}}",
		"upstreams:",
		"  pam:",
		"    type: senhasegura",
		"    url: " + s.URL,
		"    ca_file: " + s.CAFile,
		"    auth: {grant: client_credentials, client_id: " + s.ClientID + ", client_secret: {file: " + s.SecretFile + "}}",
		"  away: {type: senhasegura, url: 'https://127.0.0.1:1', auth: {grant: client_credentials, client_id: x, client_secret: {file: " + s.SecretFile + "}}}",
		"  cm: {type: ciphertrust, url: '" + cm.URL + "', ca_file: " + cm.CAFile + ", auth: {grant: password, username: " + cm.Username + ", password: {file: " + cm.PasswordFile + "}}}",
		"certificates: {web: {issuer: cm, ca: " + cm.CA + ", purpose: server, key: {type: ecdsa-p256, store: file}, dns_names: [web.example]}}",
		"secrets: {db: {upstream: pam, credential: " + s.Credential + "}, late: {upstream: away, info: X}}",
		"files:",
		"  - {path: /etc/app/pw, secret: db, field: password, owner: www-data, group: adm, mode: '0640', reload: {unit: eater.service}}",
		"  - {dir: /etc/app/set, entries: {pw: {secret: db, field: password}}, owner: www-data, group: adm, mode: '0640'}",
		"credentials_socket: {path: /run/signet/credentials.sock, wait: 5s}",
		"policy:",
		"  - callers: {units: [" + strings.Join(units, ", ") + "]}",
		"    allow: {secrets: [db, late], certificates: [web]}",
		"  - callers: {users: [root]}",
		"    allow: {admin: true, secrets: [db]}", // which gives nothing to units
	}, "\n"), 0o644)
}

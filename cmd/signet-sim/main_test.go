package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// TestMain is signet-sim itself where a test starts it as a process.
func TestMain(m *testing.M) {
	if os.Getenv("SIGNET_SIM_TEST") != "" {
		main()
	}
	os.Exit(m.Run())
}

// A process is a running `signet-sim serve`.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	ready string
	done  chan error // its end
	endpoints
}

// start runs `signet-sim serve` until it is ready.
func start(t *testing.T, dir string, flags ...string) *process {
	t.Helper()
	p := &process{t: t, done: make(chan error, 1)}
	p.cmd = exec.Command(os.Args[0], append([]string{"serve", "--dir", dir}, flags...)...)
	// The race detector makes a process wait for a second before it ends.
	p.cmd.Env = append(os.Environ(), "SIGNET_SIM_TEST=1", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("first line %q, want ready: %v", line, err)
	}
	p.ready = line
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	if _, err := upstreamtest.Load(filepath.Join(dir, endpointsName), &p.endpoints); err != nil {
		t.Fatal(err)
	}
	return p
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// A guest is somebody who calls the simulators.
type guest struct {
	t    *testing.T
	http *http.Client
}

// visit is a guest who trusts the CAs in the files and has the certificate.
func visit(t *testing.T, cert *tls.Certificate, caFiles ...string) *guest {
	t.Helper()
	pool := x509.NewCertPool()
	for _, f := range caFiles {
		b, err := os.ReadFile(f)
		if err != nil || !pool.AppendCertsFromPEM(b) {
			t.Fatalf("%s: %v", f, err)
		}
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(tr.CloseIdleConnections)
	return &guest{t, &http.Client{Transport: tr}}
}

// call makes a call with a form for a body and an Authorization by user and
// password or, without a user, by bearer token.
func (g *guest) call(method, to string, form url.Values, user, pass string) (int, map[string]any) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, to, strings.NewReader(form.Encode()))
	if err != nil {
		g.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	switch {
	case user != "":
		req.SetBasicAuth(user, pass)
	case pass != "":
		req.Header.Set("Authorization", "Bearer "+pass)
	}
	res, err := g.http.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	var out map[string]any
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = json.Unmarshal(b, &out) // a 401 of the Manager has no body
	return res.StatusCode, out
}

// register registers the account with its one-time credentials, and destroys
// these as an agent does.
func (p *process) register() *tls.Certificate {
	p.t.Helper()
	var login oneTime
	if found, err := upstreamtest.Load(p.Manager.CredentialsFile, &login); err != nil || !found {
		p.t.Fatalf("one-time credentials: found %v, %v", found, err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "host1.example"}}, key)
	if err != nil {
		p.t.Fatal(err)
	}
	form := url.Values{"csr": {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))}}
	status, out := visit(p.t, nil, p.Manager.CAFile).call("POST", p.Manager.URL+"/manager/api/json/1.0/clientRegistration.adm", form, login.Username, login.Password)
	if status != 200 {
		p.t.Fatalf("register: status %d: %v", status, out)
	}
	block, _ := pem.Decode([]byte(out["responseData"].(map[string]any)["certificate"].(string)))
	if err := os.Remove(p.Manager.CredentialsFile); err != nil {
		p.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

// token logs in at senhasegura.
func (p *process) token(g *guest) (int, string) {
	p.t.Helper()
	secret, err := os.ReadFile(p.Senhasegura.ClientSecretFile)
	if err != nil {
		p.t.Fatal(err)
	}
	status, out := g.call("POST", p.Senhasegura.URL+"/iso/oauth2/token", url.Values{"grant_type": {"client_credentials"}}, p.Senhasegura.ClientID, string(secret))
	access, _ := out["access_token"].(string)
	return status, access
}

// read reads the credential.
func (p *process) read(g *guest) map[string]any {
	p.t.Helper()
	status, access := p.token(g)
	if status != 200 {
		p.t.Fatalf("log-in: status %d", status)
	}
	status, out := g.call("GET", p.Senhasegura.URL+"/iso/pam/credential/"+p.Senhasegura.Credential, nil, "", access)
	if status != 200 {
		p.t.Fatalf("read: status %d: %v", status, out)
	}
	return out["credential"].(map[string]any)
}

func TestAKilledSimulatorComesBackTheSame(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	p := start(t, dir, "--rotate", "1h")
	before := p.endpoints
	host := visit(t, p.register(), p.Senhasegura.CAFile, p.Manager.CAFile)
	cred := p.read(host)
	if cred["password"] != "secret@2504" {
		t.Errorf("password %v, want the manual's", cred["password"])
	}
	for range 3 {
		p.kill()
		p = start(t, dir, "--rotate", "1h")
		if diff := cmp.Diff(p.endpoints, before); diff != "" {
			t.Fatalf("endpoints (-now +before):\n%s", diff)
		}
		if diff := cmp.Diff(p.read(host), cred); diff != "" {
			t.Errorf("credential (-now +before):\n%s", diff)
		}
		if status, out := host.call("GET", p.Manager.URL+"/manager/api/json/1.0/listAccounts.adm", nil, "", ""); status != 200 {
			t.Errorf("Manager does not know the certificate any more: status %d: %v", status, out)
		}
		if _, err := os.Stat(p.Manager.CredentialsFile); err == nil {
			t.Error("one-time credentials of a registered account are there again")
		}
	}
}

func TestAKillBeforeRegistrationLosesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	p := start(t, dir)
	first := p.Manager.AccountID
	p.kill()
	p = start(t, dir)
	if p.Manager.AccountID != first {
		t.Errorf("account %d, want %d still", p.Manager.AccountID, first)
	}
	p.kill()
	// Somebody has thrown the credentials away: nobody can use that account.
	if err := os.Remove(p.Manager.CredentialsFile); err != nil {
		t.Fatal(err)
	}
	p = start(t, dir)
	if p.Manager.AccountID == first {
		t.Error("still the account that nobody can register")
	}
	p.register()
}

func TestSenhaseguraWantsACertificateOfTheManagers(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "sim"))
	stranger, err := upstreamtest.NewCA(upstreamtest.CAConfig{RSA: true})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stranger.Client("host1.example")
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]*tls.Certificate{"none": nil, "of another CA": foreign} {
		if status, _ := p.token(visit(t, cert, p.Senhasegura.CAFile)); status != 401 {
			t.Errorf("%s: status %d, want 401", name, status)
		}
	}
}

func TestSIGTERMEndsItWithinASecond(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	p := start(t, dir, "--any-caller")
	if got, _, _ := operate(t, dir, "", "fault", "add", "senhasegura", "slow", "--delay", "1m"); got != 0 {
		t.Fatal("no fault")
	}
	g := visit(t, nil, p.Senhasegura.CAFile)
	under := make(chan struct{})
	go func() { // a call that is under way
		defer close(under)
		req, _ := http.NewRequestWithContext(t.Context(), "GET", p.Senhasegura.URL, nil)
		if res, err := g.http.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("ended with %v, want status 0", err)
		}
	case <-time.After(time.Second):
		t.Error("still there after a second")
	}
	_ = p.cmd.Process.Kill()
	<-under
}

func TestSecretsAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	p := start(t, dir)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(p.Senhasegura.ClientSecretFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(p.ready, string(secret)) {
		t.Error("the ready line tells the secret")
	}
}

// operate runs a command line in this process.
func operate(t *testing.T, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(context.Background(), append(args, "--dir", dir), strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func TestOperatorsCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	p := start(t, dir, "--any-caller", "--token-life", "90s")
	g := visit(t, nil, p.Senhasegura.CAFile)
	file := filepath.Join(t.TempDir(), "second.json")
	for _, tt := range []struct {
		args   string
		stdin  string
		status int
		stdout string // prefix
		stderr string // prefix
	}{
		{"serve", "", 1, "", "signet-sim: " + dir + ": another signet-sim serves it; stop that one"},
		{"fault add senhasegura status --status 502 --path /iso/pam/* --count 2", "", 0, "fault 1: status 502 for /iso/pam/*, 2 times\n", ""},
		{"fault list senhasegura", "", 0, "fault 1: status 502", ""},
		{"fault clear senhasegura 7", "", 1, "", "signet-sim: refused: fault \"7\": not on"},
		{"fault clear senhasegura 1", "", 0, "", ""},
		{"fault add manager often", "", 1, "", "signet-sim: refused: fault: kind \"often\": want status, slow"},
		{"fault add nobody drop", "", 2, "", "signet-sim: simulator \"nobody\": want one of manager, senhasegura, ciphertrust\n"},
		{"fault add senhasegura", "", 2, "", "signet-sim: signet-sim fault add: accepts 2 arg(s), received 1; usage: signet-sim fault add SIMULATOR KIND"},
		{"clock senhasegura --set 2030-01-01T12:00:00Z", "", 0, "senhasegura 2030-01-01T12:00:00Z", ""},
		{"clock --offset 0s", "", 0, "manager 20", ""},
		{"clock --offset 0s --advance 1s", "", 2, "", "signet-sim: --advance, --offset and --set: want one of them"},
		{"credential rotate-every robot-test-5 20s", "", 0, "", ""},
		{"credential show robot-test-5", "", 0, "robot-test-5 (5): active, changed 0 times, expires 20", ""},
		{"credential rotate-every robot-test-5 often", "", 2, "", "signet-sim: duration \"often\""},
		{"credential password robot-test-5", "by hand\n", 0, "", ""},
		{"credential login robot-test-5", "by hand", 0, "", ""},
		{"credential login robot-test-5", "secret@2504", 1, "", "signet-sim: refused: wrong password"},
		{"credential deactivate nobody", "", 1, "", "signet-sim: refused: credential \"nobody\": not found"},
		{"authorization revoke-tokens", "", 0, "", ""},
		{"account add second --credentials-file " + file, "", 0, "account 12", ""},
		{"account add second", "", 2, "", "signet-sim: --credentials-file: missing"},
		{"account list", "", 0, "account 12", ""},
		{"account disown 4711", "", 1, "", `signet-sim: refused: certificate "4711": not one that was issued`},
		{"account disown", "", 0, "", ""},
		{"log senhasegura", "", 0, "", ""},
		{"log senhasegura --product", "", 0, "ID ", ""},
		{"log manager --product", "", 2, "", "signet-sim: --product: only senhasegura and ciphertrust"},
		{"frob", "", 2, "", "signet-sim: signet-sim: no command \"frob\"\n"},
		{"fault", "", 2, "", "signet-sim: signet-sim fault: which command?\n"},
		{"log senhasegura --frob", "", 2, "", "signet-sim: unknown flag: --frob\n"},
		{"serve --manager 0.0.0.0:1", "", 1, "", "signet-sim: " + dir},
	} {
		status, stdout, stderr := operate(t, dir, tt.stdin, strings.Fields(tt.args)...)
		if status != tt.status || !strings.HasPrefix(stdout, tt.stdout) || !strings.HasPrefix(stderr, tt.stderr) || (status == 0) != (stderr == "") {
			t.Errorf("%s: status %d, %q, %q; want %d, %q, %q", tt.args, status, stdout, stderr, tt.status, tt.stdout, tt.stderr)
		}
	}
	if got := p.read(g)["password"]; got != "by hand" {
		t.Errorf("password %v after it was set by hand", got)
	}
	if found, err := upstreamtest.Load(file, &oneTime{}); err != nil || !found {
		t.Errorf("credentials of the second account: found %v, %v", found, err)
	}
}

func TestACommandWithoutSimulatorsSaysSo(t *testing.T) {
	status, _, stderr := operate(t, t.TempDir(), "", "clock")
	if status != 1 || !strings.Contains(stderr, "is signet-sim serve running with this --dir?") {
		t.Errorf("status %d, %q", status, stderr)
	}
	for _, address := range []string{"0.0.0.0:1", "vault.example:443", "localhost"} {
		status, _, stderr := operate(t, t.TempDir(), "", "serve", "--manager", address)
		if status != 2 || !strings.Contains(stderr, address) {
			t.Errorf("%s: status %d, %q; want a usage error that names it", address, status, stderr)
		}
	}
}

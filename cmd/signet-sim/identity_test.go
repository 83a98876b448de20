package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/upstream/manager/managertest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// An identityRig is a token, a simulated Manager and an agent with one identity,
// each a process, to be killed and started at will.
type identityRig struct {
	*testing.T
	dir    string
	bin    string
	state  string // the agent's state directory
	client *client.Client
	config *template.Template // of the agent, for vars
	vars   struct {
		Dir, State, CommonName, Duration, User string
		Client                                 string // of the CipherTrust Manager
		E                                      endpoints
	}
	agent *exec.Cmd
	ended chan error
	sim   *exec.Cmd
}

var identityConfig = template.Must(template.New("identity").Parse(`
state_dir: {{.State}}
runtime_dir: {{.Dir}}
hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {file: {{.Dir}}/pin}}
upstreams:
  vaults: {type: manager, url: "{{.E.Manager.URL}}", ca_file: {{.E.Manager.CAFile}}, account_id: {{.E.Manager.AccountID}}}
identities:
  host:
    issuer: vaults
    subject: {common_name: {{.CommonName}}, organization: Example}
    grace: 1s
    {{with .Duration}}duration: {{.}}{{end}}
    {{with .E.Manager.CredentialsFile}}credentials_file: {{.}}{{end}}
socket: {path: {{.Dir}}/signet.sock, mode: "0600"}
policy:
  - callers: {users: [{{.User}}]}
    allow: {certificates: [host], keys: {host: [sign]}, proxy: {vaults: ["POST /manager/api/json/1.0/*"]}, admin: true}
`))

func newIdentityRig(t *testing.T) *identityRig {
	t.Helper()
	if _, err := os.Stat("/usr/lib/softhsm/libsofthsm2.so"); err != nil {
		if os.Getenv("SIGNET_NEED_SOFTHSM") != "" {
			t.Fatal(err)
		}
		t.Skip("SoftHSM is not installed")
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	r := &identityRig{T: t, dir: shm(t), bin: bin, config: identityConfig}
	r.state = filepath.Join(r.dir, "state")
	r.client = &client.Client{Socket: r.path("signet.sock"), Patience: 50 * time.Millisecond}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	r.vars.User = me.Username
	r.vars.Dir, r.vars.State, r.vars.CommonName, r.vars.Duration = r.dir, r.state, "host1.example", "90d"
	if err := os.Mkdir(r.state, 0o700); err != nil {
		t.Fatal(err)
	}
	r.write("softhsm2.conf", fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", r.path("token")))
	r.write("pin", "123456")
	r.write("so-pin", "12345678")
	r.newToken()
	r.startSimulators()
	t.Cleanup(func() {
		r.kill()
		_ = r.sim.Process.Kill()
		_ = r.sim.Wait()
		_ = r.client.Close()
		if t.Failed() {
			blob, _ := os.ReadFile(r.path("signet.log"))
			t.Logf("signet.log ends with\n%s", blob[max(0, len(blob)-6000):])
		}
	})
	return r
}

func (r *identityRig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *identityRig) write(name, text string) {
	r.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

func (r *identityRig) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(r.bin, name), args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+r.path("softhsm2.conf"), "SIGNET_SOCKET="+r.path("signet.sock"))
	return cmd
}

// newToken makes the token anew.
func (r *identityRig) newToken() {
	r.Helper()
	if err := errors.Join(os.RemoveAll(r.path("token")), os.Mkdir(r.path("token"), 0o700)); err != nil {
		r.Fatal(err)
	}
	out, err := r.command("signet-hsm", "init-token", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--label", "signet",
		"--pin-file", r.path("pin"), "--so-pin-file", r.path("so-pin")).CombinedOutput()
	if err != nil {
		r.Fatalf("%v\n%s", err, out)
	}
}

func (r *identityRig) startSimulators() {
	r.Helper()
	r.sim = r.command("signet-sim", "serve", "--dir", r.path("sim"))
	if err := r.sim.Start(); err != nil {
		r.Fatal(err)
	}
	r.until("simulators", 20*time.Second, func() bool {
		_, err := os.Stat(r.path("sim/" + controlName))
		return err == nil
	})
	if _, err := upstreamtest.Load(r.path("sim/"+endpointsName), &r.vars.E); err != nil {
		r.Fatal(err)
	}
}

// start starts the agent with the configuration of now.
func (r *identityRig) start() {
	r.Helper()
	f, err := os.OpenFile(r.path("signet.yaml"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		r.Fatal(err)
	}
	if err := errors.Join(r.config.Execute(f, r.vars), f.Close()); err != nil {
		r.Fatal(err)
	}
	log, err := os.OpenFile(r.path("signet.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		r.Fatal(err)
	}
	defer log.Close()
	r.agent = r.command("signet", "run", "--config", r.path("signet.yaml"))
	r.agent.Stdout, r.agent.Stderr = log, log
	if err := r.agent.Start(); err != nil {
		r.Fatal(err)
	}
	r.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan error) { ended <- cmd.Wait() }(r.agent, r.ended)
}

// kill ends the agent as a power cut would.
func (r *identityRig) kill() {
	if r.agent == nil {
		return
	}
	_ = r.agent.Process.Kill()
	<-r.ended
	r.agent = nil
}

// stop ends the agent as the service manager would.
func (r *identityRig) stop() {
	r.Helper()
	if err := r.agent.Process.Signal(syscall.SIGTERM); err != nil {
		r.Fatal(err)
	}
	select {
	case err := <-r.ended:
		if err != nil {
			r.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		r.Fatal("did not end")
	}
	r.agent = nil
}

// until waits for a condition of the running processes, which no virtual clock
// can hurry.
func (r *identityRig) until(what string, within time.Duration, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			r.Fatalf("no %s within %v", what, within)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// host is the identity's line of the status.
func (r *identityRig) host() (client.Item, bool) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	s, err := r.client.Status(ctx)
	if err != nil {
		return client.Item{}, false
	}
	for _, i := range s.Items {
		if i.Kind == "identity" {
			return i, true
		}
	}
	return client.Item{}, false
}

// works reports whether the Manager accepts what the agent shows it.
func (r *identityRig) works() bool {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if r.client.Ready(ctx) != nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://x/manager/api/json/1.0/listVaults.adm", http.NoBody)
	if err != nil {
		r.Fatal(err)
	}
	resp, err := r.client.Transport("vaults").RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}

// control asks the simulated Manager's operator.
func (r *identityRig) control(method, path string, in, out any) {
	r.Helper()
	if err := (controller{r.path("sim")}).call(r.Context(), method, "/manager"+path, in, out); err != nil {
		r.Fatal(err)
	}
}

// registrations counts those that the Manager accepted of an account: it notes
// one certificate for it, which is no renewal's.
func (r *identityRig) registrations() (accepted int) {
	r.Helper()
	var log []upstreamtest.Entry
	r.control("GET", "/log", nil, &log)
	for _, e := range log {
		if strings.HasSuffix(e.Path, "/clientRegistration.adm") && e.Status == http.StatusOK {
			accepted++
		}
	}
	return accepted
}

// account makes a new private account and configures the agent for it, as an
// administrator does when a certificate is lost.
func (r *identityRig) account(n int) client.Credentials {
	r.Helper()
	with := client.Credentials{Username: fmt.Sprintf("again-%d", n), Password: fmt.Sprintf("correct horse %d", n)}
	var made struct {
		ID int64 `json:"id"`
	}
	r.control("POST", "/accounts", map[string]string{"name": with.Username, "username": with.Username, "password": with.Password}, &made)
	r.vars.E.Manager.AccountID = made.ID
	r.vars.CommonName = fmt.Sprintf("host1-%d.example", n) // no two accounts may have the same
	return with
}

// certificates are the newest account's, as the Manager knows them.
func (r *identityRig) certificates() []managertest.Certificate {
	r.Helper()
	var accounts []managertest.Account
	r.control("GET", "/accounts", nil, &accounts)
	return accounts[len(accounts)-1].Certificates
}

// privateKeys are the identity's private keys on the token, by pkcs11-tool.
func (r *identityRig) privateKeys() []string {
	r.Helper()
	cmd := exec.Command("pkcs11-tool", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", "signet", "--login", "--pin", "123456",
		"--list-objects", "--type", "privkey")
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+r.path("softhsm2.conf"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("pkcs11-tool: %v\n%s", err, out)
	}
	var labels []string
	for l := range strings.Lines(string(out)) {
		if _, label, ok := strings.Cut(l, "label:"); ok && strings.HasPrefix(strings.TrimSpace(label), "host#") {
			labels = append(labels, strings.TrimSpace(label))
		}
	}
	return labels
}

// unexplained are the objects on the token that the ledger does not know.
func (r *identityRig) unexplained() string {
	r.Helper()
	list, err := r.client.Objects(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	if len(list) == 0 {
		return ""
	}
	blob, _ := json.Marshal(list) // of strings
	return string(blob)
}

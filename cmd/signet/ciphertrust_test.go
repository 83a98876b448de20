package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
)

// A trustHost is a host with an agent that runs as a process, and an appliance.
type trustHost struct {
	*testing.T
	dir, signet, config string
	env                 []string
	server              *ciphertrusttest.Server
	agent               *exec.Cmd
	log                 *os.File
}

const trustConfig = `state_dir: %[1]s/state
runtime_dir: %[1]s
hsm: {module: %[2]s, token: signet, worker: %[3]s, pin: {file: %[4]s}, sandbox: "off", audit: lenient}
upstreams:
  cm:
    type: ciphertrust
    url: %[5]s
    ca_file: %[1]s/ca.pem
    auth: {grant: password, username: admin, password: {file: %[1]s/password}}
secrets:
  apikey: {upstream: cm, secret: mypass, ttl: 1h}
socket: {path: %[1]s/s}
%[7]spolicy:
  - callers: {users: ["%[6]d"]}
    allow: {secrets: ["*"], certificates: ["*"], tokens: [cm], proxy: {cm: ["* /api/v1/**"]}, admin: true}
`

// newTrustHost makes the host; more is added to its configuration.
func newTrustHost(t *testing.T, more string) *trustHost {
	t.Helper()
	token := hsmtest.New(t)
	server, url := ciphertrusttest.Start(t, ciphertrusttest.Config{AdminPassword: "Adm1n-passw0rd", Setup: ciphertrusttest.Setup{
		Secrets: []ciphertrusttest.Secret{{Name: "mypass", DataType: "password", Material: "123456"}},
	}})
	h := &trustHost{T: t, dir: token.Dir, server: server, signet: filepath.Join(token.Dir, "signet"),
		config: filepath.Join(token.Dir, "signet.yaml"),
		env:    append(os.Environ(), append(token.Env, "SIGNET_SOCKET="+filepath.Join(token.Dir, "s"), "GORACE=atexit_sleep_ms=0")...)}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, h.signet) // by this name it is the program
	}
	if err != nil {
		t.Fatal(err)
	}
	h.write("ca.pem", string(server.CA.PEM()))
	h.write("password", "Adm1n-passw0rd\n")
	h.write("signet.yaml", fmt.Sprintf(trustConfig, h.dir, token.Module, token.Worker, token.PINFile, url, os.Getuid(), strings.ReplaceAll(more, "%[1]s", h.dir)))
	if h.log, err = os.Create(filepath.Join(h.dir, "agent.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	h.start()
	return h
}

func (h *trustHost) path(name string) string { return filepath.Join(h.dir, name) }

func (h *trustHost) write(name, text string) string {
	h.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
	return h.path(name)
}

// start starts the agent and waits until it is ready.
func (h *trustHost) start() {
	h.Helper()
	h.agent = exec.Command(h.signet, "run", "--config", h.config)
	h.agent.Env, h.agent.Stdout, h.agent.Stderr = h.env, h.log, h.log
	if err := h.agent.Start(); err != nil {
		h.Fatal(err)
	}
	c := &client.Client{Socket: h.path("s"), Patience: 20 * time.Second}
	defer c.Close()
	h.until("the agent is ready", func() bool { return c.Ready(h.Context()) == nil })
}

func (h *trustHost) stop() {
	if h.agent == nil {
		return
	}
	_ = h.agent.Process.Kill()
	_ = h.agent.Wait()
	h.agent = nil
	if h.Failed() {
		text, _ := os.ReadFile(h.path("agent.log"))
		h.Logf("agent.log ends with\n%s", text[max(0, len(text)-3000):])
	}
}

// until waits for a condition of the running agent.
func (h *trustHost) until(what string, ok func() bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			h.Fatalf("not within 30 s: %s", what)
		}
	}
}

// try runs a command and returns its exit status and what it printed.
func (h *trustHost) try(args ...string) (int, string, string) {
	h.Helper()
	cmd := exec.Command(h.signet, args...)
	cmd.Env = h.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// do runs a command that has to succeed.
func (h *trustHost) do(args ...string) string {
	h.Helper()
	status, out, errs := h.try(args...)
	if status != 0 {
		h.Fatalf("signet %q: exit status %d: %s", args, status, errs)
	}
	return out
}

// ct runs `signet ciphertrust --json` and decodes the record that it prints.
func (h *trustHost) ct(args ...string) (record struct{ ID, State, Cert, CSR string }) {
	h.Helper()
	if err := json.Unmarshal([]byte(h.do(append([]string{"ciphertrust", "--json", "--yes"}, args...)...)), &record); err != nil {
		h.Fatal(err)
	}
	return record
}

// `signet login` as people use it, across restarts of the agent.
func TestCipherTrustLogin(t *testing.T) {
	h := newTrustHost(t, "")
	h.write("pw", "Adm1n-passw0rd\n")
	if out := h.do("login", "cm", "--user", "admin", "--days", "10", "--hours", "10", "--password-file", h.path("pw")); out != "this login will expire in 10 days, 10 hours\n" {
		t.Error(out)
	}
	live := func() (n int) {
		for _, k := range h.server.Tokens() {
			if k.Live {
				n++
			}
		}
		return n
	}
	if live() != 1 {
		t.Errorf("%d live tokens", live())
	}
	// Killed and started again without its password, it goes on.
	if err := os.Remove(h.path("password")); err != nil {
		t.Fatal(err)
	}
	h.stop()
	h.start()
	h.until("an API token is there", func() bool { status, _, _ := h.try("token", "cm"); return status == 0 })
	if live() != 1 {
		t.Errorf("%d live tokens after a restart", live())
	}
	if state, err := os.ReadFile(h.path("state/signet.db")); err != nil || bytes.Contains(state, []byte("refresh_token")) {
		t.Error("the state is not sealed", err)
	}
	// ksctl and the agent share a login.
	file := h.path("ksctl.yaml")
	if out := h.do("login", "cm", "--user", "admin", "--password-file", h.path("pw"), "--ksctl-config", file); out != "this login will expire in 30 days\n" {
		t.Error(out)
	}
	text, _ := os.ReadFile(file)
	for _, want := range []string{"KSCTL_VERBOSITY: false\n", "KSCTL_RESP: json\n", "KSCTL_URL: https://", "KSCTL_USERNAME: admin\n", "KSCTL_REFRESHTOKEN: ", "KSCTL_CLIENTID: "} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %q", text, want)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	h.do("login", "cm", "--ksctl-config", file, "--password-file", h.path("pw")) // user and URL as in the file, its token revoked
	if live() != 1 {
		t.Errorf("%d live tokens", live())
	}
	h.do("login", "cm", "--ksctl-config", file, "--adopt")

	if status, _, errs := h.try("login", "cm", "--user", "admin", "--password-file", h.write("bad", "no\n")); status != exitDenied {
		t.Errorf("exit status %d for a wrong password: %s", status, errs)
	}
	if status, _, errs := h.try("login", "cm", "--url", "https://other.example", "--password-file", h.path("pw")); status != exitUsage || !strings.Contains(errs, "has another url") {
		t.Errorf("exit status %d for another server: %s", status, errs)
	}
	if err := h.server.SetProperty("MAXIMUM_REFRESH_TOKEN_LIFETIME", "5d"); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := h.try("login", "cm", "--days", "6", "--password-file", h.path("pw")); status != exitUsage || !strings.Contains(errs, "ask for 5 days at most") {
		t.Errorf("exit status %d: %s", status, errs)
	}
	if out := h.do("logout", "cm", "--ksctl-config", file); out != "login revoked\n" {
		t.Error(out)
	}
	if live() != 0 {
		t.Errorf("%d live tokens after the logout", live())
	}
	if status, _, errs := h.try("logout", "cm", "--ksctl-config", file); status != exitFailed ||
		!strings.Contains(errs, "login token and client id must exist in ksctl configuration file") {
		t.Errorf("exit status %d: %s", status, errs)
	}
	if status, _, errs := h.try("token", "cm"); status != exitUnavailable || !strings.Contains(errs, "signet login cm") {
		t.Errorf("exit status %d: %s", status, errs)
	}
	h.atATerminal()
}

// 10,000 users are listed in full, and without holding them all.
func TestCipherTrustLongLists(t *testing.T) {
	rows := 0
	v := view[row]{header: []string{"N"}, row: func(r *row) []string { return []string{r.text} }, text: func(r *row) json.RawMessage { return json.RawMessage(r.text) }}
	var before, most runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	records := func(yield func(*row, error) bool) {
		for i := range 10_000 {
			if i%2500 == 2499 {
				runtime.GC()
				runtime.ReadMemStats(&most)
			}
			if !yield(&row{fmt.Sprintf("\"%d%s\"", i, strings.Repeat("x", 1000))}, nil) {
				return
			}
		}
	}
	for _, asJSON := range []bool{false, true} {
		count := &counter{}
		if err := showAll(&trust{program: &program{stdout: count}, asJSON: asJSON}, v, records); err != nil {
			t.Fatal(err)
		}
		rows += count.lines
		if grown := int64(most.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
			t.Errorf("%d bytes more in memory", grown)
		}
	}
	if rows != 10_001+10_002 {
		t.Errorf("%d lines", rows)
	}
}

type row struct{ text string }

// counter counts lines.
type counter struct{ lines int }

func (c *counter) Write(b []byte) (int, error) {
	c.lines += bytes.Count(b, []byte("\n"))
	return len(b), nil
}

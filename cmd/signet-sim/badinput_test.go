package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// A bed is a host whose agent a test starts itself, with something wrong.
type bed struct {
	*testing.T
	*host
}

func newBed(t *testing.T) *bed {
	t.Helper()
	needSoftHSM(t)
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // the simulators die with the thread that started them
	h := &host{dir: shm(t), bin: bin, module: softHSM, life: 2 * time.Minute, rotate: 20 * time.Second}
	if err := h.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	sim := h.child("signet-sim", h.self(), "serve", "--dir", h.path("sim"))
	if err := sim.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.stop)
	if err := h.await(t.Context(), sim, h.path("sim", endpointsName)); err != nil {
		t.Fatal(err)
	}
	if err := h.configure(); err != nil {
		t.Fatal(err)
	}
	return &bed{t, h}
}

// edit replaces a text in one of the host's files.
func (b *bed) edit(name, old, new string) {
	b.Helper()
	blob, err := os.ReadFile(b.path(name))
	if err != nil {
		b.Fatal(err)
	}
	if !bytes.Contains(blob, []byte(old)) {
		b.Fatalf("%s has no %q", name, old)
	}
	if err := os.WriteFile(b.path(name), bytes.ReplaceAll(blob, []byte(old), []byte(new)), 0o600); err != nil {
		b.Fatal(err)
	}
}

// signet runs the program and returns what it said on standard error and its
// exit status.
func (b *bed) signet(args ...string) (string, int) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "signet"), args...)
	cmd.Env = b.environ()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	_ = cmd.Run() // the exit status says it
	return stderr.String(), cmd.ProcessState.ExitCode()
}

// agent starts the agent and waits until it listens.
func (b *bed) agent() *child {
	b.Helper()
	c := b.child("signet", filepath.Join(b.bin, "signet"), "run", "--config", b.path("signet.yaml"))
	if err := c.start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.stop)
	if err := b.await(b.Context(), c, b.path("signet.sock")); err != nil {
		b.Fatal(err)
	}
	return c
}

// says runs a command until its one line matches; what it is about needs a
// moment to be found out.
func (b *bed) says(pattern string, status int, args ...string) {
	b.Helper()
	re := regexp.MustCompile(pattern)
	var text string
	var got int
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		text, got = b.signet(args...)
		if got == status && re.MatchString(text) && strings.Count(text, "\n") == 1 {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	log, _ := os.ReadFile(b.path("log", "signet.log"))
	b.Errorf("signet %v: status %d, want %d, and one line that matches %q:\n%s\nlog:\n%s", args, got, status, pattern, text, log)
}

// shows runs a command that succeeds, and looks for lines of its output.
func (b *bed) shows(command string, patterns ...string) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), filepath.Join(b.bin, "signet"), command)
	cmd.Env = b.environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Errorf("signet %s: %v", command, err)
	}
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).Match(out) {
			b.Errorf("signet %s has no line that matches %q:\n%s", command, p, out)
		}
	}
}

// works waits until the credential can be read.
func (b *bed) works() {
	b.Helper()
	for deadline := time.Now().Add(70 * time.Second); ; {
		text, status := b.signet("get", "db", "--field", "password")
		if status == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("the cause is gone, and still: %s", text)
		}
		<-time.After(200 * time.Millisecond)
	}
}

// senhaseguraURL is where the simulator listens.
func (b *bed) senhaseguraURL() string {
	var e endpoints
	if _, err := upstreamtest.Load(b.path("sim", endpointsName), &e); err != nil {
		b.Fatal(err)
	}
	return e.Senhasegura.URL
}

// Whatever is wrong with the host: one line says what, why and what to do, the
// exit status is the documented one, and when the cause is gone it works.
func TestBadInputIsOneClearLine(t *testing.T) {
	t.Run("unknown key in the configuration", func(t *testing.T) {
		b := newBed(t)
		b.edit("signet.yaml", "state_dir:", "sate_dir:")
		b.says(`^signet: .*signet\.yaml:2:1: .*sate_dir.*state_dir`, 2, "run", "--config", b.path("signet.yaml"))
	})
	t.Run("wrong PIN", func(t *testing.T) {
		b := newBed(t)
		right, err := os.ReadFile(b.path("pin"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.path("pin"), []byte("not-the-pin"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.agent()
		b.says(`CKR_PIN_INCORRECT.*correct the PIN`, 5, "key", "show", "host")
		b.says(`unavailable: .*CKR_PIN_INCORRECT; correct the PIN`, 5, "get", "db")
		b.shows("status", `not ready: the token of hsm "default" is not open`, `not open.*: .*CKR_PIN_INCORRECT; correct the PIN`, `runway +over: identity host is missing`,
			`secret +db +missing .* waits for the HSM`)
		if err := os.WriteFile(b.path("pin"), right, 0o600); err != nil {
			t.Fatal(err)
		}
		b.works()
	})
	t.Run("missing module", func(t *testing.T) {
		b := newBed(t)
		b.edit("signet.yaml", softHSM, "/usr/lib/softhsm/none.so")
		b.agent()
		b.says(`/usr/lib/softhsm/none\.so.*; `, 5, "key", "show", "host")
	})
	t.Run("unreachable upstream", func(t *testing.T) {
		b := newBed(t)
		b.edit("signet.yaml", b.senhaseguraURL(), "https://127.0.0.1:9")
		b.agent()
		b.says(`upstream "pam": .*connection refused`, 5, "get", "db")
	})
	t.Run("upstream with a certificate of another CA", func(t *testing.T) {
		b := newBed(t)
		b.edit("signet.yaml", "ca_file: "+b.path("sim", "ca.pem"), "ca_file: "+b.path("sim", "manager-ca.pem"))
		b.agent()
		b.says(`upstream "pam": .*; .*ca_file`, 5, "get", "db")
	})
	t.Run("audit cut off while the agent was away", func(t *testing.T) {
		b := newBed(t)
		first := b.agent()
		b.works()
		first.stop() // the chain is signed, and its end remembered
		audit := b.path("state", "audit.jsonl")
		if err := os.Truncate(audit, 0); err != nil {
			t.Fatal(err)
		}
		b.agent()
		b.works()
		b.shows("status", `notice +audit file .*lines at its end are missing.*; who could write the file removed them`)
		b.says(`audit file .*: line 2: the agent found lines missing before this one.* are whole`, 1, "audit", "verify", "--file", audit)
	})
}

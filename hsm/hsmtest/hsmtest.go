// Package hsmtest gives tests a real PKCS#11 token: a fresh SoftHSM one, in
// memory, with the worker built from this tree, and a ledger and a PIN guard
// that are maps.
package hsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/signet-agent/signet/hsm"
)

// The PINs of tokens made here.
const (
	PIN   = "1234"
	SOPIN = "5678"
)

// modules are where distributions put SoftHSM.
var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so",
}

// A SoftHSM is a directory with tokens in it.
type SoftHSM struct {
	Module  string   // the library
	Dir     string   // holds everything below
	Tokens  string   // where SoftHSM keeps its tokens
	Env     []string // what the worker needs in its environment
	PINFile string   // holds PIN
	Label   string   // of the token made by New
	Worker  string   // path of signet-hsm

	t testing.TB
}

// New makes a token. It skips the test where there is no SoftHSM, unless
// SIGNET_NEED_SOFTHSM is 1: then it fails it.
func New(t testing.TB) *SoftHSM {
	t.Helper()
	s := &SoftHSM{Module: Module(t), Dir: tempDir(t), Label: "signet", Worker: Worker(t), t: t}
	s.Tokens = filepath.Join(s.Dir, "tokens")
	conf := filepath.Join(s.Dir, "softhsm2.conf")
	s.PINFile = filepath.Join(s.Dir, "pin")
	s.Env = []string{"SOFTHSM2_CONF=" + conf}
	if err := os.Mkdir(s.Tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", s.Tokens)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.WritePIN(PIN)
	s.InitToken(s.Label)
	return s
}

// Module is the path of SoftHSM's library.
func Module(t testing.TB) string {
	t.Helper()
	if m := os.Getenv("SIGNET_SOFTHSM"); m != "" {
		return m
	}
	for _, m := range modules {
		if _, err := os.Stat(m); err == nil {
			return m
		}
	}
	if os.Getenv("SIGNET_NEED_SOFTHSM") == "1" {
		t.Fatal("SoftHSM is not installed, and SIGNET_NEED_SOFTHSM=1")
	}
	t.Skip("SoftHSM is not installed")
	return ""
}

// tempDir is a directory in memory, where that can be had: on a disk, SoftHSM
// takes fifty times as long to make a key.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "signet-hsmtest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// InitToken makes one more token.
func (s *SoftHSM) InitToken(label string) {
	s.t.Helper()
	s.Run("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SOPIN, "--pin", PIN)
}

// WritePIN changes what the PIN file holds.
func (s *SoftHSM) WritePIN(pin string) {
	s.t.Helper()
	if err := os.WriteFile(s.PINFile, []byte(pin+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Run runs a program on these tokens and returns what it prints.
func (s *SoftHSM) Run(name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), s.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Tool runs pkcs11-tool on the token, logged in.
func (s *SoftHSM) Tool(args ...string) string {
	s.t.Helper()
	return s.Run("pkcs11-tool", append([]string{"--module", s.Module, "--token-label", s.Label, "--login", "--pin", PIN}, args...)...)
}

// Config is a configuration for the token.
func (s *SoftHSM) Config(ledger hsm.Ledger, guard hsm.Guard) hsm.Config {
	return hsm.Config{
		Name: "default", Worker: s.Worker, Env: s.Env, Module: s.Module, Label: s.Label,
		PIN: hsm.PINSource{File: s.PINFile}, Ledger: ledger, Guard: guard,
	}
}

// build makes the worker once for each test process.
var build struct {
	once sync.Once
	path string
	err  error
}

// Worker is the path of a worker built from this tree, with the race detector if
// the test has it. It stays until the machine tidies its temporary directory.
func Worker(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		var dir string
		if dir, build.err = os.MkdirTemp("", "signet-hsm-"); build.err != nil {
			return
		}
		build.path = filepath.Join(dir, "signet-hsm")
		args := []string{"build", "-o", build.path}
		if raceDetector {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "github.com/signet-agent/signet/cmd/signet-hsm")...)
		cmd.Dir = sourceDir()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build signet-hsm: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

func sourceDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

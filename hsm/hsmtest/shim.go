package hsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/signet-agent/signet/hsm"
)

// A Shim is a module that misbehaves on demand, in front of a SoftHSM. What it
// can do is said in hsm/testdata/shim.c.
type Shim struct {
	*SoftHSM
	Path string // of the module
	Dir  string // its rules and its records

	t testing.TB
}

// NewShim makes a token behind a shim.
func NewShim(t testing.TB) *Shim {
	t.Helper()
	s := &Shim{SoftHSM: New(t), t: t}
	s.Dir = filepath.Join(s.SoftHSM.Dir, "shim")
	s.Path = shimPath(t)
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Env = append(s.Env, "SHIM_MODULE="+s.Module, "SHIM_DIR="+s.Dir)
	return s
}

// shim is compiled once for each test process.
var shim struct {
	once sync.Once
	path string
	err  error
}

func shimPath(t testing.TB) string {
	t.Helper()
	shim.once.Do(func() {
		var dir string
		if dir, shim.err = os.MkdirTemp("", "signet-shim-"); shim.err != nil {
			return
		}
		shim.path = filepath.Join(dir, "shim.so")
		cc := exec.Command("cc", "-shared", "-fPIC", "-o", shim.path, filepath.Join(sourceDir(), "..", "testdata", "shim.c"), "-ldl")
		if out, err := cc.CombinedOutput(); err != nil {
			shim.err = fmt.Errorf("build the shim: %w\n%s", err, out)
		}
	})
	if shim.err != nil {
		t.Fatal(shim.err)
	}
	return shim.path
}

// Config is a configuration for the token behind the shim.
func (s *Shim) Config(ledger hsm.Ledger, guard hsm.Guard) hsm.Config {
	cfg := s.SoftHSM.Config(ledger, guard)
	cfg.Module = s.Path
	return cfg
}

// Rules replaces the rules; none means to behave.
func (s *Shim) Rules(rules ...string) {
	s.t.Helper()
	next := filepath.Join(s.Dir, "rules.new")
	err := os.WriteFile(next, []byte(strings.Join(rules, "\n")+"\n"), 0o600)
	if err == nil {
		err = os.Rename(next, filepath.Join(s.Dir, "rules"))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// AddFlags makes the tokens state these flags too.
func (s *Shim) AddFlags(flags uint) { s.write("flags", fmt.Sprintf("%#x\n", flags)) }

// Serial makes the tokens state another serial number, of 16 characters.
func (s *Shim) Serial(serial string) { s.write("serial", serial) }

// LimitSessions makes the tokens state that they can have so many sessions, and
// have no more.
func (s *Shim) LimitSessions(n int) { s.write("sessions", fmt.Sprintf("%d\n", n)) }

// LockAfterThree makes the token count wrong PINs from now on.
func (s *Shim) LockAfterThree() { s.WrongPINs(0) }

// WrongPINs makes the token count on from so many wrong PINs.
func (s *Shim) WrongPINs(n int) { s.write("lockout", fmt.Sprintf("%d\n", n)) }

// CountCalls has the calls of the next process counted; see Calls.
func (s *Shim) CountCalls() { s.write("calls", "") }

// Calls are the counts of calls of the last process that ended, by function; under
// "sessions", how many were open at once.
func (s *Shim) Calls() map[string]int {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "calls"))
	if err != nil {
		s.t.Fatal(err)
	}
	counts := map[string]int{}
	for line := range strings.FieldsSeq(string(b)) {
		name, n, _ := strings.Cut(line, "=")
		if counts[name], err = strconv.Atoi(n); err != nil {
			s.t.Fatalf("calls: %q", line)
		}
	}
	return counts
}

// Logins are the return values of all calls of C_Login so far.
func (s *Shim) Logins() []string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "logins"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func (s *Shim) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

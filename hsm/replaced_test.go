package hsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestCallsEndWhileTheWorkerIsReplaced holds that every call is answered within its
// deadline while no worker comes up, with why there is none and what can be done.
func TestCallsEndWhileTheWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Timeout = 4 * time.Second
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	late, err := token.Reserve("late", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"show": func() error { _, err := token.Info(t.Context(), key.Info().ID); return err },
		"make": func() error { _, err := token.Ensure(t.Context(), late.ID); return err },
		"seal": func() error { _, err := token.Wrap(t.Context(), []byte("data key")); return err }, // there is no key for it yet
		"list": func() error { _, err := token.Unknown(t.Context()); return err },
		"sign": func() error { return signOnce(key) },
	}
	s.Rules("C_Initialize 0 hang")
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, token, func(s hsm.Status) bool { return !s.Open })
	type ended struct {
		name  string
		err   error
		after time.Duration
	}
	answers := make(chan ended, len(calls))
	for name, call := range calls {
		go func() {
			start := time.Now()
			err := call()
			answers <- ended{name, err, time.Since(start)}
		}()
	}
	for range calls {
		a := <-answers
		if a.after > 2*cfg.Timeout {
			t.Errorf("%s: answered after %v", a.name, a.after)
		}
		var e *hsm.Error
		if !errors.Is(a.err, hsm.ErrClosed) || !errors.As(a.err, &e) || e.Hint() == "" {
			t.Errorf("%s: %v, want ErrClosed with a hint", a.name, a.err)
		} else if text := a.err.Error(); !strings.Contains(text, "the worker ended") && !strings.Contains(text, "no answer in time") {
			t.Errorf("%s: %q does not say why", a.name, text)
		}
	}
}

// TestWhatIsNoAnswerOfTheModuleIsTold holds that a token which is closed for another
// reason than an answer of its module says so, with what can be done.
func TestWhatIsNoAnswerOfTheModuleIsTold(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		rule   string
		change func(*hsm.Config)
		says   string
		hint   string
	}{
		"no worker":     {change: func(c *hsm.Config) { c.Worker = filepath.Join(os.TempDir(), "nosuch") }, says: "no such file", hint: "signet-hsm"},
		"a hang":        {rule: "C_Initialize 0 hang", says: "no answer in time", hint: "hsm.timeout"},
		"a crash":       {rule: "C_Initialize 0 crash", says: "the worker ended", hint: "crashed"},
		"configuration": {change: func(c *hsm.Config) { c.URI = "pkcs11:slot-id=1" }, says: "not chosen by slot", hint: "signet check"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			cfg := s.Config(&hsmtest.Ledger{}, nil)
			if tt.change != nil {
				tt.change(&cfg)
			}
			if tt.rule != "" {
				cfg.Timeout = time.Second
				s.Rules(tt.rule)
			}
			token, _ := start(t, cfg)
			if e := closedBy(t, token); !strings.Contains(e.Error(), tt.says) || !strings.Contains(e.Hint(), tt.hint) {
				t.Errorf("got %v (hint %q), want %q with a hint of %q", e, e.Hint(), tt.says, tt.hint)
			}
		})
	}
}

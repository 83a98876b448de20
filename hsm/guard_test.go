package hsm_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/hsm/wire"
)

// closedBy waits until the token says why it is closed.
func closedBy(t *testing.T, token *hsm.Token) *hsm.Error {
	t.Helper()
	status := until(t, token, func(s hsm.Status) bool { return !s.Open && s.Err != nil })
	var e *hsm.Error
	if !errors.As(status.Err, &e) {
		t.Fatalf("%v is no *hsm.Error", status.Err)
	}
	return e
}

// TestWrongPINIsTriedOnce holds that a PIN that the token refused is not tried
// again, by later processes either, until it is another or an operator says so.
func TestWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.LockAfterThree()
	s.WritePIN("9999")
	ledger, guard := &hsmtest.Ledger{}, &hsmtest.Guard{}
	for range 3 {
		token, stop := start(t, s.Config(ledger, guard))
		e := closedBy(t, token)
		if e.Name != "CKR_PIN_INCORRECT" || !errors.Is(e, hsm.ErrPIN) || e.Hint() == "" {
			t.Errorf("got %v (hint %q), want CKR_PIN_INCORRECT", e, e.Hint())
		}
		if _, err := token.Wrap(t.Context(), []byte("x")); !errors.Is(err, hsm.ErrPIN) {
			t.Errorf("a call meanwhile: %v, want ErrPIN", err)
		}
		stop()
	}
	if got := s.Logins(); !slices.Equal(got, []string{"0xa0"}) {
		t.Fatalf("logins %v, want one", got)
	}

	// An operator's word is good for one more try, no more.
	token, stop := start(t, s.Config(ledger, guard))
	closedBy(t, token)
	changed := token.Changed()
	token.ClearPINGuard()
	<-changed
	closedBy(t, token)
	for len(s.Logins()) < 2 {
		changed := token.Changed()
		if len(s.Logins()) < 2 {
			<-changed
		}
	}
	stop()
	if got := s.Logins(); len(got) != 2 {
		t.Fatalf("logins %v, want two", got)
	}

	// The token is one try away from locking itself: even a new PIN has to wait.
	s.WritePIN(hsmtest.PIN)
	token, stop = start(t, s.Config(ledger, guard))
	if e := closedBy(t, token); e.Name != "PIN_FINAL_TRY" || e.Hint() == "" {
		t.Errorf("got %v, want PIN_FINAL_TRY", e)
	}
	stop()

	// Someone has logged in with the right one meanwhile.
	s.LockAfterThree()
	_, stop = open(t, s.Config(ledger, guard))
	stop()
	if got := s.Logins(); !slices.Equal(got, []string{"0xa0", "0xa0", "0x0"}) {
		t.Errorf("logins %v", got)
	}
	if reasons := guard.Reasons(); len(reasons) > 0 {
		t.Errorf("the guard still remembers PINs after a login: %s", reasons)
	}
}

// TestTryAfterClearing holds that a try which has begun after an operator's word was
// given has heeded it: one that was under way is not taken for it.
func TestTryAfterClearing(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.WritePIN("9999")
	token, _ := start(t, s.Config(&hsmtest.Ledger{}, &hsmtest.Guard{}))
	closedBy(t, token)
	called := token.ClearPINGuard()
	until(t, token, func(s hsm.Status) bool { return s.Tried.After(called) })
	if got := s.Logins(); len(got) != 2 {
		t.Errorf("logins %v, want one more", got)
	}
}

// A PIN is refused by a token, not by what the configuration calls it: another token
// is tried with it once, and the first one not again, whatever its name is.
func TestARefusalIsOfTheToken(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.Run("softhsm2-util", "--init-token", "--free", "--label", "other", "--so-pin", hsmtest.SOPIN, "--pin", "777777")
	ledger, guard := &hsmtest.Ledger{}, &hsmtest.Guard{}
	wrong := s.Config(ledger, guard)
	wrong.Label = "other"
	token, stop := start(t, wrong)
	closedBy(t, token)
	stop()
	_, stop = open(t, s.Config(ledger, guard)) // the label is corrected
	stop()
	wrong.Name = "renamed"
	token, stop = start(t, wrong)
	e := closedBy(t, token)
	stop()
	if e.Name != "CKR_PIN_INCORRECT" || !strings.Contains(e.Error(), `not tried again after token "other"`) || !strings.Contains(e.Hint(), "--clear-pin-guard") {
		t.Errorf("got %v (hint %q)", e, e.Hint())
	}
	if got := s.Logins(); !slices.Equal(got, []string{"0xa0", "0x0"}) {
		t.Errorf("logins %v, want one of the token with the wrong PIN and one of the other", got)
	}
}

// Two wrong PINs that take turns, as of two names for one token, are tried once each.
func TestWrongPINsThatTakeTurns(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	ledger, guard := &hsmtest.Ledger{}, &hsmtest.Guard{}
	for _, pin := range []string{"9998", "9999", "9998", "9999"} {
		s.WritePIN(pin)
		token, stop := start(t, s.Config(ledger, guard))
		closedBy(t, token)
		stop()
	}
	if got := s.Logins(); len(got) != 2 {
		t.Errorf("logins %v, want one of each PIN", got)
	}
}

// TestAcceptedPINIsRefusedLater holds that a PIN which the token accepted and then
// no more is tried once after that, by later processes too.
func TestAcceptedPINIsRefusedLater(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	ledger, guard := &hsmtest.Ledger{}, &hsmtest.Guard{}
	token, stop := open(t, s.Config(ledger, guard))
	s.Rules("C_Login 0 0xa0")
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	refused := func(s hsm.Status) bool { return !s.Open && errors.Is(s.Err, hsm.ErrPIN) }
	tried := until(t, token, refused).Tried
	until(t, token, func(s hsm.Status) bool { return refused(s) && s.Tried.After(tried) })
	stop()
	token, stop = start(t, s.Config(ledger, guard))
	until(t, token, refused)
	stop()
	if got := s.Logins(); !slices.Equal(got, []string{"0x0", "0xa0"}) {
		t.Errorf("logins %v, want the wrong one once", got)
	}
}

// TestUnfinishedLogin holds that a PIN whose try was cut short is tried once
// more, not for ever: nobody knows whether the token has counted it.
func TestUnfinishedLogin(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.Rules("C_Login 0 crash")
	token, stop := start(t, s.Config(&hsmtest.Ledger{}, &hsmtest.Guard{}))
	status := until(t, token, func(s hsm.Status) bool { return s.Err != nil && strings.Contains(s.Err.Error(), "PIN_UNFINISHED") })
	if !errors.Is(status.Err, hsm.ErrPIN) || status.Restarts != 2 {
		t.Errorf("got %v after %d restarts, want ErrPIN after 2", status.Err, status.Restarts)
	}
	stop()
}

// TestPINMessages holds that what can be wrong with a PIN is told apart, and that
// the token is not asked where the answer is known.
func TestPINMessages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*hsmtest.Shim, *hsm.Config)
		want   string
		logins int
	}{
		{"empty", func(s *hsmtest.Shim, _ *hsm.Config) { s.WritePIN("") }, "PIN_EMPTY", 0},
		{"no file", func(s *hsmtest.Shim, _ *hsm.Config) { os.Remove(s.PINFile) }, "PIN_UNREADABLE", 0},
		{"no source", func(_ *hsmtest.Shim, c *hsm.Config) { c.PIN = hsm.PINSource{} }, "PIN_UNREADABLE", 0},
		{"no credential", func(_ *hsmtest.Shim, c *hsm.Config) { c.PIN = hsm.PINSource{Credential: "pin"} }, "PIN_UNREADABLE", 0},
		{"too short", func(s *hsmtest.Shim, _ *hsm.Config) { s.Rules("C_Login 0 0xa2") }, "CKR_PIN_LEN_RANGE", 1},
		{"expired", func(s *hsmtest.Shim, _ *hsm.Config) { s.Rules("C_Login 0 0xa3") }, "CKR_PIN_EXPIRED", 1},
		{"found locked", func(s *hsmtest.Shim, _ *hsm.Config) { s.Rules("C_Login 0 0xa4") }, "CKR_PIN_LOCKED", 1},
		{"said to be locked", func(s *hsmtest.Shim, _ *hsm.Config) {
			os.WriteFile(s.Dir+"/lockout", []byte("3\n"), 0o600)
		}, "CKR_PIN_LOCKED", 0},
		{"not set", func(s *hsmtest.Shim, _ *hsm.Config) { s.Rules("C_Login 0 0x102") }, "CKR_USER_PIN_NOT_INITIALIZED", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			cfg := s.Config(&hsmtest.Ledger{}, &hsmtest.Guard{})
			tt.change(s, &cfg)
			token, stop := start(t, cfg)
			e := closedBy(t, token)
			stop()
			if e.Name != tt.want || e.Hint() == "" {
				t.Errorf("got %v (hint %q), want %s", e, e.Hint(), tt.want)
			}
			if n := len(s.Logins()); n != tt.logins {
				t.Errorf("%d logins, want %d", n, tt.logins)
			}
		})
	}
}

// TestTokenSaysWhatItWants holds that a token which wants its PIN changed, or
// cannot be written to, is used as far as that goes, and that this is told.
func TestTokenSaysWhatItWants(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.AddFlags(wire.FlagPINToBeChanged | wire.FlagWriteProtected)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	st := token.Status()
	for i, want := range []string{"the token is read-only: ", "the token wants its PIN changed; "} {
		if i >= len(st.Warnings) || !strings.HasPrefix(st.Warnings[i], want) || !strings.Contains(st.Warnings[i], "; ") {
			t.Errorf("warnings are %q, want as number %d %q with what to do", st.Warnings, i, want)
		}
	}
	if len(st.Limits) > 0 {
		t.Errorf("what it cannot do is said to be %q", st.Limits)
	}
}

// TestPINSources holds that the PIN is read from a credential and from the
// environment too.
func TestPINSources(t *testing.T) {
	t.Parallel()
	s, _, _ := fresh(t)
	for _, tt := range []struct {
		name string
		pin  hsm.PINSource
		env  string
	}{
		{"file", hsm.PINSource{File: s.PINFile}, ""},
		{"credential", hsm.PINSource{Credential: "pin"}, "CREDENTIALS_DIRECTORY=" + s.Dir},
		{"environment", hsm.PINSource{Env: "HSM_TEST_PIN"}, "HSM_TEST_PIN=" + hsmtest.PIN},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := s.Config(&hsmtest.Ledger{}, nil)
			cfg.PIN = tt.pin
			if tt.env != "" {
				cfg.Env = append(slices.Clone(cfg.Env), tt.env)
			}
			open(t, cfg)
		})
	}
}

// pinChanged changes the PIN of the token, but not where we read it.
func pinChanged(s *hsmtest.Shim) {
	s.Run("pkcs11-tool", "--module", s.Module, "--token-label", s.Label, "--login", "--pin", hsmtest.PIN, "--change-pin", "--new-pin", "777777")
}

// refusedWith waits until the token is closed for that reason.
func refusedWith(t *testing.T, token *hsm.Token, name string) {
	t.Helper()
	until(t, token, func(s hsm.Status) bool {
		var e *hsm.Error
		return !s.Open && errors.As(s.Err, &e) && e.Name == name
	})
}

// A PIN that was accepted is no longer known to be right when the library dies
// over it: the token may have counted it.
func TestAnAcceptedPINIsNotTriedUntilTheTokenLocks(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, &hsmtest.Guard{}))
	pinChanged(s)
	s.LockAfterThree()
	s.Rules("C_Login/after 0 crash")
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, token, "PIN_UNFINISHED")
	if got := s.Logins(); !slices.Equal(got, []string{"0x0", "0xa0"}) {
		t.Errorf("logins %v, want the right one and one wrong one", got)
	}
}

// A PIN over which the library dies twice is not tried a third time, in whichever
// process, by a token that tells nothing.
func TestNoPINIsTriedThreeTimesWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	ledger, guard := &hsmtest.Ledger{}, &hsmtest.Guard{}
	token, _ := open(t, s.Config(ledger, guard))
	s.Rules("C_Login/after 0 crash")
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, token, "PIN_UNFINISHED")
	token, stop := start(t, s.Config(ledger, guard))
	refusedWith(t, token, "PIN_UNFINISHED")
	stop()
	if got := s.Logins(); len(got) != 3 {
		t.Errorf("logins %v, want three: one that opened the token, and two", got)
	}
}

// The last try before a token locks itself is nobody's to spend, not even when it
// is not known how the one before ended.
func TestTheFinalTryIsNeverSpent(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.WrongPINs(1)
	s.WritePIN("9999")
	s.Rules("C_Login/after 0 crash")
	ledger, guard := &hsmtest.Ledger{}, &hsmtest.Guard{}
	for range 2 {
		token, stop := start(t, s.Config(ledger, guard))
		refusedWith(t, token, "PIN_FINAL_TRY")
		stop()
	}
	if got := s.Logins(); !slices.Equal(got, []string{"0xa0"}) {
		t.Errorf("logins %v, want one", got)
	}
}

// A module that calls a wrong PIN something else does not have it tried again once
// the token has counted it; an operator does.
func TestAnAnswerThatSaysNothingOfThePIN(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.AddFlags(wire.FlagPINCountLow)
	s.Rules("C_Login 0 0x5")
	token, _ := start(t, s.Config(&hsmtest.Ledger{}, &hsmtest.Guard{}))
	refusedWith(t, token, "PIN_UNFINISHED")
	if got := s.Logins(); !slices.Equal(got, []string{"0x5"}) {
		t.Errorf("logins %v, want one", got)
	}
	s.Rules()
	token.ClearPINGuard()
	until(t, token, func(s hsm.Status) bool { return s.Open })
}

// The worker of one token does not get the PIN of another.
func TestAWorkerHasNoOtherTokensPIN(t *testing.T) {
	t.Setenv("OTHER_TOKENS_PIN", "0815")
	s, ledger, guard := fresh(t)
	for _, without := range []bool{false, true} {
		cfg := s.Config(ledger, guard)
		if without {
			cfg.Without = []string{"OTHER_TOKENS_PIN"}
		}
		token, stop := open(t, cfg)
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", token.Status().PID))
		if errors.Is(err, os.ErrPermission) {
			t.Skip("only root looks into a process that cannot be dumped")
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(env), "OTHER_TOKENS_PIN=") == without {
			t.Errorf("without: %v, and the environment of the worker is %q", without, env)
		}
		stop()
	}
}

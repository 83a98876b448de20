package hsm_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestRefusedSignaturesUseNoSessionsUp holds that whatever becomes of signatures,
// no more sessions are open than the configuration allows. (T49, T52)
func TestRefusedSignaturesUseNoSessionsUp(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.CountCalls()
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Sessions = 5
	token, stop := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	for range 10 {
		for _, rule := range []string{"C_SignInit 0 0x70", "C_Sign 0 0x21", "C_Sign 0 0x150"} {
			s.Rules(rule)
			if err := signOnce(key); err == nil {
				t.Fatalf("%s: a signature", rule)
			}
		}
		s.Rules()
		if err := signOnce(key); err != nil {
			t.Fatal(err)
		}
	}
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("%d workers were used up", n)
	}
	stop()
	if n := s.Calls()["sessions"]; n > cfg.Sessions {
		t.Errorf("%d sessions were open at once, %d are allowed", n, cfg.Sessions)
	}
}

// TestWhatStaysActiveIsCured holds that an operation which a failed call has left
// active in a session fails that call alone: what comes after it is carried out, with
// another session, or another worker where the session is not known to be spoilt.
func TestWhatStaysActiveIsCured(t *testing.T) {
	t.Parallel()
	list := func(t *testing.T, token *hsm.Token) func() error {
		return func() error { _, err := token.Unknown(t.Context()); return err } // no key, and so nothing that the checks of its health look for
	}
	seal := func(t *testing.T, token *hsm.Token) func() error {
		seal := func() error { _, err := token.Wrap(t.Context(), []byte("data key")); return err }
		if err := seal(); err != nil {
			t.Fatal(err)
		}
		return seal
	}
	sign := func(t *testing.T, token *hsm.Token) func() error {
		key := newKey(t, token, "host", hsm.ECDSAP256)
		return func() error { return signOnce(key) }
	}
	for _, tt := range []struct {
		name    string
		rules   []string
		prepare func(*testing.T, *hsm.Token) func() error
		workers int
	}{
		{"a search", []string{"C_FindObjects 0 0x6", "C_FindObjectsFinal 0 0x6"}, list, 0},
		{"the end of a search", []string{"C_FindObjectsFinal 0 0x6"}, list, 0},
		{"a search that says it has not begun", []string{"C_FindObjectsInit/after 0 0x6"}, list, 1},
		{"sealing", []string{"C_Encrypt 0 0x6"}, seal, 0},
		{"sealing that says it has not begun", []string{"C_EncryptInit/after 0 0x6"}, seal, 1},
		{"a signature", []string{"C_Sign 0 0x6"}, sign, 0},
		{"a signature that says it has not begun", []string{"C_SignInit/after 0 0x6"}, sign, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
			do := tt.prepare(t, token)
			s.Rules(tt.rules...)
			if e := (*hsm.Error)(nil); !errors.As(do(), &e) || e.Name != "CKR_FUNCTION_FAILED" {
				t.Fatalf("got %v, want CKR_FUNCTION_FAILED", e)
			}
			s.Rules()
			for range 2 {
				if err := do(); err != nil {
					t.Errorf("after it: %v", err)
				}
			}
			if n := token.Status().Restarts; n != tt.workers {
				t.Errorf("it took %d workers, want %d", n, tt.workers)
			}
		})
	}
}

// TestSessionsAreBounded holds that no more sessions are open at once than the
// configuration allows, whatever is done, and that nothing is left away because
// the token has no more of them. (T49)
func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	for _, sessions := range []int{4, 8} {
		t.Run(strconv.Itoa(sessions), func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			s.CountCalls()
			s.LimitSessions(sessions)
			cfg := s.Config(&hsmtest.Ledger{}, nil)
			cfg.Sessions = sessions
			token, stop := open(t, cfg)
			key := newKey(t, token, "host", hsm.ECDSAP256)
			blob, err := token.Wrap(t.Context(), []byte("data key"))
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			s.Rules("C_Sign 0 sleep20") // so that all lanes are in use
			for range 2 * sessions {
				wg.Go(func() {
					if err := signOnce(key); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			s.Rules("C_Decrypt 0 0x40") // as PKCS#11 has it of a changed blob; what SoftHSM says of one ends the worker
			if _, err := token.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrSealed) {
				t.Errorf("a changed blob: %v", err)
			}
			s.Rules()
			info, err := token.Info(t.Context(), key.Info().ID)
			if err != nil || info.Audit.Wrap != "refused" {
				t.Errorf("audit: %+v, %v", info.Audit, err)
			}
			if n := token.Status().Restarts; n != 0 {
				t.Errorf("%d workers were used up", n)
			}
			stop()
			if n := s.Calls()["sessions"]; n != sessions {
				t.Errorf("%d sessions were open at once, want all of the %d allowed", n, sessions)
			}
		})
	}
}

// TestTooFewSessions holds that a number of sessions that cannot be kept to is
// refused, instead of opening more.
func TestTooFewSessions(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Sessions = 3
	token, _ := start(t, cfg)
	if _, err := token.Wrap(t.Context(), []byte("x")); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("3 sessions configured: %v, want ErrInvalid", err)
	}
	for _, n := range []int{3, 1} {
		s.LimitSessions(n)
		token, stop := start(t, s.Config(&hsmtest.Ledger{}, nil))
		if e := closedBy(t, token); e.Name != "CKR_SESSION_COUNT" || e.Hint() == "" || !strings.Contains(e.Error(), fmt.Sprintf("can have %d,", n)) {
			t.Errorf("a token with %d sessions: %v", n, e)
		}
		stop()
	}
}

// TestNoSessionIsLeft holds that a token whose sessions are used up by others is
// told as such, and is back by itself when there is one again. (T49)
func TestNoSessionIsLeft(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	s.Rules("C_Sign 0 0x21 once") // the next signature needs another session
	if err := signOnce(key); err == nil {
		t.Fatal("a signature")
	}
	s.Rules("C_OpenSession 0 0xb1")
	if err := signOnce(key); err == nil {
		t.Error("a signature without a session")
	}
	status := until(t, token, func(s hsm.Status) bool { return !s.Open && s.Err != nil })
	var e *hsm.Error
	if !errors.As(status.Err, &e) || e.Name != "CKR_SESSION_COUNT" || e.Hint() == "" {
		t.Errorf("status %v", status.Err)
	}
	s.Rules()
	until(t, token, func(s hsm.Status) bool { return s.Open })
	if err := signOnce(key); err != nil {
		t.Error(err)
	}
}

// TestLoggedInAlready holds that a module which has not noticed that the last
// process ended is asked again by another, and that the PIN is not blamed. (T50)
func TestLoggedInAlready(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.Rules("C_Login 0 0x100 once")
	guard := &hsmtest.Guard{}
	open(t, s.Config(&hsmtest.Ledger{}, guard))
	if got := s.Logins(); !slices.Equal(got, []string{"0x100", "0x0"}) {
		t.Errorf("logins %v", got)
	}
	if reasons := guard.Reasons(); len(reasons) > 0 {
		t.Errorf("the guard holds the PIN back: %s", reasons)
	}
}

// TestModuleIsToldOfThreads holds that a module knows that it is called by
// several threads at once: one that does not may leave its locks away. (T51)
func TestModuleIsToldOfThreads(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.CountCalls()
	_, stop := open(t, s.Config(&hsmtest.Ledger{}, nil))
	stop()
	if s.Calls()["threads"] != 1 {
		t.Error("C_Initialize without CKF_OS_LOCKING_OK")
	}
}

// TestWhatKeepsATokenClosedIsTold holds that each of the ways in which a token
// cannot be reached has its name, and a hint. (T57)
func TestWhatKeepsATokenClosedIsTold(t *testing.T) {
	t.Parallel()
	for rv, name := range map[string]string{
		"0x5": "CKR_GENERAL_ERROR", "0x6": "CKR_FUNCTION_FAILED", "0x30": "CKR_DEVICE_ERROR", "0x32": "CKR_DEVICE_REMOVED",
		"0xe0": "CKR_TOKEN_NOT_PRESENT", "0xe1": "CKR_TOKEN_NOT_RECOGNIZED",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			s.Rules("C_OpenSession 0 " + rv)
			token, _ := start(t, s.Config(&hsmtest.Ledger{}, nil))
			if e := closedBy(t, token); e.Name != name || e.CKR == 0 || e.Hint() == "" {
				t.Errorf("got %v (hint %q), want %s", e, e.Hint(), name)
			}
		})
	}
}

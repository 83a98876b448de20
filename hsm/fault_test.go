package hsm_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestKilledWorkerIsReplacedUnderLoad holds that callers are answered, rightly,
// while their worker is killed again and again.
func TestKilledWorkerIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var signed atomic.Int64
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := signOnce(key); err != nil {
					t.Errorf("after %d signatures: %v", signed.Load(), err)
					return
				}
				signed.Add(1)
			}
		})
	}
	for i := range 3 {
		before := signed.Load()
		if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		until(t, token, func(s hsm.Status) bool { return s.Open && s.Restarts > i })
		if d := time.Since(killed); d > 5*time.Second {
			t.Errorf("back only after %v, want within 5 s", d)
		}
		if err := signOnce(key); err != nil {
			t.Error(err)
		}
		for deadline := time.Now().Add(patience); signed.Load() == before; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("nobody was answered")
			}
		}
	}
	close(stop)
	wg.Wait()
}

// A service manager asks the whole unit to stop. The daemon signs until it has
// stopped, so the worker must not go before it.
func TestWorkerStaysWhenTheUnitIsAskedToStop(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(token.Status().PID, sig); err != nil {
			t.Fatal(err)
		}
		if err := signOnce(key); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
	}
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("the worker was started anew %d times", n)
	}
}

// TestHangIsCutOff holds that a call that hangs is answered with an error after
// the deadline, that its worker is replaced, and that other callers do not pay.
func TestHangIsCutOff(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Timeout = 5 * time.Second
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)

	s.Rules("C_Sign 0 hang once")
	start := time.Now()
	_, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
	if !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("a signature that hangs: %v, want ErrDeadline", err)
	}
	if d := time.Since(start); d > 2*cfg.Timeout {
		t.Errorf("answered after %v", d)
	}
	if err := signOnce(key); err != nil {
		t.Errorf("after the worker was replaced: %v", err)
	}
	until(t, token, func(s hsm.Status) bool { return s.Open && s.Restarts > 0 })
}

// TestHangWhileGenerating is TestHangIsCutOff for what does not go over a lane:
// the deadline is the same, signatures go on with the next worker, and the key can
// be made afterwards.
func TestHangWhileGenerating(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Timeout = 5 * time.Second
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	k, err := token.Reserve("late", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	s.Rules("C_GenerateKeyPair 0 hang once")
	start := time.Now()
	if _, err := token.Ensure(t.Context(), k.ID); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("a generation that hangs: %v, want ErrDeadline", err)
	}
	if d := time.Since(start); d > 2*cfg.Timeout {
		t.Errorf("answered after %v", d)
	}
	if err := signOnce(key); err != nil {
		t.Errorf("after the worker was replaced: %v", err)
	}
	settle(t, token)
	nothingUnexplained(t, token)
}

// TestStoppedWorkerIsReplaced is TestHangIsCutOff for a worker that does not even
// run.
func TestStoppedWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Timeout = 5 * time.Second
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	freeze(t, token.Status().PID)
	if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("got %v, want ErrDeadline", err)
	}
	if err := signOnce(key); err != nil {
		t.Error(err)
	}
}

// freeze stops a process and waits until none of its threads runs any more.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	running := func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, name := range threads {
			b, err := os.ReadFile(name)
			if err == nil && !strings.Contains(string(b), ") T ") {
				return true
			}
		}
		return len(threads) == 0
	}
	for deadline := time.Now().Add(patience); running(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
}

// TestFatalAnswersReplaceTheWorker holds that each return value that speaks of a
// lost session, device or token leads to a new worker, and the caller to a
// signature; and that other return values go to the caller, by name.
func TestFatalAnswersReplaceTheWorker(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule, name string
		fatal      bool
	}{
		{"C_SignInit 0 0xb3 once", "CKR_SESSION_HANDLE_INVALID", true},
		{"C_SignInit 0 0x82 once", "CKR_OBJECT_HANDLE_INVALID", true},
		{"C_SignInit 0 0x101 once", "CKR_USER_NOT_LOGGED_IN", true},
		{"C_Sign 0 0x30 once", "CKR_DEVICE_ERROR", true},
		{"C_Sign 0 0x32 once", "CKR_DEVICE_REMOVED", true},
		{"C_Sign 0 0xe0 once", "CKR_TOKEN_NOT_PRESENT", true},
		{"C_Sign 0 0x5 once", "CKR_GENERAL_ERROR", true},
		{"C_Sign 0 0x190 once", "CKR_CRYPTOKI_NOT_INITIALIZED", true},
		{"C_Sign 0 crash once", "a crash", true},
		{"C_SignInit 0 0x70 once", "CKR_MECHANISM_INVALID", false},
		{"C_Sign 0 0x21 once", "CKR_DATA_LEN_RANGE", false},
		{"C_Sign 0 0x80000001 once", "CKR_VENDOR_DEFINED+0x1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
			key := newKey(t, token, "host", hsm.ECDSAP256)
			s.Rules(tt.rule)
			err := signOnce(key)
			if tt.fatal {
				if err != nil {
					t.Errorf("got %v, want a signature by the next worker", err)
				}
				until(t, token, func(s hsm.Status) bool { return s.Open && s.Restarts == 1 })
				return
			}
			var e *hsm.Error
			if !errors.As(err, &e) || e.Name != tt.name {
				t.Errorf("got %v, want %s", err, tt.name)
			}
			if err := signOnce(key); err != nil {
				t.Errorf("the next signature: %v", err)
			}
			if n := token.Status().Restarts; n != 0 {
				t.Errorf("%d restarts, want none", n)
			}
		})
	}
}

// TestTokenGoneAndBack holds that a token that goes away is noticed and told, and
// found again when it is back.
func TestTokenGoneAndBack(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	away := filepath.Join(s.Dir, "away")
	if err := os.Rename(s.Tokens, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.Tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	status := until(t, token, func(s hsm.Status) bool {
		return !s.Open && s.Err != nil && strings.Contains(s.Err.Error(), "CKR_TOKEN_NOT_PRESENT")
	})
	_, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
	var e *hsm.Error
	if !errors.As(err, &e) || !errors.Is(err, hsm.ErrClosed) || e.Code() != "unavailable" {
		t.Errorf("signing without token: %v; status %v", err, status.Err)
	}
	if err := os.Remove(s.Tokens); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, s.Tokens); err != nil {
		t.Fatal(err)
	}
	until(t, token, func(s hsm.Status) bool { return s.Open })
	if err := signOnce(key); err != nil {
		t.Error(err)
	}
}

// TestTokenReplacedWhileOpen holds that a token is no longer used when the module
// shows another one in its place.
func TestTokenReplacedWhileOpen(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	newKey(t, token, "host", hsm.ECDSAP256)
	s.Serial("0123456789abcdef")
	status := until(t, token, func(s hsm.Status) bool { return errors.Is(s.Err, hsm.ErrReplaced) })
	if status.Open {
		t.Error("it is open all the same")
	}
}

// TestReplacedTokenIsRefused holds that a token with the same label that is not
// the one our keys are on gets neither the PIN nor new keys.
func TestReplacedTokenIsRefused(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	ledger := &hsmtest.Ledger{}
	token, stop := open(t, s.Config(ledger, nil))
	newKey(t, token, "host", hsm.ECDSAP256)
	stop()
	logins := len(s.Logins())
	if err := os.RemoveAll(s.Tokens); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.Tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	s.InitToken(s.Label)

	token, stop = start(t, s.Config(ledger, nil))
	status := until(t, token, func(s hsm.Status) bool { return s.Err != nil })
	if !errors.Is(status.Err, hsm.ErrReplaced) {
		t.Errorf("got %v, want ErrReplaced", status.Err)
	}
	if n := len(s.Logins()); n != logins {
		t.Errorf("the PIN was given to another token %d times", n-logins)
	}
	stop()

	// The serial alone is not trusted either: none of our keys is there.
	keys, _ := ledger.Keys()
	keys[0].Serial = ""
	if err := ledger.SaveKey(keys[0]); err != nil {
		t.Fatal(err)
	}
	token, _ = start(t, s.Config(ledger, nil))
	status = until(t, token, func(s hsm.Status) bool { return s.Err != nil })
	if !errors.Is(status.Err, hsm.ErrReplaced) {
		t.Errorf("without serial: got %v, want ErrReplaced", status.Err)
	}
}

// TestCrashWhileGenerating holds that a crash in the middle of a generation leads
// to one good key, and to nothing else on the token.
func TestCrashWhileGenerating(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	ledger := &hsmtest.Ledger{}
	token, _ := open(t, s.Config(ledger, nil))
	s.Rules("C_GenerateKeyPair 0 crash once")
	key := newKey(t, token, "host", hsm.RSA2048)
	if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
	nothingUnexplained(t, token)
}

// nothingUnexplained checks that the token holds whole keys of the ledger only.
func nothingUnexplained(t *testing.T, token *hsm.Token) {
	t.Helper()
	unknown, err := token.Unknown(t.Context())
	if err != nil || len(unknown) > 0 {
		t.Errorf("unexplained: %v, %v", unknown, err)
	}
	for _, k := range token.Keys() {
		if k.State != hsm.Live {
			t.Errorf("key %v is %s", k, k.State)
			continue
		}
		info, err := token.Info(t.Context(), k.ID)
		if err != nil || !info.Audit.Passed {
			t.Errorf("key %v: %v %v", k, info.Audit.Findings, err)
		}
	}
}

// TestKillsDuringGeneration kills the worker at random moments of key generation.
// At the end every key signs, and nothing on the token is unexplained.
func TestKillsDuringGeneration(t *testing.T) {
	t.Parallel()
	kills := 8
	if os.Getenv("SIGNET_SLOW_TESTS") == "1" {
		kills = 100
	}
	s, ledger, guard := fresh(t)
	begun := make(chan struct{}, 1)
	ledger.OnSave = func(k hsm.LedgerKey) error {
		if k.State == hsm.Intended && k.Serial != "" {
			select {
			case begun <- struct{}{}:
			default:
			}
		}
		return nil
	}
	interrupted := 0
	for i := range kills {
		token, stop := open(t, s.Config(ledger, guard))
		settle(t, token)
		select {
		case <-begun: // by settle
		default:
		}
		k, err := token.Reserve(fmt.Sprintf("k%d", i), hsm.ECDSAP256)
		if err != nil {
			t.Fatal(err)
		}
		pid := token.Status().PID
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := token.Ensure(ctx, k.ID)
			done <- err
		}()
		select {
		case <-begun:
		case err := <-done:
			t.Fatalf("it ended without a generation: %v", err)
		}
		// A generation takes some milliseconds; so this falls somewhere into it.
		<-time.After(time.Duration(i%20) * 150 * time.Microsecond)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		cancel()
		if <-done != nil {
			interrupted++
		}
		stop()
	}
	token, _ := open(t, s.Config(ledger, guard))
	settle(t, token)
	if t.Logf("%d of %d generations were interrupted", interrupted, kills); interrupted == 0 {
		t.Error("no generation was interrupted: this has tested nothing")
	}
	for _, k := range token.Keys() {
		key, err := token.Key(t.Context(), k.ID)
		if err == nil {
			err = signOnce(key)
		}
		if err != nil {
			t.Errorf("key %v: %v", k, err)
		}
	}
	nothingUnexplained(t, token)
}

// settle makes the keys that were intended, as the agent does at its start.
func settle(t *testing.T, token *hsm.Token) (intents int) {
	t.Helper()
	for _, k := range token.Keys() {
		if k.State != hsm.Intended {
			continue
		}
		intents++
		if _, err := token.Ensure(t.Context(), k.ID); err != nil {
			t.Fatalf("key %v: %v", k, err)
		}
	}
	return intents
}

// TestStopDoesNotWaitForAHang holds that a stop ends a module that hangs, even
// while it is being opened.
func TestStopDoesNotWaitForAHang(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.Rules("C_Initialize 0 hang")
	token, stop := start(t, s.Config(&hsmtest.Ledger{}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := token.Wrap(ctx, []byte("x")); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("before it is open: %v, want ErrClosed", err)
	}
	start := time.Now()
	stop()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	}
}

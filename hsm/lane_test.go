package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// A lane that goes on signing with one key takes up others, and uses no key that
// was destroyed meanwhile: its handle may be another object's.
func TestALaneLooksAgainWhenKeysChange(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Sessions = 4 // which leaves one lane
	token, _ := open(t, cfg)
	gone, kept := newKey(t, token, "gone", hsm.ECDSAP256), newKey(t, token, "kept", hsm.ECDSAP256)
	for _, key := range []*hsm.Key{gone, gone, kept, kept, gone, gone} {
		if err := signOnce(key); err != nil {
			t.Fatal(err)
		}
	}
	for _, state := range []hsm.State{hsm.Retiring, hsm.Retired} {
		if err := token.SetState(gone.Info().ID, state); err != nil {
			t.Fatal(err)
		}
	}
	if err := token.Destroy(t.Context(), gone.Info().ID); err != nil {
		t.Fatal(err)
	}
	if err := signOnce(gone); !errors.Is(err, hsm.ErrKeyLost) {
		t.Errorf("signing with a destroyed key: %v", err)
	}
	if err := signOnce(kept); err != nil {
		t.Error(err)
	}
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("the worker was replaced %d times: it asked the module for a key that is not there", n)
	}
}

// A token that can have fewer sessions than are configured signs with those.
func TestATokenWithFewSessionsSigns(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.LimitSessions(5)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Sessions = 8
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if err := signOnce(key); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("the worker was replaced %d times", n)
	}
}

// leave asks for a signature and loses interest soon.
func leave(t *testing.T, key *hsm.Key) error {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err := key.SignContext(ctx, make([]byte, 32), crypto.SHA256)
	return err
}

// A caller who leaves is answered at once; nobody else gets the answer that comes
// for it.
func TestALaneBelongsToItsCallerUntilTheAnswer(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Sessions = 4 // which leaves one lane
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	if err := signOnce(key); err != nil {
		t.Fatal(err)
	}
	s.Rules("C_Sign 0 sleep3000 once")
	start := time.Now()
	err := leave(t, key)
	if !errors.Is(err, hsm.ErrDeadline) || !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who leaves: %v", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it was let go after %v, want at once", d)
	}
	digest := bytes.Repeat([]byte{1}, 32)
	sig, err := key.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest, sig) {
		t.Errorf("the next caller has no signature of its own digest: %v", err)
	}
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("the worker was replaced %d times: it was slow, no more", n)
	}
}

// That the caller has left does not keep a worker that hangs.
func TestAHangIsNoticedWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Timeout = 5 * time.Second
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	s.Rules("C_Sign 0 hang once")
	if err := leave(t, key); !errors.Is(err, hsm.ErrDeadline) {
		t.Fatal(err)
	}
	until(t, token, func(s hsm.Status) bool { return s.Open && s.Restarts == 1 })
}

// A message longer than a pipe holds is not taken by a worker that is stopped: the
// caller is told in time.
func TestSendingHasADeadline(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Timeout = 5 * time.Second
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.Ed25519)
	message := make([]byte, 1<<20)
	if _, err := key.Sign(rand.Reader, message, crypto.Hash(0)); err != nil {
		t.Fatal(err)
	}
	freeze(t, token.Status().PID)
	start := time.Now()
	if _, err := key.Sign(rand.Reader, message, crypto.Hash(0)); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("a worker that takes nothing: %v, want ErrDeadline", err)
	}
	if d := time.Since(start); d > 2*cfg.Timeout {
		t.Errorf("told after %v", d)
	}
	if _, err := key.Sign(rand.Reader, message, crypto.Hash(0)); err != nil {
		t.Errorf("by the next worker: %v", err)
	}
}

// What a library leaves running holds the worker's files open. That the worker is
// gone is seen all the same, and why is told.
func TestACrashIsSeenWhateverItLeaves(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Timeout = patience
	var log bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	token, stop := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	s.Rules("C_Sign 0 orphan once")
	start := time.Now()
	if err := signOnce(key); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > cfg.Timeout/2 {
		t.Errorf("answered after %v: it waited for its time to be over", d)
	}
	stop()
	if text := log.String(); strings.Count(text, "HSM closed") != 1 || !strings.Contains(text, "(exit status ") && !strings.Contains(text, "(signal: ") {
		t.Errorf("the log does not tell how the worker ended:\n%s", text)
	}
	for _, no := range []string{"signet_login", "goroutine "} {
		if strings.Contains(log.String(), no) {
			t.Errorf("the log tells too much: %q\n%s", no, log.String())
		}
	}
}

// Every end of a worker is told with its reason, under load as well: callers see
// the end first, and do not know it.
func TestEveryEndIsToldWithItsReason(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	var log bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	token, halt := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				_ = signOnce(key)
			}
		})
	}
	for i := range 3 {
		if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, token, func(s hsm.Status) bool { return s.Open && s.Restarts > i })
	}
	cancel()
	callers.Wait()
	halt()
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "HSM closed") && !strings.Contains(line, "signal: killed") {
			t.Errorf("no reason: %s", line)
		}
	}
}

// The time that a request has counts from when it is carried out: several slow
// ones are no hang.
func TestRequestsThatWaitForOthersAreNoHang(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	cfg.Timeout = 5 * time.Second
	token, _ := open(t, cfg)
	newKey(t, token, "host", hsm.ECDSAP256)
	s.Rules("C_FindObjectsInit 0 sleep2000")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := token.Unknown(t.Context()); err != nil && !errors.Is(err, hsm.ErrDeadline) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("a worker that is well was replaced %d times", n)
	}
}

package hsm_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// patience is how long tests wait for what should be at once: machines are busy.
const patience = 30 * time.Second

// start runs a token until the test ends, or stop is called.
func start(t testing.TB, cfg hsm.Config) (token *hsm.Token, stop func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	token = hsm.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- token.Run(ctx) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return token, stop
}

// open is start, and waits until the token is open.
func open(t testing.TB, cfg hsm.Config) (token *hsm.Token, stop func()) {
	t.Helper()
	token, stop = start(t, cfg)
	until(t, token, func(s hsm.Status) bool { return s.Open })
	return token, stop
}

// until waits for a status.
func until(t testing.TB, token *hsm.Token, good func(hsm.Status) bool) hsm.Status {
	t.Helper()
	timeout := time.After(patience)
	for {
		changed := token.Changed()
		s := token.Status()
		if good(s) {
			return s
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("the token did not get there; status %+v", s)
		}
	}
}

// newKey makes a key.
func newKey(t testing.TB, token *hsm.Token, name string, typ hsm.KeyType) *hsm.Key {
	t.Helper()
	k, err := token.Reserve(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.Ensure(t.Context(), k.ID)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// fresh is a token with its ledger and guard.
func fresh(t testing.TB) (*hsmtest.SoftHSM, *hsmtest.Ledger, *hsmtest.Guard) {
	t.Helper()
	return hsmtest.New(t), &hsmtest.Ledger{}, &hsmtest.Guard{}
}

package hsm_test

import (
	"errors"
	"testing"

	"github.com/signet-agent/signet/hsm"
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

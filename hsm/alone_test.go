package hsm_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestWhatChangesTheTokenRunsAlone holds that nothing else is under way in the module
// while a key is made, destroyed or audited: SoftHSM spoils its objects otherwise.
func TestWhatChangesTheTokenRunsAlone(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	s.CountCalls()
	token, stop := open(t, s.Config(&hsmtest.Ledger{}, nil))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	if _, err := token.Wrap(t.Context(), []byte("data key")); err != nil {
		t.Fatal(err)
	}
	// Slow enough to meet others, if others are let in.
	s.Rules("C_GenerateKeyPair 0 sleep20", "C_DestroyObject 0 sleep20", "C_WrapKey 0 sleep20", "C_Sign 0 sleep2", "C_Encrypt 0 sleep2")
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !done.Load() {
				if err := signOnce(key); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for !done.Load() {
			if _, err := token.Wrap(t.Context(), []byte("data key")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		k := newKey(t, token, "short", hsm.ECDSAP256).Info()
		if err := token.SetState(k.ID, hsm.Retired); err != nil {
			t.Fatal(err)
		}
		if err := token.Destroy(t.Context(), k.ID); err != nil {
			t.Fatal(err)
		}
	}
	done.Store(true)
	wg.Wait()
	s.Rules()
	stop()
	if n := s.Calls()["overlaps"]; n != 0 {
		t.Errorf("%d calls were not alone, or met one that should have been", n)
	}
}

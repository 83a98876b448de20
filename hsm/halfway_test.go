package hsm_test

import (
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestLostHalfwayIsNotBelieved holds that a device which goes away while the token is
// being read is not taken for one on which something is missing: what was read before
// is forgotten, and the next worker asked.
func TestLostHalfwayIsNotBelieved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		rule string
		do   func(t *testing.T, token *hsm.Token, key *hsm.Key)
	}{
		{"listing", "C_GetAttributeValue 0 0x30 once", func(t *testing.T, token *hsm.Token, _ *hsm.Key) {
			nothingUnexplainedBut(t, token)
			if lost := token.Status().Lost; len(lost) > 0 {
				t.Errorf("lost: %q", lost)
			}
		}},
		{"finding", "C_GetAttributeValue 0 0x30 once", func(t *testing.T, token *hsm.Token, key *hsm.Key) {
			if info, err := token.Info(t.Context(), key.Info().ID); err != nil || !info.Audit.Passed || len(info.SPKI) == 0 {
				t.Errorf("%+v, %v", info, err)
			}
		}},
		{"reading what it is", "CKA_0x100 0 0x30 once", func(t *testing.T, token *hsm.Token, key *hsm.Key) { // CKA_KEY_TYPE
			if info, err := token.Info(t.Context(), key.Info().ID); err != nil || !info.Audit.Passed || len(info.SPKI) == 0 {
				t.Errorf("%+v, %v", info, err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
			key := newKey(t, token, "host", hsm.ECDSAP256)
			s.Rules(tt.rule)
			tt.do(t, token, key)
			if n := token.Status().Restarts; n != 1 {
				t.Errorf("it took %d workers, want 1", n)
			}
		})
	}
	t.Run("what it can do", func(t *testing.T) {
		t.Parallel()
		s := hsmtest.NewShim(t)
		s.Rules("C_GetMechanismInfo 0 0x30 once")
		token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
		if limits := token.Status().Limits; len(limits) > 0 {
			t.Errorf("it cannot: %q", limits)
		}
	})
	t.Run("which token it is", func(t *testing.T) {
		t.Parallel()
		s := hsmtest.NewShim(t)
		s.Rules("C_GetTokenInfo 0 0x30")
		token, _ := start(t, s.Config(&hsmtest.Ledger{}, nil))
		if e := closedBy(t, token); e.Name != "CKR_DEVICE_ERROR" || e.Hint() == "" {
			t.Errorf("got %v, want CKR_DEVICE_ERROR with a hint", e)
		}
	})
}

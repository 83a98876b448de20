package hsm_test

import (
	"errors"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestOnlyARefusalIsOne holds that an attempt to get a key out which fails for
// another reason than that the key must not leave does not pass its audit.
func TestOnlyARefusalIsOne(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule, read, wrap string // empty: there is no outcome, but an error
	}{
		{"C_WrapKey 0 0x6a", "refused", "refused"},
		{"C_WrapKey 0 0x69", "refused", "refused"},
		{"C_WrapKey 0 0x70", "refused", "untested"},
		{"C_WrapKey 0 0x6", "refused", "unclear"},
		{"C_WrapKey 0 0x20", "refused", "unclear"},
		{"C_WrapKey 0 0xb3", "", ""},
		{"C_WrapKey 0 0x5", "", ""},
		{"C_GenerateKey 0 0x54", "refused", "untested"},
		{"C_GenerateKey 0 0x6", "refused", "unclear"},
		{"CKA_0x11 0 0x11", "refused", "refused"},
		{"CKA_0x11 0 0x12", "refused", "refused"},
		{"CKA_0x11 0 0x6", "unclear", "refused"},
		{"CKA_0x162 0 0x6", "", ""}, // CKA_EXTRACTABLE
	} {
		t.Run(tt.rule, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
			old := newKey(t, token, "old", hsm.ECDSAP256).Info()
			k, err := token.Reserve("new", hsm.ECDSAP256)
			if err != nil {
				t.Fatal(err)
			}
			s.Rules(tt.rule)
			info, err := token.Info(t.Context(), old.ID)
			good := tt.read == "refused" && tt.wrap != "unclear"
			switch {
			case tt.read == "" && err == nil:
				t.Errorf("audit: %+v, want an error", info.Audit)
			case tt.read != "" && (err != nil || info.Audit.Passed != good || info.Audit.Read != tt.read || info.Audit.Wrap != tt.wrap):
				t.Errorf("audit: %+v, %v; want read %s, wrap %s", info.Audit, err, tt.read, tt.wrap)
			}
			_, err = token.Ensure(t.Context(), k.ID)
			if good != (err == nil) || tt.read != "" && !good && !errors.Is(err, hsm.ErrUntrusted) {
				t.Errorf("Ensure: %v; the audit is good: %v", err, good)
			}
			if state := token.Keys()[0].State; (state == hsm.Live) != good {
				t.Errorf("the key is %s", state)
			}
		})
	}
}

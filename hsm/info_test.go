package hsm

import (
	"testing"

	"github.com/signet-agent/signet/hsm/wire"
)

// TestSurplusUses holds that a key which can do more than it was asked for is noticed.
func TestSurplusUses(t *testing.T) {
	t.Parallel()
	uses := []string{"CKA_SIGN", "CKA_SIGN_RECOVER", "CKA_VERIFY", "CKA_ENCRYPT", "CKA_DECRYPT", "CKA_WRAP", "CKA_UNWRAP", "CKA_DERIVE"}
	for typ, want := range map[KeyType]int{RSA2048: 4, ECDSAP256: 4, Ed25519: 4, sealRSA: 4, sealAES: 6} {
		a := &wire.Audited{Attributes: map[string]any{}}
		if got := surplus(typ, a); len(got) != 0 {
			t.Errorf("%s, nothing stated: %q", typ, got)
		}
		for _, use := range uses {
			a.Attributes[use] = true
		}
		if got := surplus(typ, a); len(got) != want {
			t.Errorf("%s, all uses: %d are too many (%q), want %d", typ, len(got), got, want)
		}
	}
}

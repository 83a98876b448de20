package worker

import (
	"testing"

	"github.com/miekg/pkcs11"
)

// TestNoMoreSessionsThanTheTokenHas holds that a token with few sessions is not
// asked for more, however many are configured. (T49)
func TestNoMoreSessionsThanTheTokenHas(t *testing.T) {
	const others = crypto11Sessions + 1 // that sign nothing
	for _, tt := range []struct {
		configured    int
		most, writing uint
		want          int // open at once
	}{
		{8, 16, 16, 8},
		{64, 16, 16, 16},
		{8, 4, 4, 4},
		{4, 16, 16, 4},
		{8, 16, 5, 5},
		{8, pkcs11.CK_EFFECTIVELY_INFINITE, pkcs11.CK_EFFECTIVELY_INFINITE, 8},
		{8, pkcs11.CK_UNAVAILABLE_INFORMATION, pkcs11.CK_UNAVAILABLE_INFORMATION, 8},
		{8, 16, pkcs11.CK_UNAVAILABLE_INFORMATION, 8},
		{8, pkcs11.CK_EFFECTIVELY_INFINITE, 6, 6},
	} {
		info := pkcs11.TokenInfo{MaxSessionCount: tt.most, MaxRwSessionCount: tt.writing}
		if got := signers(tt.configured, info) + others; got != tt.want {
			t.Errorf("%d configured, the token has %d, %d that write: %d, want %d", tt.configured, tt.most, tt.writing, got, tt.want)
		}
	}
}

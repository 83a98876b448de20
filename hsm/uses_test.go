package hsm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// usages are the uses of all keys on the token of one kind, as another program sees
// them.
func usages(s *hsmtest.SoftHSM, typ string) (all []string) {
	for line := range strings.Lines(s.Tool("-O", "--type", typ)) {
		if _, usage, ok := strings.Cut(line, "Usage:"); ok {
			all = append(all, strings.TrimSpace(usage))
		}
	}
	return all
}

// TestFailuresMakeNoWiderKeys holds that a generation that fails for another reason
// than its template does not change what keys are made for; and that if the template
// is to blame, what is left away first is what is said of the public half.
func TestFailuresMakeNoWiderKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rules   []string
		fails   bool
		private string
	}{
		{nil, false, "sign"},
		{[]string{"C_GenerateKeyPair 0 0x5 once"}, true, "sign"},
		{[]string{"C_GenerateKeyPair 0 0x6 once"}, true, "sign"},
		{[]string{"C_GenerateKeyPair 1 0x13"}, false, "sign"},
		{[]string{"C_GenerateKeyPair 1 0xd1", "C_GenerateKeyPair 2 0x12"}, false, "decrypt, sign, unwrap"},
	} {
		t.Run(strings.Join(tt.rules, ";"), func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
			k, err := token.Reserve("first", hsm.RSA2048)
			if err != nil {
				t.Fatal(err)
			}
			s.Rules(tt.rules...)
			_, err = token.Ensure(t.Context(), k.ID)
			var e *hsm.Error
			if tt.fails != (errors.As(err, &e) && strings.HasPrefix(e.Name, "CKR_")) || !tt.fails && err != nil {
				t.Errorf("the first key: %v", err)
			}
			if _, err := token.Ensure(t.Context(), k.ID); err != nil {
				t.Fatal(err)
			}
			newKey(t, token, "second", hsm.RSA2048)
			for _, usage := range usages(s.SoftHSM, "privkey") {
				if usage != tt.private {
					t.Errorf("a private half is for %q, want %q", usage, tt.private)
				}
			}
		})
	}
}

// TestPublicHalvesAreForOneUse holds that public halves, too, are told what they are
// not for, where the module lets itself be told.
func TestPublicHalvesAreForOneUse(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	for _, typ := range []hsm.KeyType{hsm.RSA2048, hsm.ECDSAP256, hsm.Ed25519} {
		newKey(t, token, string(typ), typ)
	}
	all := usages(s, "pubkey")
	for _, usage := range all {
		if usage != "verify" {
			t.Errorf("a public half is for %q, want verify", usage)
		}
	}
	if len(all) != 3 {
		t.Errorf("%d public halves", len(all))
	}
}

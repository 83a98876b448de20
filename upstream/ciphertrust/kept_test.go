package ciphertrust_test

import (
	"testing"
	"testing/synctest"

	"github.com/signet-agent/signet/upstream/ciphertrust"
)

// A login that was kept and is spoilt is made anew: it locks nobody out. (T33)
func TestASpoiltLoginIsMadeAnew(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"cut short": func(b []byte) []byte { return b[:len(b)/2] },
		"zeros":     func(b []byte) []byte { return make([]byte, len(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				b.token(ciphertrust.NewLogin(b.cfg))
				b.keeper.text = spoil(b.keeper.text)
				b.token(ciphertrust.NewLogin(b.cfg))
				calls := b.calls("/api/v1/auth/tokens", 0)
				b.token(ciphertrust.NewLogin(b.cfg)) // the new one is kept, and used
				if n := b.calls("/api/v1/auth/tokens", 0) - calls; n != 1 {
					t.Errorf("%d calls for a token, want one with the new refresh token", n)
				}
			})
		})
	}
}

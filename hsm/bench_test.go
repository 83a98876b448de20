package hsm_test

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"log/slog"
	"testing"

	"github.com/signet-agent/signet/hsm"
)

// BenchmarkSign measures signatures through the worker, with one caller and with
// sixteen.
func BenchmarkSign(b *testing.B) {
	s, ledger, guard := fresh(b)
	cfg := s.Config(ledger, guard)
	cfg.Log = slog.New(slog.DiscardHandler)
	token, _ := open(b, cfg)
	digest := make([]byte, 32)
	for _, typ := range []hsm.KeyType{hsm.RSA2048, hsm.ECDSAP256} {
		key := newKey(b, token, string(typ), typ)
		for _, callers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/callers=%d", typ, callers), func(b *testing.B) {
				b.SetParallelism((callers + 1) / 2)
				if callers == 1 {
					for b.Loop() {
						if _, err := key.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := key.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

package agent

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"testing"
)

// A serial number is shown as whole bytes, as openssl and the issuers do, so
// that one can be looked for by the other.
func TestASerialNumberIsWholeBytes(t *testing.T) {
	ca := newTestCA(t, day)
	for n, want := range map[int64]string{7: "07", 0x7f: "7f", 0xabc: "0abc", 0x1000: "1000"} {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(n)}, ca.cert, ca.key.Public(), ca.key)
		if err != nil {
			t.Fatal(err)
		}
		if got := serialOf([][]byte{der}); got != want {
			t.Errorf("%#x is shown as %q, want %q", n, got, want)
		}
	}
}

package wire

import "fmt"

// A Scheme says how the worker signs.
type Scheme uint8

// The schemes, with what the data to be signed is.
const (
	// SchemePKCS1 signs a DigestInfo with RSA, PKCS#1 v1.5.
	SchemePKCS1 Scheme = iota + 1
	// SchemePSS256 and the two after it sign a digest with RSA-PSS, with a
	// salt as long as the digest and the same hash in MGF1.
	SchemePSS256
	SchemePSS384
	SchemePSS512
	// SchemeECDSA signs a digest already cut to the length of the order; the
	// signature is r and s, each of the length of the order.
	SchemeECDSA
	// SchemeEd25519 signs the message itself.
	SchemeEd25519
	// Schemes is one more than the last.
	Schemes = iota + 1
)

// A Sign is the request of [OpSign], on a [Lane]; the reply is the bare signature.
type Sign struct {
	ID     []byte // CKA_ID, at most 255 bytes
	Scheme Scheme
	Data   []byte
}

// Head is what comes before the data: length of id, id, scheme.
func (s Sign) Head() []byte {
	b := make([]byte, 0, 2+32)
	b = append(b, byte(len(s.ID)))
	b = append(b, s.ID...)
	return append(b, byte(s.Scheme))
}

// ParseSign unpacks a head with the data after it. The result refers to b.
func ParseSign(b []byte) (Sign, error) {
	if len(b) < 2 || len(b) < 2+int(b[0]) {
		return Sign{}, fmt.Errorf("%w: sign request of %d bytes", ErrFrame, len(b))
	}
	n := int(b[0])
	return Sign{ID: b[1 : 1+n], Scheme: Scheme(b[1+n]), Data: b[2+n:]}, nil
}

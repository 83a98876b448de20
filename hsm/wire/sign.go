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
)

// A Sign is the request of [OpSign]; the reply is the bare signature.
type Sign struct {
	ID     []byte // CKA_ID, at most 255 bytes
	Scheme Scheme
	Data   []byte
}

// AppendTo packs s: length of id, id, scheme, data.
func (s Sign) AppendTo(b []byte) []byte {
	b = append(b, byte(len(s.ID)))
	b = append(b, s.ID...)
	b = append(b, byte(s.Scheme))
	return append(b, s.Data...)
}

// ParseSign unpacks what AppendTo made. The result refers to b.
func ParseSign(b []byte) (Sign, error) {
	if len(b) < 2 || len(b) < 2+int(b[0]) {
		return Sign{}, fmt.Errorf("%w: sign request of %d bytes", ErrFrame, len(b))
	}
	n := int(b[0])
	return Sign{ID: b[1 : 1+n], Scheme: Scheme(b[1+n]), Data: b[2+n:]}, nil
}

package sinks

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"unicode/utf8"
)

// JSON are the fields as one object, with a newline. Errors name fields, never
// values.
func (f Fields) JSON() ([]byte, error) {
	m := map[string]string{}
	for i := range f {
		text := f[i].Value.Reveal()
		if !utf8.Valid(text) {
			return nil, fmt.Errorf("field %q is not text, which JSON needs", f[i].Name)
		}
		m[f[i].Name] = string(text)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return nil, errors.New("not representable in JSON")
	}
	return b.Bytes(), nil
}

// ChainPEM is the chain in PEM, leaf first.
func (c *Certificate) ChainPEM() ([]byte, error) {
	if len(c.Chain) == 0 {
		return nil, errors.New("there is no certificate in the chain")
	}
	return PEM(c.Chain), nil
}

// PEM are certificates in PEM.
func PEM(ders [][]byte) []byte {
	var b []byte
	for _, der := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return b
}

// KeyPEM is the private key in PEM, once it is seen to be that of the leaf: a
// consumer that loads a mismatched pair goes down.
func (c *Certificate) KeyPEM() ([]byte, error) {
	if len(c.Chain) == 0 {
		return nil, errors.New("there is no certificate in the chain")
	}
	text := c.Key.Reveal()
	if len(text) == 0 {
		return nil, fmt.Errorf("the key of certificate %q is in the HSM and cannot be written", c.Name)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the private key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key is not PKCS#8")
	}
	leaf, err := x509.ParseCertificate(c.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("the certificate is malformed: %w", err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(leaf.PublicKey) {
		return nil, errors.New("certificate and private key do not belong together")
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(bytes.Clone(text), '\n')
	}
	return text, nil
}

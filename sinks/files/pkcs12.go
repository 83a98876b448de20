package files

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/signet-agent/signet/sinks"
)

// renderPKCS12 makes a PKCS#12 file, which Java reads as a key store. The same
// pair and password give the same bytes, as a file that did not change must not
// be written again: what would be random is derived from the key.
func (e *entry) renderPKCS12(c *sinks.Certificate) ([]byte, error) {
	password, err := e.Password()
	if err != nil {
		return nil, fmt.Errorf("password: %w", err)
	}
	block, _ := pem.Decode(c.Key.Reveal()) // KeyPEM has parsed it
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key is not PKCS#8")
	}
	var chain []*x509.Certificate
	for _, der := range c.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the certificate is malformed: %w", err)
		}
		chain = append(chain, cert)
	}
	const enough = 4096 // of salts and initialisation vectors
	salt := sha256.Sum256(slices.Concat(slices.Concat(c.Chain...), password.Reveal()))
	random, err := hkdf.Key(sha256.New, block.Bytes, salt[:], "signet pkcs12", enough)
	if err != nil {
		return nil, err
	}
	b, err := pkcs12.Modern2023.WithRand(bytes.NewReader(random)).Encode(key, chain[0], chain[1:], string(password.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("pkcs12: %w", err)
	}
	return b, nil
}

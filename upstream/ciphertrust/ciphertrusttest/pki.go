package ciphertrusttest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// newSigner makes a key as the API names it. With no algorithm it is of the
// kind that byDefault says.
func newSigner(algorithm string, size int) (crypto.Signer, *refusal) {
	switch strings.ToUpper(algorithm) {
	case "RSA":
		switch size {
		case 0:
			size = 2048
		case 1024, 2048, 3072, 4096:
		default:
			return nil, invalid("size: want 1024, 2048, 3072 or 4096 for RSA")
		}
		key, err := rsa.GenerateKey(rand.Reader, size)
		if err != nil {
			return nil, internal()
		}
		return key, nil
	case "", "ECDSA", "EC":
		curve, ok := map[int]elliptic.Curve{0: elliptic.P256(), 256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[size]
		if !ok {
			return nil, invalid("size: want 256, 384 or 521 for ECDSA")
		}
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			return nil, internal()
		}
		return key, nil
	}
	return nil, invalid("algorithm: want RSA or ECDSA")
}

// parseCSR reads a certificate signing request whose signature is right.
func parseCSR(text string) (*x509.CertificateRequest, *refusal) {
	if text == "" {
		return nil, invalid("csr is required")
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 ||
		block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, invalid("csr: not a PEM of one certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, invalid("csr: cannot be read, or not signed by its key")
	}
	return csr, nil
}

// parseCertificate reads the first certificate of a PEM.
func parseCertificate(text string) (*x509.Certificate, *refusal) {
	if text == "" {
		return nil, invalid("cert is required")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, invalid("cert: not a PEM of a certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, invalid("cert: cannot be read")
	}
	return cert, nil
}

// isCA reports whether a certificate is one of a CA.
func isCA(cert *x509.Certificate) bool {
	return cert.BasicConstraintsValid && cert.IsCA && cert.KeyUsage&x509.KeyUsageCertSign != 0
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// validity is how a request says from when and until when.
type validity struct {
	Duration  int    `json:"duration"` // days
	NotBefore string `json:"notBefore"`
	NotAfter  string `json:"notAfter"`
}

// back is how far certificates are dated back.
const back = 24 * time.Hour

// span is the validity that is asked for; byDefault days if nothing is, unless
// that is 0.
func (v validity) span(now time.Time, byDefault int) (from, until time.Time, no *refusal) {
	from = now.Add(-back)
	if t, no := optionalTime("notBefore", v.NotBefore); no != nil {
		return from, until, no
	} else if t != nil {
		from = *t
	}
	end, no := optionalTime("notAfter", v.NotAfter)
	if no != nil {
		return from, until, no
	}
	days := v.Duration
	if days == 0 {
		days = byDefault
	}
	switch {
	case end != nil:
		until = *end
	case days > 0:
		until = now.AddDate(0, 0, days)
	default:
		return from, until, invalid("duration or notAfter is required, and positive")
	}
	if !until.After(from) || !until.After(now) {
		return from, until, invalid("notAfter: the certificate would be over before it begins")
	}
	return from.UTC().Truncate(time.Second), until.UTC().Truncate(time.Second), nil
}

// sign makes a certificate. Its serial number is chosen here.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, *refusal) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, internal()
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, invalid(fmt.Sprintf("cannot be certified: %v", err))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, internal()
	}
	return cert, nil
}

// caTemplate is the template of a CA's certificate with the names of its CSR.
func caTemplate(csr *x509.CertificateRequest, from, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		RawSubject: csr.RawSubject, DNSNames: csr.DNSNames, EmailAddresses: csr.EmailAddresses, IPAddresses: csr.IPAddresses,
		URIs: csr.URIs, NotBefore: from, NotAfter: until,
		BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
}

func marshalKey(key crypto.Signer) ([]byte, *refusal) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, internal()
	}
	return der, nil
}

// unmarshalKey reads what marshalKey wrote.
func unmarshalKey(der []byte) (crypto.Signer, *refusal) {
	any, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := any.(crypto.Signer)
	if err != nil || !ok {
		return nil, internal()
	}
	return key, nil
}

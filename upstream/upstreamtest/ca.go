package upstreamtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CAConfig says what CA to make.
type CAConfig struct {
	// Subject is the name of the CA. If it is empty, the common name is
	// "Signet simulator CA".
	Subject pkix.Name
	// RSA asks for an RSA key of 2048 bits instead of ECDSA P-256, for products
	// whose CA signs with RSA.
	RSA bool
}

// A CA signs the server certificates of simulators, and client certificates.
type CA struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// NewCA makes a CA in memory.
func NewCA(c CAConfig) (*CA, error) {
	if c.Subject.String() == "" {
		c.Subject.CommonName = "Signet simulator CA"
	}
	key, err := newKey(c.RSA)
	if err != nil {
		return nil, fmt.Errorf("CA %q: make key: %w", c.Subject, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: NewSerial(),
		Subject:      c.Subject,
		// Long on both sides, because clocks of simulators are set.
		NotBefore:             now.AddDate(-1, 0, 0),
		NotAfter:              now.AddDate(30, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("CA %q: sign itself: %w", c.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("CA %q: %w", c.Subject, err)
	}
	return &CA{Certificate: cert, key: key}, nil
}

func newKey(useRSA bool) (crypto.Signer, error) {
	if useRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// LoadCA returns the CA kept in dir under the given name, as NAME.pem and
// NAME.key. If there is none yet it is made as c says, and kept.
func LoadCA(dir, name string, c CAConfig) (*CA, error) {
	certFile, keyFile := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil {
		key, ok := pair.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("CA in %s: its key cannot sign", keyFile)
		}
		return &CA{Certificate: pair.Leaf, key: key}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("CA in %s: %w", certFile, err)
	}
	ca, err := NewCA(c)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, fmt.Errorf("CA in %s: %w", keyFile, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("CA in %s: %w", dir, err)
	}
	// The key goes first: a certificate that is there has its key.
	if err := writeDurably(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, err
	}
	return ca, writeDurably(certFile, ca.PEM())
}

// PEM is the certificate of the CA, as it is handed to clients.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})
}

// Signer is the CA's key, for products that sign more than certificates.
func (ca *CA) Signer() crypto.Signer { return ca.key }

// Pool holds the CA alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	return pool
}

// Issue signs template for the public key and returns the certificate in DER.
// A template without serial number gets a random one.
func (ca *CA) Issue(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	t := *template
	if t.SerialNumber == nil {
		t.SerialNumber = NewSerial()
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, ca.Certificate, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("CA %q: sign: %w", ca.Certificate.Subject, err)
	}
	return der, nil
}

// Issued reports whether the CA signed the certificate, whatever its dates.
func (ca *CA) Issued(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, ca.Certificate.RawSubject) &&
		cert.CheckSignatureFrom(ca.Certificate) == nil
}

// Server makes a server certificate for the given names and addresses, or for
// loopback if there are none.
func (ca *CA) Server(hosts ...string) (*tls.Certificate, error) {
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return ca.pair(template)
}

// Client makes a client certificate with a key of its own, for tests that need
// just any.
func (ca *CA) Client(commonName string) (*tls.Certificate, error) {
	return ca.pair(&x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// pair makes a key and signs template for it.
func (ca *CA) pair(template *x509.Certificate) (*tls.Certificate, error) {
	key, err := newKey(false)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: make key: %w", template.Subject, err)
	}
	now := time.Now()
	template.NotBefore, template.NotAfter = now.AddDate(0, 0, -1), now.AddDate(10, 0, 0)
	der, err := ca.Issue(template, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", template.Subject, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// NewSerial is a random serial number of at most 128 bits.
func NewSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] |= 0x40        // 16 bytes long in every case, and positive
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

package hsm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha3"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
)

var allTypes = []hsm.KeyType{hsm.RSA2048, hsm.RSA3072, hsm.RSA4096, hsm.ECDSAP256, hsm.ECDSAP384, hsm.ECDSAP521, hsm.Ed25519}

// TestSignsWithEveryAlgorithm holds that each algorithm's signatures verify, with
// each hash and padding, and that everything else is refused before the module.
func TestSignsWithEveryAlgorithm(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Timeout = 30 * time.Second // large RSA keys take theirs on a busy machine
	token, _ := open(t, cfg)
	for _, typ := range allTypes {
		t.Run(string(typ), func(t *testing.T) {
			key := newKey(t, token, "k-"+string(typ), typ)
			signsAll(t, key)
			servesTLS(t, key)
			requestsCertificate(t, key)
		})
	}
}

func signsAll(t *testing.T, key *hsm.Key) {
	if pub, ok := key.Public().(ed25519.PublicKey); ok {
		msg := []byte("what is signed")
		sig, err := key.Sign(rand.Reader, msg, crypto.Hash(0))
		if err != nil || !ed25519.Verify(pub, msg, sig) {
			t.Errorf("Ed25519: %v", err)
		}
		refused(t, key, msg, crypto.SHA512)
		refused(t, key, msg, &ed25519.Options{Context: "x"})
		refused(t, key, nil, crypto.Hash(0))
		return
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		w := h.New()
		w.Write([]byte("what is signed"))
		digest := w.Sum(nil)
		switch pub := key.Public().(type) {
		case *ecdsa.PublicKey:
			sig, err := key.Sign(rand.Reader, digest, h)
			if err != nil || !ecdsa.VerifyASN1(pub, digest, sig) {
				t.Errorf("ECDSA with %v: %v", h, err)
			}
		case *rsa.PublicKey:
			sig, err := key.Sign(rand.Reader, digest, h)
			if err != nil || rsa.VerifyPKCS1v15(pub, h, digest, sig) != nil {
				t.Errorf("PKCS#1 v1.5 with %v: %v", h, err)
			}
			for _, salt := range []int{rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto, h.Size()} {
				opts := &rsa.PSSOptions{SaltLength: salt, Hash: h}
				sig, err = key.Sign(rand.Reader, digest, opts)
				if err != nil || rsa.VerifyPSS(pub, h, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) != nil {
					t.Errorf("PSS with %v, salt %d: %v", h, salt, err)
				}
			}
			refused(t, key, digest, &rsa.PSSOptions{SaltLength: 7, Hash: h})
		}
		refused(t, key, digest[1:], h)
		refused(t, key, append(digest, 0), h)
	}
	for _, h := range []crypto.Hash{0, crypto.MD5, crypto.SHA1, crypto.SHA224, crypto.SHA512_256, crypto.SHA3_256, crypto.MD5SHA1} {
		refused(t, key, make([]byte, 32), h)
	}
	refused(t, key, make([]byte, 32), nil)
}

func refused(t *testing.T, key *hsm.Key, digest []byte, opts crypto.SignerOpts) {
	t.Helper()
	sig, err := key.Sign(rand.Reader, digest, opts)
	if !errors.Is(err, hsm.ErrInvalid) || sig != nil {
		t.Errorf("%T %v, %d bytes: got %v, want it refused", opts, opts, len(digest), err)
	}
}

// TestNonsenseNeedsNoToken holds that what makes no sense is refused before the
// module sees it: it is refused in the same way when there is none.
func TestNonsenseNeedsNoToken(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, stop := open(t, s.Config(ledger, guard))
	key := newKey(t, token, "host", hsm.RSA2048)
	stop()
	digest := make([]byte, 32)
	if _, err := key.Sign(rand.Reader, digest, crypto.SHA256); !errors.Is(err, hsm.ErrClosed) {
		t.Fatalf("signing without token: %v", err)
	}
	refused(t, key, digest, crypto.SHA1)
	refused(t, key, digest, crypto.SHA512_256)
	refused(t, key, digest[1:], crypto.SHA256)
	refused(t, key, digest, &rsa.PSSOptions{SaltLength: 7, Hash: crypto.SHA256})
	if _, err := token.Reserve("host", "rsa-1024"); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("a type that there is not: %v", err)
	}
	if _, err := token.Key(t.Context(), "00"); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("a key that is not there: %v", err)
	}
}

// selfSigned is a certificate for the key, signed by it.
func selfSigned(t testing.TB, key *hsm.Key) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: key.Info().String()}, DNSNames: []string{"hsm.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// servesTLS makes handshakes with the key on both sides.
func servesTLS(t *testing.T, key *hsm.Key) {
	t.Helper()
	leaf := selfSigned(t, key)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	pair := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		server := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MaxVersion: version}
		client := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: "hsm.test", MaxVersion: version}
		c1, c2 := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(c2, server).HandshakeContext(t.Context()) }()
		conn := tls.Client(c1, client)
		err := conn.HandshakeContext(t.Context())
		if err == nil {
			err = <-done
		}
		if err != nil {
			t.Errorf("TLS %x: %v", version, err)
		}
		c1.Close()
		c2.Close()
	}
}

func requestsCertificate(t *testing.T, key *hsm.Key) {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "host"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		t.Errorf("request: %v", err)
	}
}

// TestKeysSurviveRestart holds that keys are found again, the same ones, and that
// generations count on.
func TestKeysSurviveRestart(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, stop := open(t, s.Config(ledger, guard))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	stop()

	token, _ = open(t, s.Config(ledger, guard))
	again, err := token.Key(t.Context(), key.Info().ID)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.SPKI(), key.SPKI()) {
		t.Error("another public key after the restart")
	}
	signsAll(t, again)
	plain, err := token.Unwrap(t.Context(), blob)
	if err != nil || string(plain) != "data key" {
		t.Errorf("Unwrap after the restart: %q, %v", plain, err)
	}
	if next := newKey(t, token, "host", hsm.RSA2048); next.Info().String() != "host#2" {
		t.Errorf("next generation is %v, want host#2", next.Info())
	}
	if unknown, err := token.Unknown(t.Context()); err != nil || len(unknown) != 0 {
		t.Errorf("unknown objects %v, %v; want none", unknown, err)
	}
}

// TestConcurrentCallers holds that many callers are answered while keys are made.
func TestConcurrentCallers(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Sessions = 5
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	errs := make(chan error)
	for i := range 16 {
		go func() {
			for range 50 {
				if err := signOnce(key); err != nil {
					errs <- fmt.Errorf("caller %d: %w", i, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for i := range 5 {
		newKey(t, token, fmt.Sprintf("other%d", i), hsm.ECDSAP256)
	}
	for range 16 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// signOnce signs and verifies.
func signOnce(key *hsm.Key) error {
	digest := make([]byte, 32)
	rand.Read(digest)
	sig, err := key.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest, sig) {
		return errors.New("wrong signature")
	}
	return nil
}

package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// memKeys is a keyring in memory. It refuses what a token would lose a key by.
type memKeys struct {
	mu      sync.Mutex
	keys    map[string]crypto.Signer // nil: reserved
	made    int
	retired int
	// replaced are the keys that have a successor in use, as the ledger knows it.
	replaced map[string]bool
}

func newMemKeys() *memKeys {
	return &memKeys{keys: map[string]crypto.Signer{}, replaced: map[string]bool{}}
}

func (m *memKeys) Replaced(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replaced[id] = true
	return nil
}

// retiring are the keys that are there and were replaced.
func (m *memKeys) retiring() (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.keys {
		if m.replaced[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *memKeys) Reserve(string) (string, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made++
	id := fmt.Sprintf("k%d", m.made)
	m.keys[id] = nil
	return id, m.made, nil
}

func (m *memKeys) Ensure(_ context.Context, id string) (crypto.Signer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.keys[id]
	if !ok {
		return nil, fmt.Errorf("key %s was never reserved", id)
	}
	if k == nil {
		var err error
		if k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
		m.keys[id] = k
	}
	return k, nil
}

func (m *memKeys) Signer(id string, _ crypto.PublicKey) crypto.Signer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys[id]
}

func (m *memKeys) Retire(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.keys[id]; ok {
		delete(m.keys, id)
		m.retired++
	}
	return nil
}

func (m *memKeys) Forget(_ context.Context, _ string, keep []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, key := range m.keys {
		if key == nil && !slices.Contains(keep, id) {
			delete(m.keys, id)
		}
	}
	return nil
}

// count is how many keys there are, and how many were retired.
func (m *memKeys) count() (keys, retired int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.keys), m.retired
}

// A testCA issues certificates of a fixed life and remembers what it did.
type testCA struct {
	life  time.Duration // 0 = as long as asked for
	clock func() time.Time
	key   crypto.Signer
	cert  *x509.Certificate

	mu         sync.Mutex
	down       func() error // asked first; nil = up
	requests   []upstream.CertificateRequest
	registered int
	change     func(*x509.Certificate) // makes the certificate a wrong one
	lose       bool                    // the next answer is lost after it was carried out
	unproven   error
	proofs     int
	once       bool                 // registers once, whatever is asked
	refuse     upstream.RequestKind // is refused, unless it is Register
	unknown    map[string]bool      // serial numbers of certificates that are not taken any more
	present    [][]byte             // is what a renewal answers, if not nil
}

func newTestCA(t *testing.T, life time.Duration) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-day), NotAfter: time.Now().Add(100 * 365 * day), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{life: life, clock: time.Now, key: key, cert: cert}
}

func (ca *testCA) Issue(_ context.Context, req upstream.CertificateRequest) (upstream.Issued, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if ca.down != nil {
		if err := ca.down(); err != nil {
			return upstream.Issued{}, err
		}
	}
	if ca.refuse != upstream.Register && req.Kind == ca.refuse {
		return upstream.Issued{}, &upstream.Error{Upstream: "ca", Op: "issue", Code: upstream.Invalid, Status: 422}
	}
	if req.Current != nil && ca.unknown[serialOf(req.Current.Certificate)] {
		return upstream.Issued{}, &upstream.Error{Upstream: "ca", Op: "issue", Code: upstream.Unavailable, Status: 401}
	}
	ca.requests = append(ca.requests, req)
	if req.Kind == upstream.Renew && ca.present != nil {
		return upstream.Issued{Chain: ca.present}, nil
	}
	if req.Kind == upstream.Register {
		if ca.once && ca.registered > 0 {
			return upstream.Issued{}, &upstream.Error{Upstream: "ca", Op: "register", Code: upstream.Unavailable, Status: 401}
		}
		if ca.registered++; ca.registered > 1 && req.Uncertain {
			return upstream.Issued{}, &upstream.Error{Upstream: "ca", Op: "register", Code: upstream.Lost, Remedy: "ask for a new account"}
		}
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return upstream.Issued{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(ca.requests) + 1)), Subject: csr.Subject, DNSNames: csr.DNSNames,
		IPAddresses: csr.IPAddresses, EmailAddresses: csr.EmailAddresses, URIs: csr.URIs,
		NotBefore: ca.clock().Add(-day), NotAfter: ca.clock().Add(ca.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if ca.life == 0 {
		tmpl.NotAfter = ca.clock().Add(req.Options.Duration)
	}
	pub := csr.PublicKey
	if ca.change != nil {
		ca.change(tmpl)
		if tmpl.PublicKey != nil {
			pub = tmpl.PublicKey
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		return upstream.Issued{}, err
	}
	if ca.lose {
		ca.lose = false
		return upstream.Issued{}, &upstream.Error{Upstream: "ca", Op: "issue", Code: upstream.Unavailable, Sent: true}
	}
	return upstream.Issued{Chain: [][]byte{der}}, nil
}

func (ca *testCA) Prove(_ context.Context, cert tls.Certificate) error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.proofs++
	if ca.unknown[serialOf(cert.Certificate)] {
		return &upstream.Error{Upstream: "ca", Op: "prove", Code: upstream.Unavailable, Status: 401}
	}
	return ca.unproven
}

// failProofs has every proof from now on end with err.
func (ca *testCA) failProofs(err error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.unproven = err
}

// disown makes the CA take none of these any more, and every other again.
func (ca *testCA) disown(list ...version) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.unknown = map[string]bool{}
	for _, v := range list {
		ca.unknown[serialOf(v.Chain)] = true
	}
}

// keepTo makes the CA answer renewals with this one; nil = a new one.
func (ca *testCA) keepTo(chain [][]byte) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.present = chain
}

// proven counts the proofs so far.
func (ca *testCA) proven() int {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.proofs
}

// fail makes the CA ask down before it does anything; nil = up.
func (ca *testCA) fail(down func() error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.down = down
}

func (ca *testCA) asked() []upstream.CertificateRequest {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.requests
}

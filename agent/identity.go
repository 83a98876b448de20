package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
)

// An identity is what the host shows upstreams in mutual TLS: the newest client
// certificate that worked, and its key in the HSM.
type identity struct {
	name string
	cert atomic.Pointer[tls.Certificate] // nil until enrolled
	// users are the upstreams that it is shown to. It does not change after
	// start.
	users []*service
	// doubt is told when one of them refuses it. It does not change after start
	// either.
	doubt func()
	// locked says why the certificate may be there and not be known yet, or is nil.
	// It does not change after start.
	locked func() error
	// enrolled is closed at the first certificate.
	enrolled chan struct{}
	once     sync.Once
}

func newIdentity(name string) *identity {
	return &identity{name: name, enrolled: make(chan struct{})}
}

// certificate is the identity as TLS wants it, for each handshake.
func (i *identity) certificate(context.Context) (*tls.Certificate, error) {
	c := i.cert.Load()
	if c == nil {
		if err := i.locked(); err != nil {
			return nil, fmt.Errorf("identity %q: %w", i.name, err)
		}
		return nil, &refusal{"unavailable", fmt.Sprintf("identity %q has no certificate yet; enrol it with `signet enroll %s`", i.name, i.name)}
	}
	return c, nil
}

// publish makes a version the one that is shown from now on, and reports whether
// it was another one before.
func (i *identity) publish(keys keyring, v version) (changed bool, err error) {
	if c := i.cert.Load(); c != nil && sameChain(c.Certificate, v.Chain) {
		return false, nil
	}
	leaf, err := x509.ParseCertificate(v.Chain[0])
	if err != nil {
		return false, fmt.Errorf("read back the certificate: %w", err)
	}
	i.cert.Store(&tls.Certificate{Certificate: v.Chain, Leaf: leaf, PrivateKey: keys.Signer(v.KeyID, leaf.PublicKey)})
	for _, s := range i.users {
		s.http.Reset()
	}
	i.once.Do(func() { close(i.enrolled) })
	return true, nil
}

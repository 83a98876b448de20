package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"time"
)

// lookAgain is how often a certificate is looked at that no event spoke of.
const lookAgain = 30 * time.Second

// TLSConfig returns a configuration that presents a certificate, as a server or
// as a client, and follows its renewals and rotations until the Client is
// closed: each handshake uses the newest. Where the key is in the HSM, each
// handshake is one signature by the agent.
//
// The caller may set further fields before using it, such as ClientAuth or
// RootCAs.
func (c *Client) TLSConfig(ctx context.Context, certificate string) (*tls.Config, error) {
	k := &keptCertificate{c: c, name: certificate}
	if err := k.read(ctx); err != nil {
		return nil, err
	}
	wake := make(chan struct{}, 1)
	c.background(func(ctx context.Context) { k.listen(ctx, wake) })
	c.background(func(ctx context.Context) { k.follow(ctx, wake) })
	return &tls.Config{
		MinVersion:           tls.VersionTLS12,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.now.Load().tls, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.now.Load().tls, nil },
	}, nil
}

// A keptCertificate is the copy of a certificate in this process.
type keptCertificate struct {
	c    *Client
	name string
	now  atomic.Pointer[readyCertificate]
}

// A readyCertificate is one version of it.
type readyCertificate struct {
	pem string
	tls *tls.Certificate
}

// read takes over the certificate as it is now. One that cannot be used leaves
// the one of before in place.
func (k *keptCertificate) read(ctx context.Context) error {
	cert, err := k.c.Certificate(ctx, k.name)
	if err != nil {
		return err
	}
	if now := k.now.Load(); now != nil && now.pem == cert.Certificate {
		return nil
	}
	ready, err := cert.tls(func(pub crypto.PublicKey) crypto.Signer {
		return &signer{c: k.c, key: k.name, generation: cert.Generation, pub: pub}
	})
	if err != nil {
		return err
	}
	if old := k.now.Load(); old != nil && older(ready.Leaf, old.tls.Leaf) {
		return nil
	}
	k.now.Store(&readyCertificate{pem: cert.Certificate, tls: ready})
	return nil
}

// older reports whether a was issued before b, so that an answer that comes late
// does not take the certificate back.
func older(a, b *x509.Certificate) bool {
	return a.NotAfter.Before(b.NotAfter) && a.NotBefore.Before(b.NotBefore)
}

// listen wakes follow when the agent tells of a change, and when it may have
// missed one.
func (k *keptCertificate) listen(ctx context.Context, wake chan<- struct{}) {
	for e := range k.c.events(ctx, true) {
		if e.Name == k.name || e.Type == "" {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}

// follow reads the certificate again when it is woken, and now and then if it is
// not. What goes wrong meanwhile shows in the agent; the next look may succeed.
func (k *keptCertificate) follow(ctx context.Context, wake <-chan struct{}) {
	for ctx.Err() == nil {
		look, cancel := context.WithTimeout(ctx, lookAgain)
		select {
		case <-wake:
		case <-look.Done():
		}
		cancel()
		if ctx.Err() == nil {
			_ = k.read(ctx)
		}
	}
}

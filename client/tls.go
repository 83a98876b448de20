package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"time"
)

// TLSConfig returns a configuration that presents a certificate, as a server or
// as a client, and follows its renewals and rotations until the Client is
// closed: each handshake uses the newest. Where the key is in the HSM, each
// handshake is one signature by the agent.
//
// The caller may set further fields before using it, such as ClientAuth or
// RootCAs.
func (c *Client) TLSConfig(ctx context.Context, certificate string) (*tls.Config, error) {
	cert, err := c.Certificate(ctx, certificate)
	if err != nil {
		return nil, err
	}
	k := &keptCertificate{c: c, name: certificate}
	if err := k.learn(cert); err != nil {
		return nil, err
	}
	c.background(func(ctx context.Context) { k.follow(ctx, cert.Version) })
	return &tls.Config{
		MinVersion:           tls.VersionTLS12,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.now.Load(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.now.Load(), nil },
	}, nil
}

// A keptCertificate is the copy of a certificate in this process.
type keptCertificate struct {
	c    *Client
	name string
	now  atomic.Pointer[tls.Certificate]
}

// learn takes over an answer of the agent. A certificate that cannot be used
// leaves the one of before in place.
func (k *keptCertificate) learn(cert *Certificate) error {
	ready, err := cert.tls(func(pub crypto.PublicKey) crypto.Signer {
		return &signer{c: k.c, key: k.name, generation: cert.Generation, pub: pub}
	})
	if err != nil {
		return err
	}
	if old := k.now.Load(); old == nil || !older(ready.Leaf, old.Leaf) {
		k.now.Store(ready)
	}
	return nil
}

// older reports whether a was issued before b, so that an answer that comes late
// does not take the certificate back.
func older(a, b *x509.Certificate) bool {
	return a.NotAfter.Before(b.NotAfter) && a.NotBefore.Before(b.NotBefore)
}

// follow keeps the copy right until ctx is done. What goes wrong shows in the
// agent; the handshakes go on with what there is.
func (k *keptCertificate) follow(ctx context.Context, version string) {
	var back backOff
	for ctx.Err() == nil {
		asked := time.Now()
		cert, err := k.c.pollCertificate(ctx, k.name, version, pollWait)
		if err == nil && cert.Version != version {
			err = k.learn(cert)
			version = cert.Version // not again, even if it cannot be used
			back.reset()
		}
		if err == nil && time.Since(asked) > hasty {
			back.reset()
			continue
		}
		if !back.wait(ctx, err) {
			return
		}
	}
}

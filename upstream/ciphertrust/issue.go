package ciphertrust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// defaultDays is the life that is asked for where nobody says: the server knows
// no default.
const defaultDays = 365

// Issue has the local CA that Options name sign a CSR. There is no renewal at
// the server: each kind of request is a certificate more, and those of before
// are left to their end, but that those of a compromised key are revoked.
//
// A certificate is named after the ID of its request, so that one whose answer
// was lost is found again instead of issued twice.
func (c *Client) Issue(ctx context.Context, r upstream.CertificateRequest) (upstream.Issued, error) {
	got, err := c.issued(ctx, r)
	if err != nil {
		return upstream.Issued{}, err
	}
	issued, err := c.finish(ctx, r, got)
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		e.Sent = true // the certificate is there, whatever failed afterwards
	}
	return issued, err
}

// finish does what is left when a certificate has been issued.
func (c *Client) finish(ctx context.Context, r upstream.CertificateRequest, got *Certificate) (upstream.Issued, error) {
	chain := der(got.Cert)
	if len(chain) == 0 {
		return upstream.Issued{}, c.notUnderstood(call{op: "issue certificate", item: got.Name})
	}
	if len(chain) == 1 {
		ca, err := c.CA(ctx, r.Options.CA, true)
		if err != nil {
			return upstream.Issued{}, err
		}
		chain = append(chain, below(der(ca.Cert))...)
	}
	if r.Compromised && r.Current != nil {
		if err := c.revokeKey(ctx, r.Options.CA, r.Current); err != nil {
			return upstream.Issued{}, err
		}
	}
	return upstream.Issued{Chain: chain}, nil
}

// issued is the certificate for a request: a new one, or that of an earlier try.
func (c *Client) issued(ctx context.Context, r upstream.CertificateRequest) (*Certificate, error) {
	name := "signet-" + r.ID
	if r.ID == "" {
		return nil, c.failed(call{op: "issue certificate"}, upstream.Invalid, "the request has no ID to name the certificate after")
	}
	if r.Uncertain {
		if got, err := c.earlier(ctx, r.Options.CA, name); !is(err, 404) {
			return got, err
		}
	}
	got, err := c.IssueCertificate(ctx, r.Options.CA, IssueRequest{
		CSR:     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR})),
		Purpose: purpose(r), Name: name, Validity: validity(r),
	})
	if is(err, 409) {
		// Where it is the name that is taken, it is taken by this very request.
		if got, err := c.earlier(ctx, r.Options.CA, name); !is(err, 404) {
			return got, err
		}
	}
	return got, err
}

// earlier is what an earlier try has had issued.
func (c *Client) earlier(ctx context.Context, ca, name string) (*Certificate, error) {
	got, err := c.Certificate(ctx, ca, name)
	if err == nil && got.State == "revoked" {
		return nil, c.failed(call{op: "issue certificate", item: name}, upstream.Invalid,
			"the answer of an earlier try was lost, and the certificate has been revoked since")
	}
	return got, err
}

func purpose(r upstream.CertificateRequest) string {
	if r.Options.Purpose == "" {
		return "client"
	}
	return r.Options.Purpose
}

// validity asks for an instant where one is known: days would be too coarse for
// short lives.
func validity(r upstream.CertificateRequest) Validity {
	until := r.NotAfter
	if until.IsZero() && r.Options.Duration > 0 {
		until = time.Now().Add(r.Options.Duration)
	}
	if until.IsZero() {
		return Validity{Duration: defaultDays}
	}
	until = until.UTC().Truncate(time.Second)
	return Validity{NotAfter: &until}
}

// Prove is for the agent's rotators. The server has nothing to try a
// certificate on that it has issued for use elsewhere.
func (c *Client) Prove(context.Context, tls.Certificate) error { return nil }

// revokeKey revokes every certificate of a key that is compromised.
func (c *Client) revokeKey(ctx context.Context, ca string, current *tls.Certificate) error {
	leaf, err := x509.ParseCertificate(current.Certificate[0])
	if err != nil {
		e := c.failed(call{op: "revoke certificate"}, upstream.Invalid, "the present certificate cannot be read")
		return e
	}
	var ids []string
	for got, err := range c.Certificates(ctx, ca, nil) {
		if err != nil {
			return err
		}
		if chain := der(got.Cert); got.State != "revoked" && len(chain) > 0 && sameKey(chain[0], leaf.PublicKey) {
			ids = append(ids, got.ID)
		}
	}
	for _, id := range ids {
		if _, err := c.RevokeCertificate(ctx, ca, id, keyCompromise); err != nil && !is(err, 409) {
			return err
		}
	}
	return nil
}

func sameKey(cert []byte, key crypto.PublicKey) bool {
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return false
	}
	pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(key)
}

// below leaves out the root of a chain: whoever trusts it has it.
func below(chain [][]byte) [][]byte {
	if n := len(chain); n > 0 {
		if root, err := x509.ParseCertificate(chain[n-1]); err == nil && n > 1 && bytes.Equal(root.RawIssuer, root.RawSubject) {
			return chain[:n-1]
		}
	}
	return chain
}

// der returns the certificates of a PEM text.
func der(text string) (chain [][]byte) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain
		}
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
		}
	}
}

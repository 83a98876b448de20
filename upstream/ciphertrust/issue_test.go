package ciphertrust_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// A refusal is told as the server has told it; it is not taken for a name that
// is in use already.
func TestARefusalToIssueIsNoNameTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBed(t).asAdmin()
		pending, err := c.CreateCA(t.Context(), ciphertrust.CARequest{CommonName: "pending.example"})
		if err != nil {
			t.Fatal(err)
		}
		der, _ := csr(t, "host1")
		for _, uncertain := range []bool{false, true} {
			_, err := c.Issue(t.Context(), upstream.CertificateRequest{ID: "1", CSR: der, Uncertain: uncertain, Options: upstream.Options{CA: pending.ID}})
			if e, ok := errors.AsType[*upstream.Error](err); !ok || e.Status != 409 || e.Sent {
				t.Errorf("uncertain %v: %v", uncertain, err)
			}
		}
		if _, err := c.Issue(t.Context(), upstream.CertificateRequest{CSR: der}); upstream.CodeOf(err) != upstream.Invalid {
			t.Errorf("without an ID: %v", err)
		}
	})
}

// A certificate is not issued again because the old ones could not be revoked.
func TestARevocationThatFailsLeavesTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.asAdmin()
		o := upstream.Options{CA: b.server.RootCA()}
		der, key := csr(t, "host1")
		old, err := c.Issue(t.Context(), upstream.CertificateRequest{ID: "1", CSR: der, Options: o})
		if err != nil {
			t.Fatal(err)
		}
		next, _ := csr(t, "host1")
		rotate := upstream.CertificateRequest{Kind: upstream.Rotate, ID: "2", CSR: next, Options: o, Compromised: true,
			Current: &tls.Certificate{Certificate: old.Chain, PrivateKey: key}}
		b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 403, Path: "*/revoke", Count: 1})
		_, err = c.Issue(t.Context(), rotate)
		if e, ok := errors.AsType[*upstream.Error](err); !ok || e.Code != upstream.Denied || !e.Sent {
			t.Errorf("%v; want that it is denied, and that there may be a certificate", err)
		}
		rotate.Uncertain = true
		if _, err := c.Issue(t.Context(), rotate); err != nil {
			t.Fatal(err)
		}
		total, revoked := 0, 0
		for got, err := range c.Certificates(t.Context(), o.CA, nil) {
			if err != nil {
				t.Fatal(err)
			}
			if total++; got.State == "revoked" && got.RevokedReason == "keyCompromise" {
				revoked++
			}
		}
		if total != 2 || revoked != 1 {
			t.Errorf("%d certificates, %d revoked", total, revoked)
		}
	})
}

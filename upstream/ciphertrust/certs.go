package ciphertrust

import (
	"context"
	"iter"
	"time"
)

// A Certificate is one that a local CA has issued.
type Certificate struct {
	Raw
	ID            string    `json:"id"`
	URI           string    `json:"uri"`
	CreatedAt     time.Time `json:"createdAt"`
	Name          string    `json:"name"`
	CA            string    `json:"ca"` // URI
	State         string    `json:"state"`
	RevokedAt     time.Time `json:"revoked_at"`
	RevokedReason string    `json:"revoked_reason"`
	Cert          string    `json:"cert"` // PEM
	SHA256        string    `json:"sha256Fingerprint"`
	SerialNumber  string    `json:"serialNumber"` // decimal
	Subject       string    `json:"subject"`
	Issuer        string    `json:"issuer"`
	NotBefore     time.Time `json:"notBefore"`
	NotAfter      time.Time `json:"notAfter"`
}

// IssueRequest asks a local CA for a certificate.
type IssueRequest struct {
	CSR     string `json:"csr"`     // PEM
	Purpose string `json:"purpose"` // server, client or ca
	Name    string `json:"name,omitempty"`
	Validity
}

// Reasons are the reasons of a revocation, as RFC 5280 has them. Only a
// certificateHold can be taken back.
var Reasons = []string{"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
	"cessationOfOperation", "certificateHold", "removeFromCRL", "privilegeWithdrawn", "aACompromise"}

const keyCompromise = "keyCompromise"

// CertificateFilters are the filters of Certificates.
var CertificateFilters = []string{"subject", "issuer", "cert", "id"}

func certs(ca string) string { return localCA(ca) + "/certs" }

func cert(ca, id string) string { return certs(ca) + "/" + segment(id) }

// Certificates lists what a local CA has issued.
func (c *Client) Certificates(ctx context.Context, ca string, f Filter) iter.Seq2[*Certificate, error] {
	k := read("list certificates", ca, certs(ca))
	if err := c.named(k, ca); err != nil {
		return func(yield func(*Certificate, error) bool) { yield(nil, err) }
	}
	return list[Certificate](ctx, c, k, CertificateFilters, f)
}

// Certificate is one certificate of a local CA, by ID or name.
func (c *Client) Certificate(ctx context.Context, ca, id string) (*Certificate, error) {
	return one[Certificate](ctx, c, read("read certificate", id, cert(ca, id)), ca, id)
}

// IssueCertificate has a local CA sign a CSR.
func (c *Client) IssueCertificate(ctx context.Context, ca string, r IssueRequest) (*Certificate, error) {
	return one[Certificate](ctx, c, post("issue certificate", r.Name, certs(ca), r), ca)
}

// RevokeCertificate revokes a certificate for one of the Reasons.
func (c *Client) RevokeCertificate(ctx context.Context, ca, id, reason string) (*Certificate, error) {
	body := struct {
		Reason string `json:"reason"`
	}{reason}
	return one[Certificate](ctx, c, post("revoke certificate", id, cert(ca, id)+"/revoke", body), ca, id)
}

// ResumeCertificate takes a certificateHold back.
func (c *Client) ResumeCertificate(ctx context.Context, ca, id string) (*Certificate, error) {
	return one[Certificate](ctx, c, post("resume certificate", id, cert(ca, id)+"/resume", nil), ca, id)
}

// DeleteCertificate deletes the record of a certificate, which does not revoke
// it.
func (c *Client) DeleteCertificate(ctx context.Context, ca, id string) error {
	return c.on(ctx, remove("delete certificate", id, cert(ca, id)), nil, ca, id)
}

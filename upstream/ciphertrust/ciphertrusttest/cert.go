package ciphertrusttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// reasons are those of RFC 5280, with their numbers in a CRL.
var reasons = map[string]int{
	"unspecified": 0, "keyCompromise": 1, "cACompromise": 2, "affiliationChanged": 3, "superseded": 4,
	"cessationOfOperation": 5, "certificateHold": 6, "removeFromCRL": 8, "privilegeWithdrawn": 9, "aACompromise": 10,
}

// certRecord is a certificate on the wire.
type certRecord struct {
	common
	CA            string    `json:"ca"`
	State         string    `json:"state"`
	RevokedAt     time.Time `json:"revoked_at"`
	RevokedReason string    `json:"revoked_reason"`
	Cert          string    `json:"cert"`
	fingerprints
	Serial    string    `json:"serialNumber"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// A certificate is one that a local CA has issued.
type certificate struct{ Record certRecord }

func (x *certificate) base() *common { return &x.Record.common }

// pathCert finds the certificate that the path names.
func (s *Server) pathCert(c *call) (*localCA, *certificate, *refusal) {
	ca, no := lookup(&call{query: nil}, c.dom.LocalCAs, c.args["ca"])
	if no != nil {
		return nil, nil, no
	}
	x, no := lookup(c, ca.Certs, c.args["cert"])
	return ca, x, no
}

// issueCert is POST /ca/local-cas/{id}/certs.
func (s *Server) issueCert(c *call) (any, *refusal) {
	ca, no := s.pathCA(c)
	if no != nil {
		return nil, no
	}
	var in struct {
		validity
		CSR     string `json:"csr"`
		Purpose string `json:"purpose"`
		Name    string `json:"name"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	csr, no := parseCSR(in.CSR)
	if no != nil {
		return nil, no
	}
	switch {
	case ca.Record.State != active:
		return nil, conflict("the CA is pending")
	case in.Name != "" && named(ca.Certs, in.Name):
		return nil, conflict("a certificate of that name exists already")
	}
	from, until, no := in.span(c.now, 0)
	if no != nil {
		return nil, no
	}
	x, no := s.certify(c, ca, csr, in.Purpose, in.Name, from, until)
	if no != nil {
		return nil, no
	}
	return x.Record, nil
}

// certify issues a certificate for a CSR.
func (s *Server) certify(c *call, ca *localCA, csr *x509.CertificateRequest, purpose, name string, from, until time.Time) (*certificate, *refusal) {
	if until.After(ca.Record.NotAfter) {
		return nil, invalid("notAfter: the certificate would outlive its CA")
	}
	template := caTemplate(csr, from, until)
	if purpose != "ca" {
		template.BasicConstraintsValid, template.IsCA = true, false
		template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	switch purpose {
	case "server":
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case "client":
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case "ca":
	default:
		return nil, invalid("purpose: want server, client or ca")
	}
	parent, no := parseCertificate(ca.Record.Cert)
	if no != nil {
		return nil, no
	}
	key, no := s.signer(ca)
	if no != nil {
		return nil, no
	}
	public := csr.PublicKey
	if len(s.mistakes) > 0 {
		m := s.mistakes[0]
		s.mistakes = s.mistakes[1:]
		if parent, key, public, no = m.spoil(template, parent, key, public, c.now); no != nil {
			return nil, no
		}
	}
	cert, no := sign(template, parent, public, key)
	if no != nil {
		return nil, no
	}
	x := &certificate{certRecord{
		common: newCommon("naboo:certs", "cert", name, c.now), CA: ca.Record.URI, State: active, Cert: certPEM(cert.Raw),
		fingerprints: fingerprintsOf(cert.Raw), Serial: cert.SerialNumber.String(), Subject: slashName(cert.RawSubject),
		Issuer: slashName(cert.RawIssuer), NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
	}}
	ca.Certs = append(ca.Certs, x)
	c.changed = true
	return x, nil
}

func (s *Server) listCerts(c *call) (any, *refusal) {
	ca, no := lookup(&call{query: nil}, c.dom.LocalCAs, c.args["ca"])
	if no != nil {
		return nil, no
	}
	return list(c, ca.Certs, map[string]filter[*certificate]{
		"subject": like(func(x *certificate) string { return x.Record.Subject }),
		"issuer":  like(func(x *certificate) string { return x.Record.Issuer }),
		"cert":    like(func(x *certificate) string { return x.Record.Cert }),
		"id":      like(func(x *certificate) string { return x.Record.ID }),
	}, func(x *certificate) any { return x.Record })
}

func (s *Server) getCert(c *call) (any, *refusal) {
	_, x, no := s.pathCert(c)
	if no != nil {
		return nil, no
	}
	return x.Record, nil
}

func (s *Server) deleteCert(c *call) (any, *refusal) {
	ca, x, no := s.pathCert(c)
	if no != nil {
		return nil, no
	}
	ca.Certs = remove(ca.Certs, x)
	c.changed = true
	return nil, nil
}

func (s *Server) revokeCert(c *call) (any, *refusal) {
	_, x, no := s.pathCert(c)
	if no != nil {
		return nil, no
	}
	var in struct {
		Reason string `json:"reason"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if _, ok := reasons[in.Reason]; !ok {
		return nil, invalid(fmt.Sprintf("reason: %q is not known", in.Reason))
	}
	if x.Record.State == revoked {
		return nil, conflict("the certificate is revoked already")
	}
	x.Record.State, x.Record.RevokedAt, x.Record.RevokedReason, x.Record.UpdatedAt = revoked, c.now, in.Reason, c.now
	c.changed = true
	return x.Record, nil
}

func (s *Server) resumeCert(c *call) (any, *refusal) {
	_, x, no := s.pathCert(c)
	if no != nil {
		return nil, no
	}
	if x.Record.State != revoked || x.Record.RevokedReason != "certificateHold" {
		return nil, invalid("the certificate is not on hold")
	}
	x.Record.State, x.Record.RevokedAt, x.Record.RevokedReason, x.Record.UpdatedAt = active, time.Time{}, "", c.now
	c.changed = true
	return x.Record, nil
}

// CRL returns the certificate revocation list of a local CA of the root domain,
// in PEM, as openssl verify -crl_check reads it. The product's API has no call
// for it.
func (s *Server) CRL(ca string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now().UTC()
	x, no := lookup(&call{}, s.state.Domains[0].LocalCAs, ca)
	if no != nil || x.Record.State != active {
		return nil, fmt.Errorf("local CA %q: not active", ca)
	}
	parent, no := parseCertificate(x.Record.Cert)
	if no != nil {
		return nil, fmt.Errorf("local CA %q: %s", ca, no.desc)
	}
	key, no := s.signer(x)
	if no != nil {
		return nil, fmt.Errorf("local CA %q: %s", ca, no.desc)
	}
	l := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.AddDate(0, 0, 7)}
	for _, cert := range x.Certs {
		serial, ok := new(big.Int).SetString(cert.Record.Serial, 10)
		if cert.Record.State == revoked && ok {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{
				SerialNumber: serial, RevocationTime: cert.Record.RevokedAt, ReasonCode: reasons[cert.Record.RevokedReason],
			})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, parent, key)
	if err != nil {
		return nil, fmt.Errorf("local CA %q: %w", ca, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

// A Mistake is what is wrong with a certificate that a local CA issues, for
// clients that have to notice.
type Mistake string

// The mistakes.
const (
	OtherKey     Mistake = "other-key"     // for a key that nobody asked about
	OtherCA      Mistake = "other-ca"      // signed by a CA of the same name
	OtherName    Mistake = "other-name"    // for another host
	Expired      Mistake = "expired"       // over already
	NotYetValid  Mistake = "not-yet-valid" // from tomorrow
	OtherPurpose Mistake = "other-purpose" // good for signing code only
	Longer       Mistake = "longer"        // ten years more than asked for
)

// Mistake makes the next certificates wrong, one by each mistake.
func (s *Server) Mistake(list ...Mistake) error {
	known := []Mistake{OtherKey, OtherCA, OtherName, Expired, NotYetValid, OtherPurpose, Longer}
	for _, m := range list {
		if !slices.Contains(known, m) {
			return fmt.Errorf("mistake %q: want one of %v", m, strings.Trim(fmt.Sprint(known), "[]"))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mistakes = slices.Clone(list)
	return nil
}

// spoil makes the mistake in template, or says by which CA or for which key.
func (m Mistake) spoil(template, parent *x509.Certificate, key crypto.Signer, public any, now time.Time) (*x509.Certificate, crypto.Signer, any, *refusal) {
	switch m {
	case OtherKey:
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, nil, internal()
		}
		public = other.Public()
	case OtherCA:
		other, err := upstreamtest.NewCA(upstreamtest.CAConfig{Subject: pkix.Name{CommonName: parent.Subject.CommonName}})
		if err != nil {
			return nil, nil, nil, internal()
		}
		stranger := *other.Certificate
		stranger.RawSubject = parent.RawSubject
		parent, key = &stranger, other.Signer()
	case OtherName:
		template.RawSubject, template.Subject = nil, pkix.Name{CommonName: "other.example"}
		template.DNSNames, template.IPAddresses = []string{"other.example"}, nil
	case Expired:
		template.NotBefore, template.NotAfter = now.AddDate(0, 0, -2), now.AddDate(0, 0, -1)
	case NotYetValid:
		template.NotBefore = now.AddDate(0, 0, 1)
	case OtherPurpose:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	case Longer:
		template.NotAfter = template.NotAfter.AddDate(10, 0, 0)
	}
	return parent, key, public, nil
}

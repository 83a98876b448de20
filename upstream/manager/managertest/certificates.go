package managertest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// window is how long before its end a certificate is due for renewal, and an
// event is raised.
const window = 30 * 24 * time.Hour

// A Mistake is what is wrong with a certificate that the Manager issues, for
// clients that have to notice.
type Mistake string

// The mistakes.
const (
	OtherKey     Mistake = "other-key"      // for a key that nobody asked about
	OtherCA      Mistake = "other-ca"       // signed by a CA of the same name
	Expired      Mistake = "expired"        // over already
	NotYetValid  Mistake = "not-yet-valid"  // from tomorrow
	NoClientAuth Mistake = "no-client-auth" // for servers
	Longer       Mistake = "longer"         // ten years more than asked for
)

// Mistake makes the next certificates wrong, one by each mistake.
func (s *Server) Mistake(list ...Mistake) error {
	for _, m := range list {
		switch m {
		case OtherKey, OtherCA, Expired, NotYetValid, NoClientAuth, Longer:
		default:
			return fmt.Errorf("mistake %q: not known", m)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mistakes = slices.Clone(list)
	return nil
}

// Disown makes the Manager take none of these certificates, by serial number,
// and every other again: as a server of it does that was not told of them yet.
func (s *Server) Disown(serials ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, serial := range serials {
		if !slices.ContainsFunc(s.state.Accounts, func(a *account) bool {
			return slices.ContainsFunc(a.Certificates, func(c *certificate) bool { return c.Serial == serial })
		}) {
			return fmt.Errorf("certificate %q: not one that was issued", serial)
		}
	}
	s.disowned = slices.Clone(serials)
	return nil
}

type certificateData struct {
	Certificate string `json:"certificate"`
}

func certificateAnswer(c *certificate) certificateData {
	return certificateData{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.DER}))}
}

// register is "Register Client Certificate". It uses the one-time credentials up.
func (s *Server) register(c *call) (any, *refusal) {
	csr, no := c.csr()
	if no != nil {
		return nil, no
	}
	if no := s.unique(csr, nil); no != nil {
		return nil, no
	}
	until, no := c.date("expirationDate", c.now.AddDate(1, 0, 0))
	if no != nil {
		return nil, no
	}
	cert, no := s.issue(c, csr.RawSubject, csr.PublicKey, until)
	if no != nil {
		return nil, no
	}
	a := c.account
	a.Username, a.Salt, a.Digest = "", "", ""
	a.accept(csr)
	a.Certificates = append(a.Certificates, cert)
	c.changed = true
	return certificateAnswer(cert), nil
}

// renew is clientCertificateRenewer: it answers the present certificate while
// that needs no renewal.
func (s *Server) renew(c *call) (any, *refusal) {
	id, no := c.id("accountId")
	if no != nil {
		return nil, no
	}
	until, no := c.date("expirationDate", time.Time{})
	if no != nil {
		return nil, no
	}
	switch a := s.find(id); {
	case a == nil:
		return nil, &refusal{422, "accountId", "The given account id is invalid", "notfound"}
	case a != c.account || !a.Private:
		return nil, &refusal{403, "accountId", "The account is not the caller's", "forbidden"}
	}
	present := c.account.current()
	if present.NotAfter.Sub(c.now) > window && until.Sub(present.NotAfter) <= window {
		return certificateAnswer(present), nil
	}
	key, err := x509.ParsePKIXPublicKey(c.account.RawKey)
	if err != nil {
		return nil, &refusal{500, "", "internal error", "internal"}
	}
	cert, no := s.issue(c, c.account.RawSubject, key, until)
	if no != nil {
		return nil, no
	}
	present.State = "superseded"
	c.account.Certificates = append(c.account.Certificates, cert)
	c.changed = true
	return certificateAnswer(cert), nil
}

// rotate is rotateClientKey: a new key, and the end of all old certificates.
func (s *Server) rotate(c *call) (any, *refusal) {
	csr, no := c.csr()
	if no != nil {
		return nil, no
	}
	if !c.account.Private {
		return nil, &refusal{403, "", "The account has no client key", "forbidden"}
	}
	if bytes.Equal(c.account.RawKey, csr.RawSubjectPublicKeyInfo) {
		return nil, invalid("csr", "The given csr is for the key that the account has already")
	}
	if no := s.unique(csr, c.account); no != nil {
		return nil, no
	}
	until, no := c.date("expirationDate", c.now.AddDate(1, 0, 0))
	if no != nil {
		return nil, no
	}
	cert, no := s.issue(c, csr.RawSubject, csr.PublicKey, until)
	if no != nil {
		return nil, no
	}
	a := c.account
	for _, old := range a.Certificates {
		old.State = "revoked"
	}
	a.accept(csr)
	a.Certificates = append(a.Certificates, cert)
	c.changed = true
	return certificateAnswer(cert), nil
}

// accept ties a CSR to the account.
func (a *account) accept(csr *x509.CertificateRequest) {
	a.SubjectDN, a.RawSubject, a.RawKey = csr.Subject.String(), csr.RawSubject, csr.RawSubjectPublicKeyInfo
}

// csr returns the request, which has to be of an RSA key of 2048 bits or more.
func (c *call) csr() (*x509.CertificateRequest, *refusal) {
	text, no := c.text("csr")
	if no != nil {
		return nil, no
	}
	bad := invalid("csr", "The given csr is invalid")
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 ||
		block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, bad
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, bad
	}
	key, ok := csr.PublicKey.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, invalid("csr", "The given csr is not for an RSA key")
	case key.N.BitLen() < 2048:
		return nil, invalid("csr", "The given csr is for a key below 2048 bits")
	case len(csr.Subject.Names) == 0:
		return nil, invalid("csr", "The given csr has no Subject DN")
	}
	return csr, nil
}

// unique refuses a Subject DN that another account or a device has.
func (s *Server) unique(csr *x509.CertificateRequest, but *account) *refusal {
	taken := bytes.Equal(csr.RawSubject, s.CA.Certificate.RawSubject) ||
		slices.Contains(s.cfg.DeviceDNs, csr.Subject.String())
	for _, a := range s.state.Accounts {
		taken = taken || a != but && len(a.RawSubject) > 0 && bytes.Equal(a.RawSubject, csr.RawSubject)
	}
	if taken {
		return &refusal{422, "csr", "The Subject DN of the given csr is in use", "duplicate"}
	}
	return nil
}

// issue signs a certificate as the product does. s.mu is held.
func (s *Server) issue(c *call, subject []byte, key any, until time.Time) (*certificate, *refusal) {
	template := &x509.Certificate{
		SerialNumber:       upstreamtest.NewSerial(),
		RawSubject:         subject,
		NotBefore:          c.now.AddDate(0, 0, -1),
		NotAfter:           until,
		SignatureAlgorithm: x509.SHA512WithRSA,
		KeyUsage:           x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	ca := s.CA
	if len(s.mistakes) > 0 {
		m := s.mistakes[0]
		s.mistakes = s.mistakes[1:]
		var err error
		if ca, key, err = m.spoil(template, ca, key, c.now); err != nil {
			return nil, &refusal{500, "", "internal error", "internal"}
		}
	}
	der, err := ca.Issue(template, key)
	if err != nil {
		return nil, &refusal{500, "", "internal error", "internal"}
	}
	return &certificate{
		Serial: hex.EncodeToString(template.SerialNumber.Bytes()),
		DER:    der, NotAfter: template.NotAfter.Truncate(time.Second), State: "valid",
	}, nil
}

// spoil makes the mistake in template, or says by which CA or for which key.
func (m Mistake) spoil(template *x509.Certificate, ca *upstreamtest.CA, key any, now time.Time) (*upstreamtest.CA, any, error) {
	switch m {
	case OtherKey:
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		return ca, other.Public(), nil
	case OtherCA:
		other, err := upstreamtest.NewCA(upstreamtest.CAConfig{Subject: ca.Certificate.Subject, RSA: true})
		return other, key, err
	case Expired:
		template.NotBefore, template.NotAfter = now.AddDate(0, 0, -2), now.AddDate(0, 0, -1)
	case NotYetValid:
		template.NotBefore = now.AddDate(0, 0, 1)
	case NoClientAuth:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case Longer:
		template.NotAfter = template.NotAfter.AddDate(10, 0, 0)
	}
	return ca, key, nil
}

package ciphertrusttest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"
)

// The states of what certificates are about.
const (
	pending = "pending"
	active  = "active"
	revoked = "revoked"
)

// Whether a CA's certificates may log somebody in.
const (
	enabled  = "Enabled"
	disabled = "Disabled"
)

// purpose says whom the certificates of a CA may log in.
type purpose struct {
	Client string `json:"client_authentication"`
	User   string `json:"user_authentication"`
}

// caRecord is a local CA on the wire.
type caRecord struct {
	common
	State     string    `json:"state"`
	CSR       string    `json:"csr"`
	Cert      string    `json:"cert,omitempty"`
	Serial    string    `json:"serialNumber,omitempty"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	fingerprints
	Purpose *purpose `json:"purpose,omitempty"`
}

// activate fills in what the certificate says.
func (r *caRecord) activate(cert *x509.Certificate) {
	r.State, r.CSR, r.Cert = active, "", certPEM(cert.Raw)
	r.Serial, r.Subject, r.Issuer = cert.SerialNumber.String(), slashName(cert.RawSubject), slashName(cert.RawIssuer)
	r.NotBefore, r.NotAfter, r.fingerprints = cert.NotBefore.UTC(), cert.NotAfter.UTC(), fingerprintsOf(cert.Raw)
}

// A localCA is a CA whose key the appliance has.
type localCA struct {
	Record    caRecord
	Key       []byte // PKCS #8; none if Bootstrap
	Bootstrap bool   // the key is Server.CA's
	ParentID  string // of an installed CA
	Certs     []*certificate
}

func (x *localCA) base() *common { return &x.Record.common }

// signer is the CA's key.
func (s *Server) signer(x *localCA) (crypto.Signer, *refusal) {
	if x.Bootstrap {
		return s.CA.Signer(), nil
	}
	return unmarshalKey(x.Key)
}

// pathCA finds the local CA that the path names.
func (s *Server) pathCA(c *call) (*localCA, *refusal) {
	return lookup(c, c.dom.LocalCAs, c.args["ca"])
}

var caFilters = map[string]filter[*localCA]{
	"subject": like(func(x *localCA) string { return x.Record.Subject }),
	"issuer":  like(func(x *localCA) string { return x.Record.Issuer }),
	"state":   like(func(x *localCA) string { return x.Record.State }),
	"cert":    like(func(x *localCA) string { return x.Record.Cert }),
	"name":    like(func(x *localCA) string { return x.Record.Name }),
	"id":      like(func(x *localCA) string { return x.Record.ID }),
}

func (s *Server) listCAs(c *call) (any, *refusal) {
	return list(c, c.dom.LocalCAs, caFilters, func(x *localCA) any { return x.Record })
}

// createCA is POST /ca/local-cas: a pending CA.
func (s *Server) createCA(c *call) (any, *refusal) {
	var in struct {
		subjectFields
		Algorithm string `json:"algorithm"`
		Size      int    `json:"size"`
		Name      string `json:"name"`
		CopyFrom  string `json:"copy_from_ca"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name != "" && named(c.dom.LocalCAs, in.Name) {
		return nil, conflict("a CA of that name exists already")
	}
	var key crypto.Signer
	var template *x509.CertificateRequest
	var no *refusal
	if in.CopyFrom != "" {
		key, template, no = s.copyCA(c, in.CopyFrom)
	} else if template, no = in.request(); no == nil {
		key, no = newSigner(in.Algorithm, in.Size)
	}
	if no != nil {
		return nil, no
	}
	x := &localCA{Record: caRecord{common: newCommon("naboo:localca", "localca", in.Name, c.now), State: pending}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, invalid("the names cannot be written in a certificate request")
	}
	if x.Key, no = marshalKey(key); no != nil {
		return nil, no
	}
	x.Record.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	x.Record.fingerprints = fingerprintsOf(der)
	csr, no := parseCSR(x.Record.CSR)
	if no != nil {
		return nil, no
	}
	x.Record.Subject = slashName(csr.RawSubject)
	c.dom.LocalCAs = append(c.dom.LocalCAs, x)
	c.changed = true
	return x.Record, nil
}

// copyCA is the key and the names of a CA that there is.
func (s *Server) copyCA(c *call, ref string) (crypto.Signer, *x509.CertificateRequest, *refusal) {
	from, no := lookup(c, c.dom.LocalCAs, ref)
	if no != nil {
		return nil, nil, invalid("copy_from_ca: not found")
	}
	key, no := s.signer(from)
	if no != nil {
		return nil, nil, no
	}
	if from.Record.State == pending {
		csr, no := parseCSR(from.Record.CSR)
		return key, csr, no
	}
	cert, no := parseCertificate(from.Record.Cert)
	if no != nil {
		return nil, nil, no
	}
	return key, &x509.CertificateRequest{
		RawSubject: cert.RawSubject, DNSNames: cert.DNSNames, EmailAddresses: cert.EmailAddresses, IPAddresses: cert.IPAddresses,
	}, nil
}

func (s *Server) getCA(c *call) (any, *refusal) {
	x, no := s.pathCA(c)
	if no != nil {
		return nil, no
	}
	r := x.Record
	if c.flag("chained") {
		for up := s.parent(c.dom, x.ParentID); up != nil; up = s.parent(c.dom, up.parentID) {
			r.Cert += up.cert
		}
	}
	return r, nil
}

// an issuer is a CA that another was installed from.
type issuer struct{ cert, parentID string }

// parent finds a local or external CA by id, or returns nil.
func (s *Server) parent(d *domain, id string) *issuer {
	for _, x := range d.LocalCAs {
		if x.Record.ID == id && x.Record.State == active {
			return &issuer{x.Record.Cert, x.ParentID}
		}
	}
	for _, x := range d.ExternalCAs {
		if x.Record.ID == id {
			return &issuer{x.Record.Cert, x.ParentID}
		}
	}
	return nil
}

// caChange says whom the certificates of a CA may log in.
type caChange struct {
	Client *bool `json:"allow_client_authentication"`
	User   *bool `json:"allow_user_authentication"`
}

// caChange reads the change from the body or from the query.
func (s *Server) caChange(c *call) (in caChange, no *refusal) {
	for name, to := range map[string]**bool{"allow_client_authentication": &in.Client, "allow_user_authentication": &in.User} {
		switch c.query.Get(name) {
		case "":
		case "true":
			*to = new(true)
		case "false":
			*to = new(false)
		default:
			return in, invalid(name + ": want true or false")
		}
	}
	return in, c.readAny(s, &in)
}

func (p *purpose) apply(in caChange) {
	word := map[bool]string{true: enabled, false: disabled}
	if in.Client != nil {
		p.Client = word[*in.Client]
	}
	if in.User != nil {
		p.User = word[*in.User]
	}
}

func (s *Server) patchCA(c *call) (any, *refusal) {
	x, no := s.pathCA(c)
	if no != nil {
		return nil, no
	}
	in, no := s.caChange(c)
	switch {
	case no != nil:
		return nil, no
	case x.Record.State != active:
		return nil, conflict("the CA is pending")
	}
	x.Record.Purpose.apply(in)
	x.Record.UpdatedAt = c.now
	c.changed = true
	return x.Record, nil
}

func (s *Server) deleteCA(c *call) (any, *refusal) {
	x, no := s.pathCA(c)
	if no != nil {
		return nil, no
	}
	if slices.Contains(c.dom.TrustedCAs, x.Record.ID) {
		return nil, conflict("the web interface trusts the CA")
	}
	c.dom.LocalCAs = remove(c.dom.LocalCAs, x)
	c.changed = true
	return nil, nil
}

// selfSign is POST /ca/local-cas/{id}/self-sign.
func (s *Server) selfSign(c *call) (any, *refusal) {
	x, no := s.pathCA(c)
	if no != nil {
		return nil, no
	}
	var in validity
	if no := c.readAny(s, &in); no != nil {
		return nil, no
	}
	if x.Record.State != pending {
		return nil, conflict("the CA is active already")
	}
	from, until, no := in.span(c.now, 0)
	if no != nil {
		return nil, no
	}
	csr, no := parseCSR(x.Record.CSR)
	if no != nil {
		return nil, no
	}
	key, no := s.signer(x)
	if no != nil {
		return nil, no
	}
	template := caTemplate(csr, from, until)
	cert, no := sign(template, template, key.Public(), key)
	if no != nil {
		return nil, no
	}
	x.enable(cert, "", c.now)
	c.changed = true
	return x.Record, nil
}

// enable makes a pending CA an active one.
func (x *localCA) enable(cert *x509.Certificate, parentID string, now time.Time) {
	x.Record.activate(cert)
	x.Record.Purpose = &purpose{enabled, enabled}
	x.Record.UpdatedAt, x.ParentID = now, parentID
}

// installCA is POST /ca/local-cas/{id}/install.
func (s *Server) installCA(c *call) (any, *refusal) {
	x, no := s.pathCA(c)
	if no != nil {
		return nil, no
	}
	var in struct {
		Cert   string `json:"cert"`
		Parent string `json:"parent_id"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if x.Record.State != pending {
		return nil, conflict("the CA is active already")
	}
	if in.Parent == "" {
		return nil, invalid("parent_id is required")
	}
	cert, no := parseCertificate(in.Cert)
	if no != nil {
		return nil, no
	}
	csr, no := parseCSR(x.Record.CSR)
	if no != nil {
		return nil, no
	}
	up, upID := s.anyCA(c, in.Parent)
	switch {
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, csr.RawSubjectPublicKeyInfo):
		return nil, invalid("cert: is for another key than the CA's")
	case !isCA(cert):
		return nil, invalid("cert: wants CA:TRUE and keyCertSign")
	case !cert.NotAfter.After(c.now):
		return nil, invalid("cert: has expired")
	case up == nil:
		return nil, invalid("parent_id: no active CA")
	}
	parent, no := parseCertificate(up.cert)
	if no != nil {
		return nil, no
	}
	if !bytes.Equal(cert.RawIssuer, parent.RawSubject) || cert.CheckSignatureFrom(parent) != nil {
		return nil, invalid("cert: the parent has not signed it")
	}
	x.enable(cert, upID, c.now)
	c.changed = true
	return x.Record, nil
}

// anyCA finds a local or external CA by id, name or URI.
func (s *Server) anyCA(c *call, ref string) (*issuer, string) {
	if x, no := lookup(c, c.dom.LocalCAs, ref); no == nil && x.Record.State == active {
		return &issuer{x.Record.Cert, x.ParentID}, x.Record.ID
	}
	if x, no := lookup(c, c.dom.ExternalCAs, ref); no == nil {
		return &issuer{x.Record.Cert, x.ParentID}, x.Record.ID
	}
	return nil, ""
}

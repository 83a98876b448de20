package ciphertrusttest

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A client is a registered client: a certificate that gets JWTs.
type client struct {
	common
	State      string    `json:"state"`
	CAID       string    `json:"ca_id"`
	ClientType string    `json:"client_type"`
	Cert       string    `json:"cert"`
	CSR        string    `json:"csr"`
	Serial     string    `json:"serialNumber"`
	Subject    string    `json:"subject"`
	SHA256     string    `json:"sha256Fingerprint"`
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	Groups     []string  `json:"groups"`
	Metadata   any       `json:"client_metadata"`
	Profile    string    `json:"client_management_profile_id,omitempty"`
}

func (m *client) base() *common { return &m.common }

// withKey is a client whose key the server has just made.
type withKey struct {
	client
	Key string `json:"key,omitempty"`
}

// registered reports whether there is a client of that id in any domain.
func (s *Server) registered(id string) bool {
	return slices.ContainsFunc(s.state.Domains, func(d *domain) bool {
		return slices.ContainsFunc(d.Clients, func(x *client) bool { return x.ID == id })
	})
}

// clientByCertificate finds the client of that id, if the certificate of the
// connection is its own and in order.
func (s *Server) clientByCertificate(c *call, id string) (*client, *domain, *refusal) {
	cert, d, no := s.trustedCertificate(c, clientAuth)
	if no != nil {
		return nil, nil, no
	}
	for _, x := range d.Clients {
		if x.ID == id && x.State == active && x.Cert == certPEM(cert.Raw) {
			return x, d, nil
		}
	}
	return nil, nil, invalidClient()
}

// pathClient finds the client that the path names; self is the caller.
func (s *Server) pathClient(c *call) (*client, *refusal) {
	ref := c.args["client"]
	self := strings.TrimPrefix(c.caller.userID, clientSubject)
	if ref == "self" {
		ref = self
	}
	x, no := lookup(c, c.dom.Clients, ref)
	if !c.in("Client Admins") && (no != nil || x.ID != self) {
		return nil, forbidden()
	}
	return x, no
}

func (s *Server) listClients(c *call) (any, *refusal) {
	return list(c, c.dom.Clients, map[string]filter[*client]{
		"ca_id":                  like(func(x *client) string { return x.CAID }),
		"client_id":              like(func(x *client) string { return x.ID }),
		"name":                   like(func(x *client) string { return x.Name }),
		"state":                  like(func(x *client) string { return x.State }),
		"sha256Fingerprint":      like(func(x *client) string { return x.SHA256 }),
		"client_mgmt_profile_id": like(func(x *client) string { return x.Profile }),
		"client_metadata":        like(func(x *client) string { return fmt.Sprint(x.Metadata) }),
	}, func(x *client) any { return x })
}

func (s *Server) getClient(c *call) (any, *refusal) {
	x, no := s.pathClient(c)
	if no != nil {
		return nil, no
	}
	return x, nil
}

func (s *Server) deleteClient(c *call) (any, *refusal) {
	x, no := s.pathClient(c)
	if no != nil {
		return nil, no
	}
	c.dom.Clients = remove(c.dom.Clients, x)
	for _, g := range c.dom.Groups {
		g.Clients = remove(g.Clients, x.ID)
	}
	c.changed = true
	return nil, nil
}

// registration is what registers a client: a certificate, a CSR, or what the
// server makes both of.
type registration struct {
	subjectFields
	Token          string `json:"reg_token"`
	CSR            string `json:"csr"`
	Cert           string `json:"cert"`
	Size           int    `json:"size"`
	Algorithm      string `json:"algorithm"`
	Name           string `json:"name"`
	ClientType     string `json:"client_type"`
	KeepDN         bool   `json:"do_not_modify_subject_dn"`
	DNField        string `json:"subject_dn_field_to_modify"`
	Password       string `json:"password"`
	EncryptionAlgo string `json:"encryptionAlgo"`
	Metadata       any    `json:"client_metadata"`
}

// registerClient is POST /client-management/clients, which a registration token
// pays for instead of a JWT.
func (s *Server) registerClient(c *call) (any, *refusal) {
	var in registration
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Token == "" {
		return nil, invalid("reg_token is required")
	}
	d, t := s.regToken(in.Token)
	if t == nil || !t.good(c.now) {
		return nil, unauthorized("Invalid registration token")
	}
	if in.Name == "" {
		in.Name = fmt.Sprintf("%s%d", t.NamePrefix, t.Registered+1)
	}
	if named(d.Clients, in.Name) {
		return nil, conflict("a client of that name exists already")
	}
	x := &withKey{client: client{
		common: newCommon("client-management:clients", "client", in.Name, c.now), State: active, CAID: t.CAID,
		ClientType: in.ClientType, Metadata: in.Metadata, Groups: []string{}, Profile: t.ProfileID,
	}}
	if p := d.profile(t.ProfileID); p != nil {
		x.Groups = slices.Clone(p.Groups)
	}
	if no := s.certifyClient(c, d, x, in, t.Days); no != nil {
		return nil, no
	}
	for _, name := range x.Groups {
		if g := d.group(name); g != nil {
			g.Clients = append(g.Clients, x.ID)
		}
	}
	t.Registered++
	d.Clients = append(d.Clients, &x.client)
	c.changed = true
	return x, nil
}

// certifyClient gives the client the certificate that is asked for.
func (s *Server) certifyClient(c *call, d *domain, x *withKey, in registration, days int) *refusal {
	if in.Cert != "" {
		cert, no := parseCertificate(in.Cert)
		if no != nil {
			return no
		}
		for _, ca := range d.authorities() {
			if parent, no := parseCertificate(ca.cert); no == nil && cert.CheckSignatureFrom(parent) == nil {
				x.CAID = ca.id
				x.has(cert)
				return nil
			}
		}
		return invalid("cert: no CA of ours has signed it")
	}
	ca, no := lookup(&call{}, d.LocalCAs, x.CAID)
	if no != nil || ca.Record.State != active {
		return invalid("ca_id: no active CA")
	}
	if in.CSR == "" {
		if in.CN == "" {
			in.CN = x.Name
		}
		if in.Algorithm == "" {
			in.Algorithm = "RSA"
		}
		made, no := newCSR(in.subjectFields, in.Algorithm, in.Size, nil)
		if no != nil {
			return no
		}
		in.CSR = made.CSR
		if x.Key, no = keyPEM(made.key, in.EncryptionAlgo, in.Password); no != nil {
			return no
		}
	} else {
		x.CSR = in.CSR
	}
	csr, no := parseCSR(in.CSR)
	if no != nil {
		return no
	}
	until := c.now.AddDate(0, 0, days)
	if until.After(ca.Record.NotAfter) {
		until = ca.Record.NotAfter
	}
	issued, no := s.certify(c, ca, csr, "client", "", c.now.Add(-back).Truncate(time.Second), until.Truncate(time.Second))
	if no != nil {
		return no
	}
	cert, no := parseCertificate(issued.Record.Cert)
	if no != nil {
		return no
	}
	x.CAID = ca.Record.URI
	x.has(cert)
	return nil
}

// has notes the client's certificate.
func (m *client) has(cert *x509.Certificate) {
	m.Cert, m.Serial, m.Subject = certPEM(cert.Raw), cert.SerialNumber.String(), slashName(cert.RawSubject)
	m.SHA256, m.NotBefore, m.NotAfter = fingerprintsOf(cert.Raw).SHA256, cert.NotBefore.UTC(), cert.NotAfter.UTC()
}

// renewClient is POST /client-management/clients/{id}/renew: another
// certificate for the same client id.
func (s *Server) renewClient(c *call) (any, *refusal) {
	x, no := s.pathClient(c)
	if no != nil {
		return nil, no
	}
	var in struct {
		subjectFields
		Days           int    `json:"cert_duration"`
		CAID           string `json:"ca_id"`
		CSR            string `json:"csr"`
		ExtCert        string `json:"ext_cert"`
		Size           int    `json:"size"`
		Algorithm      string `json:"algorithm"`
		Password       string `json:"password"`
		EncryptionAlgo string `json:"encryptionAlgo"`
	}
	if no := c.readAny(s, &in); no != nil {
		return nil, no
	}
	if x.State != active {
		return nil, conflict("the client is " + x.State)
	}
	if in.Days == 0 {
		in.Days = defaultDays
	}
	next := &withKey{client: *x}
	if in.CAID != "" {
		next.CAID = in.CAID
	}
	next.CSR = ""
	if no := s.certifyClient(c, c.dom, next, registration{
		subjectFields: in.subjectFields, CSR: in.CSR, Cert: in.ExtCert, Size: in.Size, Algorithm: in.Algorithm,
		Password: in.Password, EncryptionAlgo: in.EncryptionAlgo,
	}, in.Days); no != nil {
		return nil, no
	}
	next.UpdatedAt = c.now
	*x = next.client
	c.changed = true
	return next, nil
}

// revokeClient is POST /client-management/clients/{id}/revoke.
func (s *Server) revokeClient(c *call) (any, *refusal) {
	x, no := s.pathClient(c)
	if no != nil {
		return nil, no
	}
	var in struct {
		Reason string `json:"revoke_reason"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if _, ok := reasons[in.Reason]; !ok {
		return nil, invalid(fmt.Sprintf("revoke_reason: %q is not known", in.Reason))
	}
	if x.State == revoked {
		return nil, conflict("the client is revoked already")
	}
	for _, ca := range c.dom.LocalCAs {
		for _, cert := range ca.Certs {
			if cert.Record.Cert == x.Cert && cert.Record.State == active {
				cert.Record.State, cert.Record.RevokedAt, cert.Record.RevokedReason = revoked, c.now, in.Reason
			}
		}
	}
	x.State, x.UpdatedAt = revoked, c.now
	c.changed = true
	return x, nil
}

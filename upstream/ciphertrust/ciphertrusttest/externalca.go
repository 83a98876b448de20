package ciphertrusttest

import (
	"slices"
	"time"
)

// externalRecord is an external CA on the wire: a local CA without a key.
type externalRecord struct {
	common
	State     string    `json:"state"`
	Cert      string    `json:"cert"`
	Serial    string    `json:"serialNumber"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	fingerprints
	Purpose purpose `json:"purpose"`
}

// An externalCA is a CA whose certificates may be trusted.
type externalCA struct {
	Record   externalRecord
	ParentID string
}

func (x *externalCA) base() *common { return &x.Record.common }

func (s *Server) listExternal(c *call) (any, *refusal) {
	return list(c, c.dom.ExternalCAs, map[string]filter[*externalCA]{
		"subject":      like(func(x *externalCA) string { return x.Record.Subject }),
		"issuer":       like(func(x *externalCA) string { return x.Record.Issuer }),
		"serialNumber": like(func(x *externalCA) string { return x.Record.Serial }),
		"cert":         like(func(x *externalCA) string { return x.Record.Cert }),
	}, func(x *externalCA) any { return x.Record })
}

// uploadExternal is POST /ca/external-cas.
func (s *Server) uploadExternal(c *call) (any, *refusal) {
	var in struct {
		Cert   string `json:"cert"`
		Name   string `json:"name"`
		Parent string `json:"parent"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	cert, no := parseCertificate(in.Cert)
	if no != nil {
		return nil, no
	}
	text := certPEM(cert.Raw)
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, invalid("cert: wants CA:TRUE")
	case in.Name != "" && named(c.dom.ExternalCAs, in.Name):
		return nil, conflict("a CA of that name exists already")
	case slices.ContainsFunc(c.dom.ExternalCAs, func(x *externalCA) bool { return x.Record.Cert == text }):
		return nil, conflict("the CA exists already")
	}
	x := &externalCA{}
	if in.Parent != "" {
		up, id := s.anyCA(c, in.Parent)
		if up == nil {
			return nil, invalid("parent: no such CA")
		}
		parent, no := parseCertificate(up.cert)
		if no != nil || cert.CheckSignatureFrom(parent) != nil {
			return nil, invalid("cert: the parent has not signed it")
		}
		x.ParentID = id
	}
	x.Record = externalRecord{
		common: newCommon("naboo:external_ca", "externalca", in.Name, c.now), State: active, Cert: text,
		Serial: cert.SerialNumber.String(), Subject: slashName(cert.RawSubject), Issuer: slashName(cert.RawIssuer),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		fingerprints: fingerprintsOf(cert.Raw), Purpose: purpose{enabled, enabled},
	}
	c.dom.ExternalCAs = append(c.dom.ExternalCAs, x)
	c.changed = true
	return x.Record, nil
}

func (s *Server) getExternal(c *call) (any, *refusal) {
	x, no := lookup(c, c.dom.ExternalCAs, c.args["ca"])
	if no != nil {
		return nil, no
	}
	return x.Record, nil
}

func (s *Server) patchExternal(c *call) (any, *refusal) {
	x, no := lookup(c, c.dom.ExternalCAs, c.args["ca"])
	if no != nil {
		return nil, no
	}
	in, no := s.caChange(c)
	if no != nil {
		return nil, no
	}
	x.Record.Purpose.apply(in)
	x.Record.UpdatedAt = c.now
	c.changed = true
	return x.Record, nil
}

func (s *Server) deleteExternal(c *call) (any, *refusal) {
	x, no := lookup(c, c.dom.ExternalCAs, c.args["ca"])
	if no != nil {
		return nil, no
	}
	if slices.Contains(c.dom.TrustedCAs, x.Record.ID) {
		return nil, conflict("the web interface trusts the CA")
	}
	c.dom.ExternalCAs = remove(c.dom.ExternalCAs, x)
	c.changed = true
	return nil, nil
}

package ciphertrusttest

import (
	"crypto/x509"
	"slices"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// What a certificate may be used for.
const (
	userAuth   = "user"
	clientAuth = "client"
)

// trustedCertificate returns the client certificate of the connection and the
// domain whose web interface trusts it, if it is in order: of a trusted CA that
// may log such callers in, in its time, for clients, and not revoked.
func (s *Server) trustedCertificate(c *call, use string) (*x509.Certificate, *domain, *refusal) {
	cert := upstreamtest.ClientCertificate(c.r)
	if cert == nil {
		return nil, nil, invalidClient()
	}
	for _, d := range s.state.Domains {
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		for _, x := range c.r.TLS.PeerCertificates[1:] {
			between.AddCert(x)
		}
		for _, ca := range d.authorities() {
			parsed, no := parseCertificate(ca.cert)
			switch {
			case no != nil:
			case slices.Contains(d.TrustedCAs, ca.id):
				roots.AddCert(parsed)
			default:
				between.AddCert(parsed)
			}
		}
		chains, err := cert.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: c.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err == nil && slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return s.allows(d, chain, use) }) {
			return cert, d, nil
		}
	}
	return nil, nil, invalidClient()
}

// An authority is a local or external CA of a domain.
type authority struct {
	id, cert string
	purpose  *purpose
	certs    []*certificate
}

func (d *domain) authorities() []authority {
	var list []authority
	for _, x := range d.LocalCAs {
		if x.Record.State == active {
			list = append(list, authority{x.Record.ID, x.Record.Cert, x.Record.Purpose, x.Certs})
		}
	}
	for _, x := range d.ExternalCAs {
		list = append(list, authority{x.Record.ID, x.Record.Cert, &x.Record.Purpose, nil})
	}
	return list
}

// allows reports whether no CA of the chain is barred from the use, and none of
// its certificates is revoked.
func (s *Server) allows(d *domain, chain []*x509.Certificate, use string) bool {
	check := s.property("ENABLE_CERT_REV_CHECK") == "true"
	for _, ca := range d.authorities() {
		for i, cert := range chain {
			if i > 0 && ca.cert == certPEM(cert.Raw) {
				if use == userAuth && ca.purpose.User != enabled || use == clientAuth && ca.purpose.Client != enabled {
					return false
				}
			}
			text := certPEM(cert.Raw)
			if check && slices.ContainsFunc(ca.certs, func(x *certificate) bool { return x.Record.State == revoked && x.Record.Cert == text }) {
				return false
			}
		}
	}
	return true
}

package agent

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A wanted is what was asked of an issuer, to hold its answer against.
type wanted struct {
	Key      crypto.PublicKey
	Subject  pkix.Name
	Names    names
	Usage    x509.ExtKeyUsage
	CA       bool           // a CA's certificate
	NotAfter time.Time      // zero if the issuer was free to choose
	Roots    *x509.CertPool // nil if the issuer's CA is not known beforehand
}

// skew is how far the clocks of host and issuer may lie apart.
const skew = 5 * time.Minute

// checkChain believes an issued chain or says why not. Its leaf is returned.
// What the CA sends is not used before this (failures T32, T40).
func checkChain(chain [][]byte, want wanted, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("the issuer sent no certificate")
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
		certs[i] = c
	}
	leaf := certs[0]
	pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !pub.Equal(want.Key):
		return nil, errors.New("the certificate is for another key")
	case now.Add(skew).Before(leaf.NotBefore):
		return nil, fmt.Errorf("the certificate is not valid before %s", leaf.NotBefore.Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return nil, fmt.Errorf("the certificate ended at %s", leaf.NotAfter.Format(time.RFC3339))
	case !want.NotAfter.IsZero() && leaf.NotAfter.After(want.NotAfter.Add(skew)):
		return nil, fmt.Errorf("the certificate ends at %s, which is longer than asked for (%s)",
			leaf.NotAfter.Format(time.RFC3339), want.NotAfter.Format(time.RFC3339))
	case want.CA && !leaf.IsCA:
		return nil, errors.New("the certificate is not a CA's, which was asked for")
	case leaf.IsCA && !want.CA:
		return nil, errors.New("the certificate is a CA's, which was not asked for")
	case weak(leaf.SignatureAlgorithm):
		return nil, fmt.Errorf("the certificate is signed with %v, which proves nothing", leaf.SignatureAlgorithm)
	}
	if err := checkNames(leaf, want.Subject, want.Names); err != nil {
		return nil, err
	}
	if !usable(leaf, want.Usage) {
		return nil, errors.New("the certificate lacks the key usage asked for")
	}
	return leaf, checkLinks(certs, want, now)
}

// weak reports whether signatures of this kind can be forged.
func weak(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// checkNames sees that the certificate has every name that was asked for. What
// the issuer adds of its own is its affair.
func checkNames(leaf *x509.Certificate, subject pkix.Name, want names) error {
	if cn := subject.CommonName; cn != "" && leaf.Subject.CommonName != cn {
		return fmt.Errorf("the certificate is for %q, not %q", leaf.Subject.CommonName, cn)
	}
	if n := subject.SerialNumber; n != "" && leaf.Subject.SerialNumber != n {
		return fmt.Errorf("the subject of the certificate has the serial number %q, not %q", leaf.Subject.SerialNumber, n)
	}
	for _, part := range []struct {
		what       string
		have, want []string
	}{
		{"organization", leaf.Subject.Organization, subject.Organization},
		{"organizational unit", leaf.Subject.OrganizationalUnit, subject.OrganizationalUnit},
		{"country", leaf.Subject.Country, subject.Country},
		{"province", leaf.Subject.Province, subject.Province},
		{"locality", leaf.Subject.Locality, subject.Locality},
		{"DNS name", lower(leaf.DNSNames), lower(want.DNS)},
		{"IP address", texts(leaf.IPAddresses), texts(want.IPs)},
		{"e-mail address", leaf.EmailAddresses, want.Emails},
		{"URI", texts(leaf.URIs), texts(want.URIs)},
	} {
		for _, name := range part.want {
			if !slices.Contains(part.have, name) {
				return fmt.Errorf("the certificate is not for the %s %q", part.what, name)
			}
		}
	}
	return nil
}

func lower(ss []string) []string {
	out := make([]string, len(ss))
	for i, s := range ss {
		out[i] = strings.ToLower(s)
	}
	return out
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

// usable reports whether leaf may be used so. Without the extensions, any usage
// is allowed (RFC 5280 sections 4.2.1.3 and 4.2.1.12).
func usable(leaf *x509.Certificate, usage x509.ExtKeyUsage) bool {
	if !leaf.IsCA && leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return false // no handshake of TLS 1.3 without it
	}
	if len(leaf.ExtKeyUsage) == 0 && len(leaf.UnknownExtKeyUsage) == 0 {
		return true
	}
	return usage == x509.ExtKeyUsageAny ||
		slices.Contains(leaf.ExtKeyUsage, usage) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// checkLinks follows the signatures up the chain, and to a root where one is known.
func checkLinks(certs []*x509.Certificate, want wanted, now time.Time) error {
	for i := 0; i+1 < len(certs); i++ {
		if err := certs[i].CheckSignatureFrom(certs[i+1]); err != nil {
			return fmt.Errorf("certificate %d of the chain is not signed by the next: %w", i+1, err)
		}
	}
	if want.Roots == nil {
		return nil
	}
	inter := x509.NewCertPool()
	for _, c := range certs[1:] {
		inter.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots: want.Roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		// The issuer's clock may be ahead; the dates themselves were checked above.
		CurrentTime: later(now, certs[0].NotBefore),
	})
	if err != nil {
		return fmt.Errorf("the certificate was not issued by the expected CA: %w", err)
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sameChain reports whether two chains are the same certificates.
func sameChain(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

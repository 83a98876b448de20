package ciphertrusttest

import (
	"crypto/sha1" //nolint:gosec // fingerprints that the product shows
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"net"
	"net/mail"
	"slices"
	"strings"
)

// nameTypes are the short names of what subjects are made of.
var nameTypes = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.42": "GN",
	"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "emailAddress",
}

// attributes are the parts of an encoded name as TYPE=value, in its order.
func attributes(raw []byte) []string {
	var seq pkix.RDNSequence
	if _, err := asn1.Unmarshal(raw, &seq); err != nil {
		return nil
	}
	var list []string
	for _, set := range seq {
		for _, a := range set {
			name := nameTypes[a.Type.String()]
			if name == "" {
				name = a.Type.String()
			}
			list = append(list, fmt.Sprintf("%s=%v", name, a.Value))
		}
	}
	return list
}

// slashName writes a name as the product does: /C=US/O=Acme/CN=root.example.
func slashName(raw []byte) string {
	var text strings.Builder
	for _, a := range attributes(raw) {
		text.WriteString("/" + a)
	}
	return text.String()
}

// sameDN reports whether the text names the subject of the certificate. It may
// be written with slashes or commas, from either end.
func sameDN(text string, cert *x509.Certificate) bool {
	var parts []string
	if rest, ok := strings.CutPrefix(text, "/"); ok {
		parts = strings.Split(rest, "/")
	} else {
		parts = splitEscaped(text)
	}
	for i, p := range parts {
		name, value, _ := strings.Cut(p, "=")
		name = strings.TrimSpace(name)
		if strings.EqualFold(name, "E") || strings.EqualFold(name, "email") {
			name = "emailAddress"
		}
		parts[i] = strings.ToLower(name) + "=" + strings.TrimSpace(value)
	}
	have := attributes(cert.RawSubject)
	for i, p := range have {
		name, value, _ := strings.Cut(p, "=")
		have[i] = strings.ToLower(name) + "=" + value
	}
	if text == "" || len(have) == 0 {
		return false
	}
	if slices.Equal(parts, have) {
		return true
	}
	slices.Reverse(parts)
	return slices.Equal(parts, have)
}

// splitEscaped splits at commas that no backslash precedes.
func splitEscaped(text string) []string {
	var parts []string
	var one strings.Builder
	escaped := false
	for _, r := range text {
		switch {
		case escaped:
			one.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case r == ',':
			parts = append(parts, one.String())
			one.Reset()
		default:
			one.WriteRune(r)
		}
	}
	return append(parts, one.String())
}

// fingerprints are those that records of certificates have.
type fingerprints struct {
	SHA1   string `json:"sha1Fingerprint"`
	SHA256 string `json:"sha256Fingerprint"`
	SHA512 string `json:"sha512Fingerprint"`
}

func fingerprintsOf(der []byte) fingerprints {
	one, two, five := sha1.Sum(der), sha256.Sum256(der), sha512.Sum512(der) //nolint:gosec // as above
	upper := func(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }
	return fingerprints{upper(one[:]), upper(two[:]), upper(five[:])}
}

// subjectFields are what requests say about the subject of a certificate.
type subjectFields struct {
	CN     string      `json:"cn"`
	Names  []nameParts `json:"names"`
	DNS    []string    `json:"dnsNames"`
	Emails []string    `json:"emailAddresses"`
	IPs    []string    `json:"ipAddresses"`
}

type nameParts struct {
	O  string `json:"O"`
	OU string `json:"OU"`
	L  string `json:"L"`
	ST string `json:"ST"`
	C  string `json:"C"`
}

// request is the template of a CSR for these names.
func (f subjectFields) request() (*x509.CertificateRequest, *refusal) {
	if f.CN == "" {
		return nil, invalid("cn is required")
	}
	var seq pkix.RDNSequence
	add := func(oid asn1.ObjectIdentifier, value string) {
		if value != "" {
			seq = append(seq, pkix.RelativeDistinguishedNameSET{{Type: oid, Value: value}})
		}
	}
	for _, n := range f.Names {
		add(asn1.ObjectIdentifier{2, 5, 4, 6}, n.C)
		add(asn1.ObjectIdentifier{2, 5, 4, 8}, n.ST)
		add(asn1.ObjectIdentifier{2, 5, 4, 7}, n.L)
		add(asn1.ObjectIdentifier{2, 5, 4, 10}, n.O)
		add(asn1.ObjectIdentifier{2, 5, 4, 11}, n.OU)
	}
	add(asn1.ObjectIdentifier{2, 5, 4, 3}, f.CN)
	raw, err := asn1.Marshal(seq)
	if err != nil {
		return nil, invalid("names: cannot be written in a certificate")
	}
	t := &x509.CertificateRequest{RawSubject: raw, DNSNames: f.DNS, EmailAddresses: f.Emails}
	for _, text := range f.IPs {
		ip := net.ParseIP(text)
		if ip == nil {
			return nil, invalid(fmt.Sprintf("ipAddresses: %q is none", text))
		}
		t.IPAddresses = append(t.IPAddresses, ip)
	}
	for _, text := range f.Emails {
		if _, err := mail.ParseAddress(text); err != nil {
			return nil, invalid(fmt.Sprintf("emailAddresses: %q is none", text))
		}
	}
	return t, nil
}

package upstream

import (
	"crypto/tls"
	"strconv"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A Secret is the answer of an upstream that was asked for a secret.
type Secret struct {
	// Fields are the named values, as the Contract names them per upstream
	// type. None of them is empty unless the upstream itself keeps it empty.
	Fields map[string]secret.Value
	// Version is the upstream's own version of the value, or "" if it has none.
	Version string
	// Expires is when the upstream will change the value, or the zero time if
	// it does not say. It is the upstream's own instant, without any margin.
	Expires time.Time
	// TTL is how long the upstream suggests to keep the value, or 0.
	TTL time.Duration
}

// A RequestKind says what a certificate is asked for on the strength of.
type RequestKind int

// The kinds of certificate requests.
const (
	Register RequestKind = iota // the first one of an identity, with one-time credentials where the issuer wants them
	Renew                       // the same key, a later end
	Rotate                      // a new key in place of the present one
)

// String is the kind as operators read it.
func (k RequestKind) String() string {
	switch k {
	case Register:
		return "register"
	case Renew:
		return "renew"
	case Rotate:
		return "rotate"
	}
	return "request kind " + strconv.Itoa(int(k))
}

// A CertificateRequest asks an issuer for a certificate.
type CertificateRequest struct {
	Kind RequestKind
	// ID tells this request from every other: it is random, and the same only
	// when the same is asked again. A CSR cannot do that: RSA and Ed25519 sign
	// the same names the same way each time.
	ID string
	// CSR is the PKCS#10 request in DER, signed by the key to certify.
	CSR []byte
	// NotAfter is the end asked for, or zero for the issuer's default.
	NotAfter time.Time
	// Current is the present identity, to authenticate a Renew or Rotate with;
	// nil for a Register.
	Current *tls.Certificate
	// Username and Password are the one-time credentials of a Register.
	Username string
	Password secret.Value
	// Uncertain says that an earlier try with this very ID was sent and its
	// answer lost, so that it may have been carried out. The issuer must find
	// out before it asks again, or fail with an Error of code Lost.
	Uncertain bool
	// Compromised says that the present key is to be revoked as compromised.
	Compromised bool
	// Options are what the configuration asks of the issuer besides the names,
	// which are in the CSR.
	Options Options
}

// Options say what kind of certificate is wanted. An issuer takes those that it
// knows; all of them may be empty.
type Options struct {
	CA       string        // which CA of the issuer signs: its ID or name
	Purpose  string        // "server", "client" or "ca"
	Profile  string        // the issuer's own name for a kind of certificate
	Duration time.Duration // of the certificate; 0 is the issuer's default
}

// An Issued is what an issuer answers: the chain in DER, leaf first, nothing of
// it believed yet.
type Issued struct {
	Chain [][]byte
}

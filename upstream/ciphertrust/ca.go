package ciphertrust

import (
	"context"
	"iter"
	"net/url"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A CA is a certificate authority: a local one, whose key the server has, or an
// external one that it only trusts.
type CA struct {
	Raw
	ID           string    `json:"id"`
	URI          string    `json:"uri"`
	CreatedAt    time.Time `json:"createdAt"`
	UpdatedAt    time.Time `json:"updatedAt"`
	Name         string    `json:"name"`
	State        string    `json:"state"` // of a local one: "pending" until it has a certificate, then "active"
	CSR          string    `json:"csr"`   // PEM, while pending
	Cert         string    `json:"cert"`  // PEM
	SerialNumber string    `json:"serialNumber"`
	Subject      string    `json:"subject"`
	Issuer       string    `json:"issuer"`
	NotBefore    time.Time `json:"notBefore"`
	NotAfter     time.Time `json:"notAfter"`
	SHA256       string    `json:"sha256Fingerprint"`
	Parent       string    `json:"parent"`
	Purpose      Purpose   `json:"purpose"`
}

// Purpose is what certificates of a CA are good for at the server itself:
// "Enabled" or "Disabled".
type Purpose struct {
	ClientAuthentication string `json:"client_authentication"`
	UserAuthentication   string `json:"user_authentication"`
}

// A SubjectName is one further part of a subject.
type SubjectName struct {
	C  string `json:"C,omitempty"`
	ST string `json:"ST,omitempty"`
	L  string `json:"L,omitempty"`
	O  string `json:"O,omitempty"`
	OU string `json:"OU,omitempty"`
}

// CARequest says what local CA to make.
type CARequest struct {
	CommonName string        `json:"cn"`
	Name       string        `json:"name,omitempty"`
	Algorithm  string        `json:"algorithm,omitempty"` // RSA or ECDSA, which is the default
	Size       int           `json:"size,omitempty"`
	CopyFromCA string        `json:"copy_from_ca,omitempty"` // the same key and subject as that one
	DNSNames   []string      `json:"dnsNames,omitempty"`
	Emails     []string      `json:"emailAddresses,omitempty"`
	IPs        []string      `json:"ipAddresses,omitempty"`
	Names      []SubjectName `json:"names,omitempty"`
}

// CASettings are what can be set of a CA; what is nil stays.
type CASettings struct {
	ClientAuthentication *bool `json:"allow_client_authentication,omitempty"`
	UserAuthentication   *bool `json:"allow_user_authentication,omitempty"`
}

// A Validity is how long a certificate is to be good for: until NotAfter, or
// for whole days.
type Validity struct {
	Duration  int        `json:"duration,omitempty"` // days
	NotAfter  *time.Time `json:"notAfter,omitempty"`
	NotBefore *time.Time `json:"notBefore,omitempty"`
}

// CAFilters are the filters of CAs.
var CAFilters = []string{"subject", "issuer", "state", "cert"}

const localCAs = "/ca/local-cas"

func localCA(id string) string { return localCAs + "/" + segment(id) }

// CAs lists local CAs.
func (c *Client) CAs(ctx context.Context, f Filter) iter.Seq2[*CA, error] {
	return list[CA](ctx, c, read("list local CAs", "", localCAs), CAFilters, f)
}

// CA is one local CA, by ID or name; chained has Cert hold its chain too.
func (c *Client) CA(ctx context.Context, id string, chained bool) (*CA, error) {
	k := read("read local CA", id, localCA(id))
	if chained {
		k.query = url.Values{"chained": {"true"}}
	}
	return one[CA](ctx, c, k, id)
}

// CreateCA makes a local CA, which is pending and has a CSR.
func (c *Client) CreateCA(ctx context.Context, r CARequest) (*CA, error) {
	return one[CA](ctx, c, post("create local CA", r.CommonName, localCAs, r))
}

// UpdateCA says what the certificates of a local CA are good for.
func (c *Client) UpdateCA(ctx context.Context, id string, s CASettings) (*CA, error) {
	return one[CA](ctx, c, change("update local CA", id, localCA(id), s), id)
}

// SelfSign makes a pending CA a root.
func (c *Client) SelfSign(ctx context.Context, id string, v Validity) (*CA, error) {
	return one[CA](ctx, c, post("self-sign local CA", id, localCA(id)+"/self-sign", v), id)
}

// InstallCA gives a pending CA the certificate that another CA has made of its
// CSR. parent is the ID of that CA, local or external.
func (c *Client) InstallCA(ctx context.Context, id, cert, parent string) (*CA, error) {
	body := struct {
		Cert   string `json:"cert"`
		Parent string `json:"parent_id"`
	}{cert, parent}
	return one[CA](ctx, c, post("install local CA", id, localCA(id)+"/install", body), id)
}

// DeleteCA deletes a local CA with its key.
func (c *Client) DeleteCA(ctx context.Context, id string) error {
	return c.on(ctx, remove("delete local CA", id, localCA(id)), nil, id)
}

// ExternalCAFilters are the filters of ExternalCAs.
var ExternalCAFilters = []string{"subject", "issuer", "serialNumber", "cert"}

const externalCAs = "/ca/external-cas"

func externalCA(id string) string { return externalCAs + "/" + segment(id) }

// ExternalCAs lists external CAs.
func (c *Client) ExternalCAs(ctx context.Context, f Filter) iter.Seq2[*CA, error] {
	return list[CA](ctx, c, read("list external CAs", "", externalCAs), ExternalCAFilters, f)
}

// ExternalCA is one external CA.
func (c *Client) ExternalCA(ctx context.Context, id string) (*CA, error) {
	return one[CA](ctx, c, read("read external CA", id, externalCA(id)), id)
}

// UploadExternalCA has the server trust a CA, whose certificate is in PEM. name
// and parent may be empty.
func (c *Client) UploadExternalCA(ctx context.Context, cert, name, parent string) (*CA, error) {
	return one[CA](ctx, c, post("upload external CA", name, externalCAs, struct {
		Cert   string `json:"cert"`
		Name   string `json:"name,omitempty"`
		Parent string `json:"parent,omitempty"`
	}{cert, name, parent}))
}

// UpdateExternalCA says what the certificates of an external CA are good for.
func (c *Client) UpdateExternalCA(ctx context.Context, id string, s CASettings) (*CA, error) {
	return one[CA](ctx, c, change("update external CA", id, externalCA(id), s), id)
}

// DeleteExternalCA ends the trust in a CA.
func (c *Client) DeleteExternalCA(ctx context.Context, id string) error {
	return c.on(ctx, remove("delete external CA", id, externalCA(id)), nil, id)
}

// CSRRequest asks the server to make a key and a CSR, neither of which it keeps.
type CSRRequest struct {
	CommonName string        `json:"cn"`
	Algorithm  string        `json:"algorithm,omitempty"`
	Size       int           `json:"size,omitempty"`
	Name       string        `json:"name,omitempty"`
	Names      []SubjectName `json:"names,omitempty"`
	DNSNames   []string      `json:"dnsNames,omitempty"`
	Emails     []string      `json:"emailAddresses,omitempty"`
	IPs        []string      `json:"ipAddresses,omitempty"`
	// Encryption is how the key is encrypted in the answer, with Password:
	// AES256, AES192, AES128 or TDES; "" is not at all.
	Encryption string       `json:"encryptionAlgo,omitempty"`
	Password   secret.Value `json:"-"`
	// PrivateKey is the PEM of a key to use instead of a new one.
	PrivateKey secret.Value `json:"-"`
}

// A CSR is a certificate request with its key, both in PEM.
type CSR struct {
	CSR string
	Key secret.Value
}

// CSR makes a key and a CSR. The private key passes through the network: a key
// in the HSM is better.
func (c *Client) CSR(ctx context.Context, r CSRRequest) (*CSR, error) {
	k := post("make certificate request", r.CommonName, "/ca/csr", struct {
		CSRRequest
		Password   string `json:"password,omitempty"`
		PrivateKey string `json:"privateKeyBytes,omitempty"`
	}{r, string(r.Password.Reveal()), string(r.PrivateKey.Reveal())})
	k.again = true
	var got struct {
		CSR string `json:"csr"`
		Key string `json:"key"`
	}
	if err := c.do(ctx, k, &got); err != nil {
		return nil, err
	}
	if got.CSR == "" {
		return nil, c.notUnderstood(k)
	}
	return &CSR{got.CSR, secret.New([]byte(got.Key))}, nil
}

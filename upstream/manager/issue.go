package manager

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// Issue registers, renews or rotates the client certificate of the account. A
// Renew may answer the present certificate when the Manager sees no need for a
// new one; compare serial numbers.
func (c *Client) Issue(ctx context.Context, r upstream.CertificateRequest) (upstream.Issued, error) {
	switch r.Kind {
	case upstream.Renew:
		return c.renew(ctx, r)
	case upstream.Rotate:
		return c.rotate(ctx, r)
	default:
		return c.register(ctx, r)
	}
}

// register uses the one-time credentials up. If it is uncertain whether an
// earlier try did, the same call finds out: they work once.
func (c *Client) register(ctx context.Context, r upstream.CertificateRequest) (upstream.Issued, error) {
	k := c.call("register certificate", c.cfg.RegisterMethod)
	k.form = csrForm(r)
	basic := http.Request{Header: http.Header{}}
	basic.SetBasicAuth(r.Username, string(r.Password.Reveal()))
	k.header = basic.Header
	issued, err := c.issue(ctx, nil, k)
	if e, ok := errors.AsType[*upstream.Error](err); ok && r.Uncertain && e.Status == http.StatusUnauthorized {
		e.Code = upstream.Lost
		e.Remedy = "an earlier registration was sent and its answer lost, and the one-time user name and password are no longer accepted: " +
			"account " + k.item + " is registered with a certificate that nobody has; ask the Manager's administrator to disable it and to create a new private account, " +
			"set account_id to its id, and enroll again with its user name and password"
	}
	return issued, err
}

// renew is harmless at any time and any number of times.
func (c *Client) renew(ctx context.Context, r upstream.CertificateRequest) (upstream.Issued, error) {
	k := c.call("renew certificate", "clientCertificateRenewer")
	if r.Current == nil {
		return upstream.Issued{}, c.noCurrent(k)
	}
	until := r.NotAfter
	if until.IsZero() {
		until = time.Now().AddDate(1, 0, 0) // what a registration gets
	}
	k.form = url.Values{"accountId": {k.item}, "expirationDate": {millis(until)}}
	k.idempotent = true
	return c.issue(ctx, r.Current, k)
}

// rotate puts a new key in place of the present one, whose certificates are
// revoked at once. If it is uncertain whether an earlier try did so, the present
// certificate tells.
func (c *Client) rotate(ctx context.Context, r upstream.CertificateRequest) (upstream.Issued, error) {
	k := c.call("rotate client key", "rotateClientKey")
	if r.Current == nil {
		return upstream.Issued{}, c.noCurrent(k)
	}
	if r.Uncertain {
		if err := c.Prove(ctx, *r.Current); err != nil {
			return upstream.Issued{}, c.rotated(k, r.Current, err)
		}
	}
	k.form = csrForm(r)
	return c.issue(ctx, r.Current, k)
}

// rotated judges why the present certificate does not work after a rotation
// whose answer was lost.
func (c *Client) rotated(k call, current *tls.Certificate, err error) error {
	e, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		return err
	}
	e.Op, e.Item = k.op, k.item
	e.Sent = true // if not by now, then by the try before
	if e.Status != http.StatusUnauthorized {
		return e
	}
	if current.Leaf != nil && time.Now().After(current.Leaf.NotAfter) {
		return e // the dates are reason enough; nothing is known of the rotation
	}
	e.Code = upstream.Lost
	e.Remedy = "a key rotation was sent and its answer lost, and the old certificate is no longer accepted: " +
		"unless account " + k.item + " is only disabled (then have it enabled), the Manager has made a certificate that nobody has; " +
		"ask its administrator to disable the account and to create a new private account, set account_id to its id, and enroll again; " +
		"vaults of the old account stay with it"
	return e
}

// issue makes a call that answers a certificate, showing exactly the one given.
func (c *Client) issue(ctx context.Context, shown *tls.Certificate, k call) (upstream.Issued, error) {
	// A connection of its own: a kept one that the Manager has closed meanwhile
	// would leave a single-use call uncertain for nothing.
	h := c.cfg.HTTP.With(shown)
	defer h.Reset()
	k.shown = shown
	var data struct {
		Certificate string `json:"certificate"`
	}
	if err := c.do(ctx, h, k, &data); err != nil {
		return upstream.Issued{}, err
	}
	chain := decode(data.Certificate)
	if len(chain) == 0 {
		return upstream.Issued{}, &upstream.Error{
			Upstream: c.cfg.HTTP.Name(), Op: k.op, Item: k.item, Code: upstream.Unavailable, Status: http.StatusOK,
			Text: "answer without a certificate", Sent: true,
		}
	}
	return upstream.Issued{Chain: chain}, nil
}

// call is a call about the account.
func (c *Client) call(op, method string) call {
	return call{op: op, item: strconv.FormatInt(c.cfg.AccountID, 10), method: method}
}

func (c *Client) noCurrent(k call) error {
	return &upstream.Error{
		Upstream: c.cfg.HTTP.Name(), Op: k.op, Item: k.item, Code: upstream.Invalid,
		Text: "there is no present certificate to ask with", Remedy: "enroll the identity first",
	}
}

// csrForm is the parameters of a call with a CSR.
func csrForm(r upstream.CertificateRequest) url.Values {
	block := &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR}
	form := url.Values{"csr": {string(pem.EncodeToMemory(block))}}
	if !r.NotAfter.IsZero() {
		form.Set("expirationDate", millis(r.NotAfter))
	}
	return form
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// decode returns the certificates of a PEM text in DER.
func decode(text string) (chain [][]byte) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain
		}
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
		}
	}
}

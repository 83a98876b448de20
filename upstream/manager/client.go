package manager

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// maxSkew is how far the Manager's clock may be from ours without a warning.
const maxSkew = time.Minute

// Config says which Manager, and which account there.
type Config struct {
	// HTTP reaches the Manager and shows the identity that it issued, or goes
	// through an agent that does.
	HTTP *upstream.HTTP
	// AccountID is the private account's. Without it nothing can be issued; the
	// methods about vaults need none.
	AccountID int64
	// RegisterMethod is the name of the method "Register Client Certificate".
	// If "", it is clientRegistration.
	RegisterMethod string
	Log            *slog.Logger // if nil, nothing is logged
}

// A Client talks to one Manager for one private account.
type Client struct {
	cfg    Config
	skew   atomic.Int64 // the Manager's clock less ours, as last seen
	warned atomic.Bool  // of the skew
}

// New makes a client; it does not connect.
func New(cfg Config) *Client {
	if cfg.RegisterMethod == "" {
		cfg.RegisterMethod = "clientRegistration"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg}
}

// Skew is how far the Manager's clock was ahead of ours at its last answer.
func (c *Client) Skew() time.Duration { return time.Duration(c.skew.Load()) }

// A call is one method of the Manager with its parameters.
type call struct {
	op, item   string // for errors
	method     string
	form       url.Values
	idempotent bool
	header     http.Header
	// shown is the certificate that the call is made with, where it is known;
	// it explains a 401.
	shown *tls.Certificate
}

// answer is the envelope around everything that the Manager says.
type answer struct {
	ResponseStatus string `json:"responseStatus"`
	ResponseHeader struct {
		Now       int64  `json:"now"`
		RequestID string `json:"requestId"`
	} `json:"responseHeader"`
	ResponseData json.RawMessage `json:"responseData"`
}

// failures is responseData of an answer that refuses.
type failures struct {
	Errors []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
		Code    string `json:"code"`
	} `json:"errors"`
}

// do calls a method over h and reads responseData into data, unless that is nil.
func (c *Client) do(ctx context.Context, h *upstream.HTTP, k call, data any) error {
	r := upstream.Request{
		Method: http.MethodPost, Path: "/manager/api/json/1.0/" + k.method + ".adm",
		Header: k.header, Body: []byte(k.form.Encode()), ContentType: "application/x-www-form-urlencoded",
		Op: k.op, Item: k.item, Idempotent: k.idempotent,
	}
	resp, err := h.Do(ctx, r)
	if err != nil {
		return err
	}
	e := h.Error(r, resp, upstream.CodeOfStatus(resp.Status))
	if resp.Status == http.StatusUnauthorized {
		e.Remedy = whyUnauthorized(k, time.Now())
		return e
	}
	a, ok := envelope(resp)
	if !ok {
		return notTheManager(e, k)
	}
	e.RequestID = upstream.OneLine(a.ResponseHeader.RequestID)
	c.compareClocks(a.ResponseHeader.Now)
	if resp.Status != http.StatusOK || a.ResponseStatus != "ok" {
		return refusal(e, k, a)
	}
	if data == nil {
		return nil
	}
	if err := json.Unmarshal(a.ResponseData, data); err != nil {
		// err may quote the answer.
		e.Code, e.Sent, e.Text = upstream.Unavailable, true, "answer without the expected data"
		return e
	}
	return nil
}

// envelope reads the answer, if it is one of the Manager's.
func envelope(resp *upstream.Response) (answer, bool) {
	var a answer
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || json.Unmarshal(resp.Body, &a) != nil {
		return a, false
	}
	return a, a.ResponseStatus == "ok" || a.ResponseStatus == "fail"
}

// notTheManager completes the error for an answer without envelope.
func notTheManager(e *upstream.Error, k call) error {
	e.Code, e.Text = upstream.Unavailable, "answer is not the Manager's"
	e.Remedy = "check the upstream's url; something else than the Manager answers there"
	if e.Status == http.StatusNotFound {
		e.Remedy = unknownMethod(k)
	}
	// If it was the Manager after all, it has carried the call out.
	e.Sent = e.Sent || e.Status == http.StatusOK
	return e
}

func unknownMethod(k call) string {
	return "the Manager does not know the method " + k.method + "; check url, register_method, and the Manager's release"
}

// refusal completes the error for a call that the Manager refuses.
func refusal(e *upstream.Error, k call, a answer) error {
	var f failures
	if json.Unmarshal(a.ResponseData, &f) == nil && len(f.Errors) > 0 {
		first := f.Errors[0]
		e.Symbol = upstream.OneLine(first.Code)
		e.Text = first.Message
		if first.Field != "" {
			e.Text = first.Field + ": " + first.Message
		}
		e.Text = upstream.OneLine(e.Text)
	}
	switch {
	case e.Status == http.StatusOK: // and yet it says fail
		e.Code = upstream.Invalid
	case e.Status == http.StatusNotFound:
		// It is the method that is unknown; that says nothing of any item.
		e.Code = upstream.Unavailable
		e.Remedy = unknownMethod(k)
	case e.Status == http.StatusUnprocessableEntity && e.Symbol == "notfound":
		e.Code = upstream.NotFound
	}
	return e
}

// whyUnauthorized says what a 401 may mean: the Manager itself does not.
func whyUnauthorized(k call, now time.Time) string {
	if k.header.Get("Authorization") != "" {
		return "the Manager does not accept the one-time user name and password; check them, and whether they were used before or the account is disabled"
	}
	const newAccount = "ask the Manager's administrator for a new private account and enroll again"
	if k.shown != nil && k.shown.Leaf != nil {
		switch leaf := k.shown.Leaf; {
		case now.After(leaf.NotAfter):
			return "the client certificate expired at " + leaf.NotAfter.UTC().Format(time.RFC3339) + "; " + newAccount
		case now.Before(leaf.NotBefore):
			return "the client certificate is valid only from " + leaf.NotBefore.UTC().Format(time.RFC3339) + "; check this host's clock"
		}
	}
	return "the Manager does not accept the client certificate although its dates are good: the account is disabled (have it enabled) or the certificate was revoked (" + newAccount + ")"
}

// compareClocks warns when the Manager's clock and ours drift apart, and when
// they have come together again.
func (c *Client) compareClocks(ms int64) {
	if ms == 0 {
		return
	}
	skew := time.Until(time.UnixMilli(ms))
	c.skew.Store(int64(skew))
	off := skew.Abs() > maxSkew
	if c.warned.Swap(off) == off {
		return
	}
	if off {
		c.cfg.Log.Warn("clock differs from the Manager's", "upstream", c.cfg.HTTP.Name(), "manager_ahead", skew.Round(time.Second).String())
	} else {
		c.cfg.Log.Info("clock agrees with the Manager's again", "upstream", c.cfg.HTTP.Name())
	}
}

// Prove makes a call with exactly this certificate and returns nil if the
// Manager accepts it. A refusal of the call itself is proof too: the Manager
// knew who asked.
func (c *Client) Prove(ctx context.Context, cert tls.Certificate) error {
	h := c.cfg.HTTP.With(&cert)
	defer h.Reset()
	err := c.do(ctx, h, call{op: "prove client certificate", method: "listStoragePools", idempotent: true, shown: &cert}, nil)
	if e, ok := errors.AsType[*upstream.Error](err); ok && e.Code != upstream.Unavailable {
		if e.Status == http.StatusForbidden || e.Status == http.StatusUnprocessableEntity {
			return nil
		}
	}
	return err
}

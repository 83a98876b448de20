package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	defaultTimeout = 15 * time.Second
	defaultBody    = 4 << 20
	// attempts is how often an idempotent call is made before its failure goes
	// to the caller, whose own back-off is for longer troubles.
	attempts = 3
	// patience is the longest Retry-After that Do waits for itself. Beyond it
	// the caller is told, and has better things to do meanwhile.
	patience = 3 * time.Second
)

// HTTPConfig says how to talk to one upstream.
type HTTPConfig struct {
	Name string // as configured, for errors and logs: "pam"
	// URL is scheme and host of the upstream, perhaps with a path that goes
	// before every request's. The scheme has to be https.
	URL string
	// CAs are the only ones believed. If nil, the host's are.
	CAs *x509.CertPool
	// Certificate gives the client certificate of each new connection. If it
	// is nil, none is shown.
	Certificate func(context.Context) (*tls.Certificate, error)
	// Timeout is how long one try may take. If 0, it is 15 seconds.
	Timeout time.Duration
	// MaxBody is the longest answer accepted. If 0, it is 4 MiB.
	MaxBody int64
	Log     *slog.Logger // if nil, nothing is logged
	// Observe, if not nil, is told of each try: its HTTP status, or the Code
	// of its failure.
	Observe func(code string)
	// Refused, if not nil, is told when the upstream did not take the client
	// certificate of a call that had nothing else to show; see CertificateRefused.
	Refused func()
	// Dial, if not nil, makes the connections instead of a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Through, if not nil, makes the calls in place of connections of our own,
	// as the proxy of a running agent does: CAs, Certificate and Dial are its
	// affair then, and With changes nothing. An *Error in the chain of one of
	// its errors is taken as it is.
	Through http.RoundTripper
}

// HTTP is a client of one upstream. It follows no redirects, uses no proxy, and
// keeps the client certificate and the CAs of one upstream apart from the
// others'.
type HTTP struct {
	cfg       HTTPConfig
	base      *url.URL
	own       *http.Transport   // nil if the calls go Through another
	transport http.RoundTripper // own, or the other
}

// NewHTTP makes the client; it does not connect.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		// The URL is not repeated: with a password in it, it is a secret.
		return nil, fmt.Errorf("upstream %q: url: want https://host[:port]", cfg.Name)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultBody
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return newHTTP(cfg, base), nil
}

// newHTTP makes the client of a configuration that is complete.
func newHTTP(cfg HTTPConfig, base *url.URL) *HTTP {
	h := &HTTP{cfg: cfg, base: base, transport: cfg.Through}
	if cfg.Through != nil {
		return h
	}
	h.own = &http.Transport{
		DialContext:            cfg.Dial,
		TLSClientConfig:        h.tlsConfig(),
		TLSHandshakeTimeout:    cfg.Timeout,
		ResponseHeaderTimeout:  cfg.Timeout,
		IdleConnTimeout:        60 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		// HTTP/1.1 only: a Reset then leaves no connection with the old
		// certificate behind, and a lost answer is the loss of one call.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	h.transport = h.own
	if cfg.Dial == nil {
		h.own.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return h
}

// With returns a client of the same upstream that shows exactly this client
// certificate, or none if cert is nil, and shares no connection with h. A refusal
// of it is the caller's affair alone. Whoever is done with it calls Reset.
func (h *HTTP) With(cert *tls.Certificate) *HTTP {
	cfg := h.cfg
	cfg.Certificate, cfg.Refused = nil, nil
	if cert != nil {
		cfg.Certificate = func(context.Context) (*tls.Certificate, error) { return cert, nil }
	}
	return newHTTP(cfg, h.base)
}

func (h *HTTP) tlsConfig() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: h.cfg.CAs}
	if h.cfg.Certificate != nil {
		c.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := h.cfg.Certificate(info.Context())
			if err != nil {
				return nil, &certificateError{err}
			}
			if cert == nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		}
	}
	return c
}

// certificateError marks a handshake that failed on our side.
type certificateError struct{ err error }

func (e *certificateError) Error() string { return "client certificate: " + e.err.Error() }
func (e *certificateError) Unwrap() error { return e.err }

// Name is the upstream's name in the configuration.
func (h *HTTP) Name() string { return h.cfg.Name }

// URL is scheme, host and base path of the upstream. It is the caller's own.
func (h *HTTP) URL() *url.URL {
	u := *h.base
	return &u
}

// Reset makes sure that every call made after it uses a new connection, and so
// asks Certificate anew.
func (h *HTTP) Reset() {
	if h.own != nil {
		h.own.CloseIdleConnections()
	}
}

// A Request is one call.
type Request struct {
	Method string // GET if empty
	// Path begins with a slash and is escaped as in a URL.
	Path        string
	Query       url.Values
	Header      http.Header
	Body        []byte
	ContentType string // of Body
	Op          string // for errors: "read credential"
	Item        string // for errors: what on
	// Idempotent allows the call to be made again after it may have been
	// carried out.
	Idempotent bool
	// Explain, if not nil, adds what the vendor says to the Error that Do makes
	// of an answer.
	Explain func(*Error, *Response)
}

// A Response is an answer that arrived whole.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do makes the call and returns any answer that may say something of the item,
// whatever its status. What says nothing is an *Error: no answer, a redirect,
// 429 (Busy), and 502, 503 and 504 (Unavailable). Idempotent calls are made up
// to three times; others never again. A call that certainly did not reach the
// upstream may always be made again.
func (h *HTTP) Do(ctx context.Context, r Request) (*Response, error) {
	wait := backoff.NewExponentialBackOff() // jitter is half the interval either way, so never zero
	wait.InitialInterval = 300 * time.Millisecond
	sent := false
	for try := 1; ; try++ {
		resp, err := h.once(ctx, r)
		if err == nil {
			return resp, nil
		}
		// A later try that fails early does not undo what an earlier one did.
		sent = sent || err.Sent
		err.Sent = sent
		again := r.Idempotent || !err.Sent
		if try == attempts || !again || !passing(err) || err.RetryAfter > patience || ctx.Err() != nil {
			return nil, err
		}
		pause := max(wait.NextBackOff(), err.RetryAfter)
		h.cfg.Log.Debug("upstream call tried again", "upstream", h.cfg.Name, "op", r.Op, "item", r.Item, "err", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// passing reports whether a failure may be over in a moment.
func passing(e *Error) bool {
	switch e.Status {
	case 0: // what is wrong in itself or needs an operator does not pass
		return e.Code == Unavailable && e.Remedy == ""
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// once makes the call a single time.
func (h *HTTP) once(ctx context.Context, r Request) (*Response, *Error) {
	req, err := h.request(ctx, r)
	if err != nil {
		return nil, &Error{Upstream: h.cfg.Name, Op: r.Op, Item: r.Item, Code: Invalid, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	resp, err := h.roundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, h.failure(r, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, h.cfg.MaxBody+1))
	out := &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}
	switch {
	case err != nil:
		h.observe(string(Unavailable))
		// The status is not told: it belongs to an answer that did not arrive.
		return nil, &Error{Upstream: h.cfg.Name, Op: r.Op, Item: r.Item, Code: Unavailable, Sent: true,
			Err: fmt.Errorf("answer broke off: %w", plain(err))}
	case int64(len(body)) > h.cfg.MaxBody:
		h.observe(string(Unavailable))
		e := h.Error(r, out, Unavailable)
		e.Sent, e.Text = true, fmt.Sprintf("answer longer than %d bytes", h.cfg.MaxBody)
		return nil, e
	}
	h.observe(fmt.Sprint(out.Status))
	if e := h.says(r, out); e != nil {
		if r.Explain != nil {
			r.Explain(e, out)
		}
		return nil, e
	}
	return out, nil
}

// says returns the failure of an answer that tells nothing of the item, or nil.
func (h *HTTP) says(r Request, resp *Response) *Error {
	switch {
	case resp.Status >= 300 && resp.Status < 400 && resp.Status != http.StatusNotModified:
		e := h.Error(r, resp, Unavailable)
		e.Text = "redirect refused"
		e.Remedy = "check the upstream's url: it has to be the API's own address"
		return e
	case resp.Status == http.StatusTooManyRequests:
		return h.Error(r, resp, Busy)
	case resp.Status == http.StatusBadGateway, resp.Status == http.StatusServiceUnavailable, resp.Status == http.StatusGatewayTimeout:
		return h.Error(r, resp, Unavailable)
	}
	return nil
}

// Error makes the error for an answer that refuses the call. The caller adds
// what its vendor says in Symbol, Text and RequestID.
func (h *HTTP) Error(r Request, resp *Response, code Code) *Error {
	return &Error{
		Upstream: h.cfg.Name, Op: r.Op, Item: r.Item, Code: code, Status: resp.Status,
		RetryAfter: retryAfter(resp.Header, time.Now()),
		// Behind a 5xx the call may have been carried out in whole or in part.
		Sent: resp.Status >= 500,
	}
}

// request makes the http.Request.
func (h *HTTP) request(ctx context.Context, r Request) (*http.Request, error) {
	if !strings.HasPrefix(r.Path, "/") {
		return nil, errors.New("path does not begin with a slash")
	}
	path, err := url.PathUnescape(r.Path)
	if err != nil {
		return nil, errors.New("path is not well escaped")
	}
	u := *h.base
	u.RawPath = u.EscapedPath() + r.Path
	u.Path += path
	u.RawQuery = r.Query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(r.Body))
	if err != nil {
		return nil, errors.New("method is not one") // err itself would tell the URL
	}
	switch {
	case !r.Idempotent && len(r.Body) == 0 && (req.Method == http.MethodGet || req.Method == http.MethodHead):
		// net/http repeats such a call of itself when a kept connection breaks.
		// A body that it cannot rewind keeps it from doing so; as this one is
		// empty, nothing of it is sent.
		req.Body, req.GetBody, req.ContentLength = io.NopCloser(strings.NewReader("")), nil, 0
	case len(r.Body) == 0:
		req.Body, req.GetBody = http.NoBody, nil
	}
	for name, values := range r.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if r.ContentType != "" {
		req.Header.Set("Content-Type", r.ContentType)
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "signet")
	}
	return req, nil
}

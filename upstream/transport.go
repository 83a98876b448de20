package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"
)

// Transport makes single calls with the upstream's CAs and client certificate,
// for x/oauth2 and for requests that are passed through. It limits nothing. Its
// errors have an *Error in their chain that tells whether the call was sent.
func (h *HTTP) Transport() http.RoundTripper { return transport{h} }

// Client is Transport as an http.Client that follows no redirects and has the
// upstream's time limit.
func (h *HTTP) Client() *http.Client {
	return &http.Client{
		Transport:     h.Transport(),
		Timeout:       h.cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type transport struct{ h *HTTP }

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.h.roundTrip(req)
	if err != nil {
		return nil, t.h.failure(Request{Op: "call"}, err)
	}
	t.h.observe(strconv.Itoa(resp.StatusCode))
	return resp, nil
}

// sentError is a failure after which the upstream may have the request.
type sentError struct{ error }

func (e sentError) Unwrap() error { return e.error }

// roundTrip makes the call and marks an error if the request was sent.
func (h *HTTP) roundTrip(req *http.Request) (*http.Response, error) {
	var wrote atomic.Bool
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		// The headers are still in a buffer then: no byte of the request can
		// reach the upstream before this was called.
		WroteHeaders: func() { wrote.Store(true) },
	})
	resp, err := h.transport.RoundTrip(req.WithContext(ctx))
	if err != nil && wrote.Load() && !refusedUs(err) {
		err = sentError{err}
	}
	if h.cfg.Refused != nil && refusedCall(req, resp, err) {
		h.cfg.Refused()
	}
	return resp, err
}

// refusedCall reports whether the client certificate was all that a call had to
// show, and was not taken.
func refusedCall(req *http.Request, resp *http.Response, err error) bool {
	if err != nil {
		return refusedUs(err)
	}
	return resp.StatusCode == http.StatusUnauthorized && req.Header.Get("Authorization") == ""
}

// CertificateRefused reports whether err says that the upstream does not take
// the client certificate which a call had to show: it answered 401, or ended the
// handshake. That is no outage, and no answer to the call itself.
func CertificateRefused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Status == http.StatusUnauthorized || refusedUs(e))
}

// refusedUs reports whether the upstream ended the handshake. With TLS 1.3 the
// request is on its way by then, but it is never handled.
func refusedUs(err error) bool {
	remote, ok := errors.AsType[*net.OpError](err)
	if !ok || remote.Op != "remote error" {
		return false
	}
	// The alert is a number of a type that crypto/tls keeps to itself.
	alert := reflect.ValueOf(remote.Err)
	if alert.Kind() != reflect.Uint8 {
		return false
	}
	switch alert.Uint() {
	// handshake_failure, bad to unknown_ca, access_denied, decrypt_error,
	// certificate_required: RFC 8446, section 6
	case 40, 42, 43, 44, 45, 46, 48, 49, 51, 116:
		return true
	}
	return false
}

// failure makes the error for a call that got no answer.
func (h *HTTP) failure(r Request, err error) *Error {
	h.observe(string(Unavailable))
	if e, ok := errors.AsType[*Error](err); ok && h.own == nil {
		said := *e
		said.Upstream, said.Op, said.Item = h.cfg.Name, r.Op, r.Item
		return &said
	}
	_, sent := errors.AsType[sentError](err)
	return &Error{
		Upstream: h.cfg.Name, Op: r.Op, Item: r.Item, Code: Unavailable,
		Sent: sent, Remedy: remedy(err), Err: plain(err),
	}
}

func (h *HTTP) observe(code string) {
	if h.cfg.Observe != nil {
		h.cfg.Observe(code)
	}
}

// plain takes the wrappings off an error that would print a URL, or nothing new.
func plain(err error) error {
	for {
		if e, ok := err.(sentError); ok {
			err = e.error
			continue
		}
		if e, ok := err.(*url.Error); ok {
			err = e.Err
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the connection was closed without an answer: %w", io.EOF)
		}
		return err
	}
}

// A hinter is an error that knows what an operator can do about it.
type hinter interface {
	error
	Hint() string
}

// remedy says what an operator can do about a call that got no answer, or ""
// if it may pass by itself.
func remedy(err error) string {
	if _, ok := errors.AsType[*certificateError](err); ok {
		if h, ok := errors.AsType[hinter](err); ok && h.Hint() != "" {
			return h.Hint()
		}
		return "the agent has no client certificate to show yet; `signet status` says why"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the upstream shows a certificate of a CA that is not in its ca_file; check both"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if e.Reason == x509.Expired {
			return "the upstream's certificate is not valid at this host's time; check the clock, then the upstream"
		}
		return "the upstream's certificate cannot be used; it needs another one"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the upstream's certificate is for another name; check its url"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "what answers does not speak TLS; check the upstream's url and port"
	}
	if refusedUs(err) {
		return "the upstream refuses the agent's client certificate; check that it trusts the issuer and has not revoked it"
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return "check the upstream's url and this host's DNS"
	}
	return ""
}

// retryAfter reads a Retry-After header: seconds or a date. One that is absent,
// past or not understood is 0.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), 24*60*60)) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	// Both dates are the upstream's, so its clock need not agree with ours.
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), 24*time.Hour)
}

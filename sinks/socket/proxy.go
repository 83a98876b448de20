package socket

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// perHop are the headers that end here, in either direction: those between two
// neighbours, and those by which the caller would speak for itself.
var perHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Authorization": true, "Cookie": true,
	"Set-Cookie": true, "Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true,
	"X-Real-Ip": true, "X-Http-Method": true, "X-Http-Method-Override": true, "X-Method-Override": true, "X-Original-Url": true,
	"X-Rewrite-Url": true, "Expect": true, "Host": true,
}

// proxy forwards a request with the agent's credentials. What policy is asked
// about is exactly what is sent: the path is decoded, checked, and encoded anew.
func (q *request) proxy() error {
	path, err := q.proxied()
	if err != nil {
		return err
	}
	if err := q.authorize("proxy.call", access.Action{Kind: access.Proxy, Name: q.name, Op: q.r.Method, Path: path}); err != nil {
		return err
	}
	if q.r.Header.Get("Upgrade") != "" {
		return invalid("upgrades are not forwarded")
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	defer context.AfterFunc(q.stopping(), cancel)()
	q.within(adminTimeout)
	if err := q.receive(adminTimeout); err != nil {
		return err
	}
	resp, err := q.s.cfg.Backend.Proxy(ctx, q.name, q.forwarded(ctx, path))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 {
		return &Problem{Code: CodeUnavailable, Detail: "the upstream switched protocols"}
	}
	if err := q.record(resp.StatusCode); err != nil {
		return err
	}
	return q.relay(resp)
}

// proxied is the path at the upstream. What is wrong with a request that can never
// be forwarded is told only to who may have others forwarded there.
func (q *request) proxied() (path string, err error) {
	q.entry.Event, q.entry.Kind, q.entry.Name, q.entry.Path = "proxy.call", access.Proxy, q.name, q.rest
	m := q.r.Method
	switch path, err = access.CleanPath(q.rest); {
	case err != nil:
		err = invalid(err.Error())
	case m == http.MethodConnect || m == http.MethodTrace || strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		err = &Problem{Code: codeMethod, Detail: "this method is not forwarded"}
	default:
		q.entry.Path = path
		return path, nil
	}
	if !q.s.cfg.Policy.Reaches(q.peer, access.Proxy, q.name) {
		return "", q.denied(access.Action{Kind: access.Proxy, Name: q.name})
	}
	return "", err
}

// forwarded is the request as the upstream gets it, but for host and
// credentials.
func (q *request) forwarded(ctx context.Context, path string) *http.Request {
	out := (&http.Request{
		Method:        q.r.Method,
		URL:           &url.URL{Path: path, RawQuery: q.r.URL.RawQuery},
		Header:        http.Header{},
		ContentLength: q.r.ContentLength,
	}).WithContext(ctx)
	if q.r.ContentLength != 0 {
		out.Body = http.MaxBytesReader(q.w, q.r.Body, maxProxyBody)
	}
	copyHeader(out.Header, q.r.Header)
	return out
}

// copyHeader leaves out the headers that end here, and those that Connection
// names.
func copyHeader(to, from http.Header) {
	named := map[string]bool{}
	for _, v := range from["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			named[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	for name, values := range from {
		if !perHop[name] && !named[name] {
			to[name] = values
		}
	}
}

// relay streams the answer, as fast as the caller reads it.
func (q *request) relay(resp *http.Response) error {
	h := q.w.Header()
	copyHeader(h, resp.Header)
	h["Cache-Control"] = noStore
	q.status = resp.StatusCode
	q.w.WriteHeader(resp.StatusCode)
	rc := http.NewResponseController(q.w)
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if err := rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return err
			}
			if _, err := q.w.Write(buf[:n]); err != nil {
				return nil // the caller is gone
			}
			if resp.ContentLength < 0 {
				if err := rc.Flush(); err != nil {
					return nil
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err // fail breaks the answer off, so that it is not taken for whole
		}
	}
}

package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/upstream"
)

// A token that the upstream refuses is replaced at once for requests that change
// nothing; others are not made twice, and the next one has another token.
func TestProxyReplacesARefusedToken(t *testing.T) {
	var seen []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.Header.Get("Authorization"))
		if body, _ := io.ReadAll(r.Body); r.Header.Get("Authorization") == "Bearer t1" {
			w.WriteHeader(http.StatusUnauthorized)
		} else {
			_, _ = w.Write(append([]byte("got "), body...))
		}
	}))
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	for _, tt := range []struct {
		method, body string
		status       int
		seen         string
	}{
		{"GET", "", 200, "GET Bearer t1,GET Bearer t2"},
		{"POST", "x", 401, "POST Bearer t1"},
		{"DELETE", "", 401, "DELETE Bearer t1"},
	} {
		h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: srv.URL, CAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		s := &service{http: h, tokens: upstream.NewTokenSource(upstream.TokenSourceConfig{Fetch: func(context.Context) (*oauth2.Token, error) {
			n++
			return &oauth2.Token{AccessToken: "t" + strconv.Itoa(n), ExpiresIn: 3600}, nil
		}})}
		seen = nil
		ask := func() int {
			r := &http.Request{Method: tt.method, URL: &url.URL{Path: "/a"}, Header: http.Header{"Authorization": {"Bearer caller"}}}
			if tt.body != "" {
				r.Body = io.NopCloser(strings.NewReader(tt.body))
			}
			resp, err := s.forward(r.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			return resp.StatusCode
		}
		if got := ask(); got != tt.status || strings.Join(seen, ",") != tt.seen {
			t.Errorf("%s: %d, the upstream saw %q", tt.method, got, seen)
		}
		if got := ask(); got != 200 {
			t.Errorf("%s: the next one: %d", tt.method, got)
		}
		h.Reset()
	}
}

// A body that is too long is the caller's fault, not the upstream's.
func TestProxyBoundsTheBody(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: srv.URL, CAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Reset()
	r := &http.Request{Method: "POST", URL: &url.URL{Path: "/a"}, Header: http.Header{}, ContentLength: -1,
		Body: http.MaxBytesReader(nil, io.NopCloser(strings.NewReader(strings.Repeat("x", 100))), 10)}
	_, err = (&service{http: h}).forward(r.WithContext(t.Context()))
	if e, ok := errors.AsType[*refusal](err); !ok || e.Code() != "invalid" {
		t.Errorf("%v", err)
	}
}

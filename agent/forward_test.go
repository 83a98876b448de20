package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/upstream"
)

// A token that the upstream refuses is thrown away and the request made once
// more, body and all: a 401 says that it was not carried out. Only what cannot be
// sent twice is left to the caller, whose next request has another token.
func TestProxyReplacesARefusedToken(t *testing.T) {
	tests := []struct {
		name, method, body string
		length             int64
		status             int
		seen               []string
	}{
		{"no body", "GET", "", 0, 200, []string{"GET t1 ", "GET t2 "}},
		{"no body, a change", "DELETE", "", 0, 200, []string{"DELETE t1 ", "DELETE t2 "}},
		{"a body", "POST", "x=1", 3, 200, []string{"POST t1 x=1", "POST t2 x=1"}},
		{"a body of unknown length", "POST", "x=1", -1, 401, []string{"POST t1 x=1"}},
		{"a body too long to be held", "PUT", strings.Repeat("x", maxReplay+1), maxReplay + 1, 401, []string{"PUT t1 " + strings.Repeat("x", maxReplay+1)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := newTokenUpstream(t, "t1")
			ask := func() int {
				r := &http.Request{Method: tt.method, URL: &url.URL{Path: "/a"}, Header: http.Header{"Authorization": {"Bearer caller"}}, ContentLength: tt.length}
				if tt.body != "" {
					r.Body = io.NopCloser(strings.NewReader(tt.body))
				}
				resp, err := u.service.forward(r.WithContext(t.Context()))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				return resp.StatusCode
			}
			if got := ask(); got != tt.status || !slices.Equal(u.seen, tt.seen) {
				t.Errorf("%d, the upstream saw %.100q; want %d, %.100q", got, u.seen, tt.status, tt.seen)
			}
			if got := ask(); got != 200 {
				t.Errorf("the next one: %d", got)
			}
		})
	}
}

// An upstream that refuses every token is asked twice, not for ever.
func TestProxyTriesTwice(t *testing.T) {
	u := newTokenUpstream(t, "t1", "t2", "t3")
	resp, err := u.service.forward((&http.Request{Method: "POST", URL: &url.URL{Path: "/a"}, Header: http.Header{}, ContentLength: 1, Body: io.NopCloser(strings.NewReader("x"))}).WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if want := []string{"POST t1 x", "POST t2 x"}; resp.StatusCode != 401 || !slices.Equal(u.seen, want) {
		t.Errorf("%d, the upstream saw %q, want %q", resp.StatusCode, u.seen, want)
	}
}

// A tokenUpstream is one that refuses some access tokens. They are t1, t2, ...
type tokenUpstream struct {
	service *service
	seen    []string // method, token and body of each request
}

func newTokenUpstream(t *testing.T, refused ...string) *tokenUpstream {
	u := &tokenUpstream{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a test sees that it is short
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		u.seen = append(u.seen, r.Method+" "+token+" "+string(body))
		if slices.Contains(refused, token) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: srv.URL, CAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Reset)
	n := 0
	u.service = &service{http: h, tokens: upstream.NewTokenSource(upstream.TokenSourceConfig{Fetch: func(context.Context) (*oauth2.Token, error) {
		n++
		return &oauth2.Token{AccessToken: "t" + strconv.Itoa(n), ExpiresIn: 3600}, nil
	}})}
	return u
}

// A body that is too long is the caller's fault, not the upstream's.
func TestProxyBoundsTheBody(t *testing.T) {
	for _, length := range []int64{-1, 100} {
		r := &http.Request{Method: "POST", URL: &url.URL{Path: "/a"}, Header: http.Header{}, ContentLength: length,
			Body: http.MaxBytesReader(nil, io.NopCloser(strings.NewReader(strings.Repeat("x", 100))), 10)}
		_, err := newTokenUpstream(t).service.forward(r.WithContext(t.Context()))
		if e, ok := errors.AsType[*refusal](err); !ok || e.Code() != "invalid" {
			t.Errorf("length %d: %v", length, err)
		}
	}
}

package socket

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

func reply(status int, body io.Reader, header http.Header) *http.Response {
	rc, ok := body.(io.ReadCloser)
	if !ok {
		rc = io.NopCloser(body)
	}
	return &http.Response{StatusCode: status, Header: header, Body: rc, ContentLength: -1}
}

func TestProxyForwards(t *testing.T) {
	var sent *http.Request
	var body string
	b := &fake{proxy: func(_ string, r *http.Request) (*http.Response, error) {
		sent = r
		if r.Body != nil {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			body = string(text)
		}
		return reply(201, strings.NewReader("made"), http.Header{"X-Request": {"7"}, "Set-Cookie": {"sid=1"}, "Connection": {"X-Hop"}, "X-Hop": {"1"}}), nil
	}}
	r := start(t, b, tester(false))
	a := r.do("POST", "/v1/upstreams/pam/proxy/api/v1/a%20b/?q=1&r=%2F", "hello", "Authorization: Bearer mine", "Cookie: a=b", "X-Http-Method-Override: DELETE",
		"X-Forwarded-For: 1.2.3.4", "Content-Type: application/json", "X-Mine: 1")
	if a.status != 201 || a.body != "made" || a.header.Get("X-Request") != "7" {
		t.Errorf("got %+v", a)
	}
	for _, name := range []string{"Set-Cookie", "X-Hop"} {
		if a.header.Get(name) != "" {
			t.Errorf("%s came through", name)
		}
	}
	if sent.Method != "POST" || sent.URL.String() != "/api/v1/a%20b/?q=1&r=%2F" || sent.Host != "" || body != "hello" || sent.Header.Get("X-Mine") != "1" {
		t.Errorf("sent %s %s %q %v", sent.Method, sent.URL, body, sent.Header)
	}
	for _, name := range []string{"Authorization", "Cookie", "X-Http-Method-Override", "X-Forwarded-For"} {
		if sent.Header.Get(name) != "" {
			t.Errorf("%s was sent", name)
		}
	}
	l := r.auditLines(1)[0]
	if l["event"] != "proxy.call" || l["resource"] != "proxy/pam" || l["path"] != "/api/v1/a b/" || l["method"] != "POST" || l["status"] != 201. {
		t.Errorf("audit: %v", l)
	}
}

func TestProxyRefuses(t *testing.T) {
	called := false
	b := &fake{proxy: func(string, *http.Request) (*http.Response, error) { called = true; return nil, errors.New("called") }}
	r := start(t, b, tester(false))
	for _, tt := range []struct{ method, path, code string }{
		{"GET", "/v1/upstreams/pam/proxy/iso/../api/x", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy/iso/%2e%2e/x", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy/iso/a%2fb", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy/iso//x", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy//iso/x", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy/iso/x/y", CodeDenied},
		{"PUT", "/v1/upstreams/pam/proxy/iso/x", CodeDenied},
		{"TRACE", "/v1/upstreams/pam/proxy/iso/x", CodeInvalid},
		{"GET", "/v1/upstreams/p%61m/proxy/iso/a%2fb", CodeInvalid},
	} {
		if got := r.do(tt.method, tt.path, "").code(t); got != tt.code {
			t.Errorf("%s %s: %s, want %s", tt.method, tt.path, got, tt.code)
		}
	}
	if called {
		t.Error("the upstream was called")
	}
	if a := r.get("/v1/upstreams/pam/proxy/iso/x", "Connection: Upgrade", "Upgrade: h2c"); a.code(t) != CodeInvalid {
		t.Errorf("upgrade: %+v", a)
	}
}

// An answer that broke off must not look whole.
func TestProxyBreaksOff(t *testing.T) {
	b := &fake{proxy: func(string, *http.Request) (*http.Response, error) {
		return reply(200, io.MultiReader(strings.NewReader("half"), broken{}), http.Header{}), nil
	}}
	r := start(t, b, tester(false))
	if a, err := r.try(t.Context(), "GET", "/v1/upstreams/pam/proxy/iso/x", ""); err == nil {
		t.Errorf("taken for whole: %+v", a)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// A caller that stops reading an answer is given up when the time for that is
// over, and what the upstream sends with it. It holds up nobody else.
func TestProxyGivesUpAStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy, err := access.Compile([]access.Rule{tester(false)})
		if err != nil {
			t.Fatal(err)
		}
		given := make(chan struct{})
		s := New(Config{Policy: policy, Backend: &fake{proxy: func(_ string, r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/iso/short" {
				return reply(200, strings.NewReader("all of it"), http.Header{}), nil
			}
			return reply(200, endless{given}, http.Header{}), nil
		}}})
		ask := func(path string) (net.Conn, *http.Response) {
			c := serveOnPipe(t, s)
			fmt.Fprintf(c, "GET /v1/upstreams/pam/proxy%s HTTP/1.1\r\nHost: signet\r\n\r\n", path)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			return c, resp
		}
		stalled, resp := ask("/iso/endless")
		defer stalled.Close()
		for range 4 { // slow is not stalled
			if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
				t.Fatalf("given up while it reads: %v", err)
			}
			time.Sleep(writeTimeout - time.Second)
		}
		began := time.Now()
		other, resp := ask("/iso/short")
		defer other.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != "all of it" || err != nil || time.Since(began) != 0 {
			t.Errorf("another caller waited %v for %q, %v", time.Since(began), body, err)
		}
		<-given
		if d := time.Since(began); d != time.Second {
			t.Errorf("given up %v after its last read", d+writeTimeout-time.Second)
		}
		if _, err := io.Copy(io.Discard, stalled); err != nil {
			t.Errorf("the connection is not closed: %v", err)
		}
	})
}

// An endless answer says when it is closed.
type endless struct{ closed chan struct{} }

func (e endless) Read(b []byte) (int, error) { return len(b), nil }
func (e endless) Close() error               { close(e.closed); return nil }

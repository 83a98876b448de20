package upstream_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

var ca = sync.OnceValue(func() *upstreamtest.CA {
	ca, err := upstreamtest.NewCA(upstreamtest.CAConfig{})
	if err != nil {
		panic(err)
	}
	return ca
})

// bed is a server in a bubble of synctest, and a client of it.
type bed struct {
	upstreamtest.Bench
	http  *upstream.HTTP
	codes []string // what was observed
}

// newBed serves h. The CA must have been made outside of the bubble or inside:
// its dates are wide enough for both.
func newBed(t *testing.T, cfg upstream.HTTPConfig, h http.HandlerFunc) *bed {
	t.Helper()
	own, err := upstreamtest.NewCA(upstreamtest.CAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{}
	pipe := b.StartPipe(t, own, h)
	cfg.Name, cfg.URL, cfg.CAs, cfg.Dial = "pam", "https://localhost", own.Pool(), pipe.Dial
	cfg.Observe = func(code string) { b.codes = append(b.codes, code) }
	if b.http, err = upstream.NewHTTP(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.http.Reset)
	return b
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") }

var read = upstream.Request{Path: "/x", Op: "read credential", Item: "db", Idempotent: true}

// failed makes the call, which has to fail.
func (b *bed) failed(t *testing.T, r upstream.Request, want upstream.Code) *upstream.Error {
	t.Helper()
	resp, err := b.http.Do(t.Context(), r)
	e, ok := err.(*upstream.Error)
	if !ok || e.Code != want || resp != nil {
		t.Fatalf("%v, %v; want an error of code %s", resp, err, want)
	}
	return e
}

func TestIdempotentCallsAreRetried(t *testing.T) {
	for _, kind := range []upstreamtest.Fault{
		{Kind: upstreamtest.FaultDrop},
		{Kind: upstreamtest.FaultLost},
		{Kind: upstreamtest.FaultStatus, Status: 502},
		{Kind: upstreamtest.FaultStatus, Status: 503, RetryAfter: "2"},
		{Kind: upstreamtest.FaultStatus, Status: 504},
		{Kind: upstreamtest.FaultSlow, Delay: upstreamtest.Duration(time.Hour)},
	} {
		t.Run(fmt.Sprint(kind.Kind, kind.Status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, upstream.HTTPConfig{}, ok)
				kind.Count = 2
				b.Faults.Add(kind)
				start := time.Now()
				resp, err := b.http.Do(t.Context(), read)
				if err != nil || string(resp.Body) != "fine" {
					t.Fatalf("%v, %v", resp, err)
				}
				if kind.RetryAfter != "" && time.Since(start) < 4*time.Second {
					t.Errorf("Retry-After not obeyed: two pauses took %v", time.Since(start))
				}
				if time.Since(start) < 200*time.Millisecond {
					t.Errorf("two pauses took %v", time.Since(start))
				}

				kind.Count = 0
				b.Faults.Add(kind)
				b.http.Reset() // net/http makes one try more where a kept connection breaks
				b.Log.Clear()
				e := b.failed(t, read, upstream.Unavailable)
				synctest.Wait()
				if n := len(b.Log.Entries()); n != 3 || !e.Sent {
					t.Errorf("%d tries, sent %v; want 3, and sent", n, e.Sent)
				}
			})
		})
	}
}

func TestOtherCallsAreNeverRepeatedOnceSent(t *testing.T) {
	for _, kind := range []upstreamtest.Fault{
		{Kind: upstreamtest.FaultDrop},
		{Kind: upstreamtest.FaultLost},
		{Kind: upstreamtest.FaultStatus, Status: 503},
		{Kind: upstreamtest.FaultSlow, Delay: upstreamtest.Duration(time.Hour)},
	} {
		t.Run(string(kind.Kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, upstream.HTTPConfig{}, ok)
				for _, once := range []upstream.Request{
					{Method: "POST", Path: "/x", Op: "rotate", Body: []byte("a=b")},
					{Method: "GET", Path: "/x", Op: "take"},
				} {
					if _, err := b.http.Do(t.Context(), once); err != nil { // leaves a connection to be kept
						t.Fatal(err)
					}
					b.Log.Clear()
					id := b.Faults.Add(kind)
					if e := b.failed(t, once, upstream.Unavailable); !e.Sent {
						t.Errorf("%v: not marked as sent", e)
					}
					synctest.Wait()
					if n := len(b.Log.Entries()); n != 1 {
						t.Errorf("%s made %d times", once.Method, n)
					}
					b.Faults.Remove(id)
				}
			})
		})
	}
}

func TestCallThatDidNotGetOutIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: "https://localhost",
			Dial: func(context.Context, string, string) (net.Conn, error) {
				dials++
				return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Do(t.Context(), upstream.Request{Method: "POST", Path: "/x", Op: "rotate"})
		if e := err.(*upstream.Error); e.Sent || dials != 3 {
			t.Errorf("%v: sent %v after %d dials; want not sent, and 3", e, e.Sent, dials)
		}
	})
}

// roundTrip is a transport that is a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCallsThroughAnotherTransport(t *testing.T) {
	calls := 0
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "vaults", URL: "https://upstream", Through: roundTrip(func(r *http.Request) (*http.Response, error) {
		if calls++; r.URL.Path == "/no" {
			return nil, &upstream.Error{Code: upstream.Denied, Text: "no rule", Remedy: "add one"}
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("yes"))}, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*upstream.HTTP{h, h.With(nil)} {
		x.Reset()
		resp, err := x.Do(t.Context(), upstream.Request{Path: "/yes"})
		if err != nil || string(resp.Body) != "yes" {
			t.Errorf("%v, %v", resp, err)
		}
	}
	calls = 0
	_, err = h.Do(t.Context(), upstream.Request{Path: "/no", Op: "list vaults", Idempotent: true})
	want := `upstream "vaults": list vaults: no rule`
	if e, ok := err.(*upstream.Error); !ok || e.Code != upstream.Denied || e.Error() != want || e.Hint() != "add one" || e.Sent || calls != 1 {
		t.Errorf("%v after %d calls, want %s, once and as it is", err, calls, want)
	}
}

func TestLaterTryDoesNotUndoThatAnEarlierOneWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, ok)
		b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Count: 1})
		b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultWrongCA, Skip: 1})
		if e := b.failed(t, read, upstream.Unavailable); !e.Sent || !strings.Contains(e.Remedy, "ca_file") {
			t.Errorf("%v: sent %v, remedy %q; want sent, by the try before", e, e.Sent, e.Remedy)
		}
	})
}

// A server that wants another client certificate ends the handshake, which with
// TLS 1.3 the client learns only after it has written its request.
func TestRefusedHandshakeIsNotSent(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: srv.URL, CAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Do(t.Context(), upstream.Request{Method: "POST", Path: "/x", Op: "rotate"})
	if e := err.(*upstream.Error); e.Sent || !strings.Contains(e.Remedy, "client certificate") {
		t.Errorf("%v: sent %v, remedy %q", e, e.Sent, e.Remedy)
	}
}

func TestRetryAfterDateIsOfTheUpstreamsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			there := time.Now().Add(-time.Hour) // its clock is slow
			w.Header().Set("Date", there.UTC().Format(http.TimeFormat))
			w.Header().Set("Retry-After", there.Add(90*time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusTooManyRequests)
		})
		if e := b.failed(t, read, upstream.Busy); e.RetryAfter != 90*time.Second {
			t.Errorf("wait %v, want 90 s", e.RetryAfter)
		}
	})
}

func TestTooManyIsBusyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, ok)
		start := time.Now()
		for value, want := range map[string]time.Duration{
			"120": 2 * time.Minute, "": 0, "-5": 0, "soon": 0, "99999999": 24 * time.Hour,
			start.Add(90 * time.Second).UTC().Format(http.TimeFormat): 90 * time.Second,
		} {
			b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 429, RetryAfter: value, Count: 1})
			e := b.failed(t, read, upstream.Busy)
			if e.RetryAfter != want || e.Sent || e.Status != 429 {
				t.Errorf("Retry-After %q: %+v, want %v", value, e, want)
			}
		}
		b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 503, RetryAfter: "60"})
		if e := b.failed(t, read, upstream.Unavailable); e.RetryAfter != time.Minute {
			t.Errorf("%+v", e)
		}
		if time.Since(start) != 0 {
			t.Errorf("waited %v where the caller has better things to do", time.Since(start))
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{MaxBody: 1000}, func(w http.ResponseWriter, r *http.Request) {
			n := 1000
			if r.URL.Path == "/long" {
				n++
			}
			_, _ = io.WriteString(w, strings.Repeat("s", n))
		})
		if resp, err := b.http.Do(t.Context(), upstream.Request{Path: "/x"}); err != nil || len(resp.Body) != 1000 {
			t.Errorf("as long as allowed: %v", err)
		}
		e := b.failed(t, upstream.Request{Path: "/long", Op: "read"}, upstream.Unavailable)
		if strings.Contains(e.Error(), "sss") || !strings.Contains(e.Error(), "longer than 1000 bytes") {
			t.Error(e)
		}
	})
}

func TestAnswerThatBreaksOffIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half of a secret")
		})
		e := b.failed(t, upstream.Request{Method: "POST", Path: "/x", Op: "rotate"}, upstream.Unavailable)
		if !e.Sent || e.Status != 0 || strings.Contains(e.Error(), "secret") {
			t.Errorf("%+v", e)
		}
	})
}

func TestRedirectsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere/?token=s3cret", http.StatusFound)
		})
		e := b.failed(t, read, upstream.Unavailable)
		if e.Remedy == "" || strings.Contains(e.Error(), "elsewhere") {
			t.Errorf("%v, remedy %q", e, e.Remedy)
		}
		resp, err := b.http.Client().Get("https://localhost/x")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if n := b.Log.Count("", ""); n != 2 || resp.StatusCode != http.StatusFound {
			t.Errorf("HTTP %d after %d calls", resp.StatusCode, n)
		}
	})
}

func TestErrorsTellNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{Timeout: time.Second}, ok)
		r := upstream.Request{
			Method: "POST", Path: "/s3cret", Query: url.Values{"token": {"s3cret"}}, Body: []byte("password=s3cret"),
			Header: http.Header{"Authorization": {"Bearer s3cret"}}, Op: "read", Item: "db",
		}
		for _, fault := range []upstreamtest.Fault{
			{Kind: upstreamtest.FaultDrop}, {Kind: upstreamtest.FaultWrongCA}, {Kind: upstreamtest.FaultStatus, Status: 429, Body: "s3cret"},
			{Kind: upstreamtest.FaultSlow, Delay: upstreamtest.Duration(time.Hour)}, {Kind: upstreamtest.FaultStatus, Status: 502, Body: "s3cret"},
		} {
			id := b.Faults.Add(fault)
			_, err := b.http.Do(t.Context(), r)
			if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "s3cret") {
				t.Errorf("%s: %v", fault.Kind, err)
			}
			b.Faults.Remove(id)
			b.http.Reset()
		}
		for _, e := range b.Log.Entries() {
			if strings.Contains(fmt.Sprintf("%+v", e), "token=") {
				t.Errorf("the log tells the query: %+v", e)
			}
		}
	})
}

func TestCallerThatGivesUpIsAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, ok)
		b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultSlow, Delay: upstreamtest.Duration(time.Hour)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := b.http.Do(ctx, read)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestURLIsBuiltAsWritten(t *testing.T) {
	var got string
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, func(_ http.ResponseWriter, r *http.Request) {
			got = r.RequestURI
			if len(r.TransferEncoding) > 0 || r.ContentLength != 0 {
				t.Errorf("a body is sent: %v", r.TransferEncoding)
			}
		})
		for _, r := range []upstream.Request{
			{Path: "/iso/pam/credential/a%2Fb%20c"},
			{Path: "/x", Query: url.Values{"q": {"a b"}}},
		} {
			if _, err := b.http.Do(t.Context(), r); err != nil {
				t.Error(err)
			}
			want := r.Path
			if r.Query != nil {
				want += "?" + r.Query.Encode()
			}
			if got != want {
				t.Errorf("asked for %q, want %q", got, want)
			}
		}
		b.failed(t, upstream.Request{Path: "x"}, upstream.Invalid)
	})
}

func TestUnusableURLs(t *testing.T) {
	for _, u := range []string{"http://pam.example", "pam.example", "https://", "https://a:s3cret@b", "https://a/?x=1", "%"} {
		if _, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: u}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

func TestResetShowsTheNewCertificate(t *testing.T) {
	var shown []string
	var b upstreamtest.Bench
	u := b.Start(t, ca(), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		shown = append(shown, "none")
		if c := upstreamtest.ClientCertificate(r); c != nil {
			shown[len(shown)-1] = c.Subject.CommonName
		}
	}))
	client := func(name string) *tls.Certificate {
		c, err := ca().Client(name)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	now := client("old")
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: u, CAs: ca().Pool(),
		Certificate: func(context.Context) (*tls.Certificate, error) { return now, nil }})
	if err != nil {
		t.Fatal(err)
	}
	call := func(h *upstream.HTTP) {
		t.Helper()
		if _, err := h.Do(t.Context(), read); err != nil {
			t.Error(err)
		}
	}
	call(h)
	now = client("new")
	h.Reset()
	call(h)
	for _, x := range []*upstream.HTTP{h.With(client("other")), h.With(nil)} {
		call(x)
		x.Reset()
	}
	now = nil
	h.Reset()
	call(h)
	h.Reset()
	if want := "[old new other none none]"; fmt.Sprint(shown) != want {
		t.Errorf("shown %v, want %v", shown, want)
	}
}

func TestMissingCertificateIsOurOwnTrouble(t *testing.T) {
	var b upstreamtest.Bench
	u := b.Start(t, ca(), http.HandlerFunc(ok))
	cause := errors.New("token is away")
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: u, CAs: ca().Pool(),
		Certificate: func(context.Context) (*tls.Certificate, error) { return nil, cause }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Do(t.Context(), read)
	e, isError := err.(*upstream.Error)
	if !isError || !errors.Is(err, cause) || e.Sent || e.Remedy == "" {
		t.Errorf("%v, want the cause, a remedy, and not sent", err)
	}
}

func TestObservedCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
		b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop, Count: 1})
		b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 502, Count: 1})
		resp, err := b.http.Do(t.Context(), read)
		if err != nil || resp.Status != 404 {
			t.Fatalf("%v, %v", resp, err)
		}
		if want := "[unavailable 502 404]"; fmt.Sprint(b.codes) != want {
			t.Errorf("observed %v, want %v", b.codes, want)
		}
	})
}

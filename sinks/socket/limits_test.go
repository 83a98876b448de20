package socket

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// serveOnPipe serves one connection as Serve does, but on a pipe: a bubble of
// simulated time has no sockets. A pipe has room for nothing, so whoever does not
// read is a slow reader at once.
func serveOnPipe(t *testing.T, s *Server) net.Conn {
	t.Helper()
	c, there := net.Pipe()
	ln := make(pipes, 1)
	srv := s.server(t.Context())
	k := s.conn(there, access.Peer{UID: uint32(os.Getuid())}, func() {})
	go func() {
		if !(&quick{s: s, c: k}).serve() {
			k.Close()
			return
		}
		ln <- k
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c
}

// Pipes are a listener that takes what is sent to it.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error { close(p); return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// limited is a server in a bubble, with a secret that is more than a buffer holds.
func limited(t *testing.T) *Server {
	t.Helper()
	policy, err := access.Compile([]access.Rule{tester(true)})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Backend: &fake{}, Policy: policy, Secrets: []string{"db"}})
	big := db("1")
	big.Fields = sinks.FieldsOf(map[string]secret.Value{"password": secret.New(bytes.Repeat([]byte("x"), 1<<20))})
	s.PublishSecret(big)
	return s
}

// ended is how long it takes until the server has ended a connection of which the
// caller reads nothing.
func ended(c net.Conn, began time.Time) time.Duration {
	for {
		if _, err := c.Write([]byte("x")); err != nil { // the server reads it, or is gone
			return time.Since(began)
		}
	}
}

// Whatever a caller does slowly, or not at all, ends in time.
func TestTimeLimits(t *testing.T) {
	const host = " HTTP/1.1\r\nHost: signet\r\n"
	for _, tt := range []struct {
		name string
		send string
		want time.Duration
		says string // of the answer, where there is one
	}{
		{"nothing is asked", "", quickTimeout, ""},
		{"half a request", "GET /v1/healthz HTTP/1.1\r\nHo", headerTimeout, ""},
		{"half a body", "POST /v1/secrets/db/refused" + host + "Content-Length: 100\r\n\r\n{", bodyTimeout, "or not within 10s"},
		{"half a body of what is denied", "POST /v1/secrets/other/refused" + host + "Content-Length: 100\r\n\r\n{", bodyTimeout, `"code":"denied"`},
		{"half a body of a read", "GET /v1/healthz" + host + "Transfer-Encoding: chunked\r\n\r\n", bodyTimeout, `"status":"ok"`},
		{"nothing more is asked", "GET /v1/healthz" + host + "\r\n", idleTimeout, `"status":"ok"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := serveOnPipe(t, limited(t))
				began := time.Now()
				go fmt.Fprint(c, tt.send)
				in := bufio.NewReader(c)
				if tt.says != "" {
					resp, err := http.ReadResponse(in, nil)
					if err != nil {
						t.Fatal(err)
					}
					if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), tt.says) {
						t.Errorf("%q, %v", body, err)
					}
				}
				if resp, err := io.ReadAll(in); err != nil || len(resp) > 0 && tt.says != "" {
					t.Errorf("%q, %v", resp, err)
				}
				// A body that is not read ends its connection after the answer.
				if d := time.Since(began); d < tt.want || d > tt.want+time.Second {
					t.Errorf("ended after %v, want %v", d, tt.want)
				}
			})
		})
	}
}

// A caller that does not read what it has asked for is given up, by either way that
// a read can take, and one that watches as well.
func TestSlowReadersAreGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name, path, header string
		after              time.Duration // that it reads nothing any more
		want               time.Duration
	}{
		{"plain", "/v1/secrets/db", "", 0, quickTimeout},
		{"by net/http", "/v1/secrets/db", "X-Other: y\r\n", 0, writeTimeout},
		{"a watcher", "/v1/events", "", 0, heartbeat + writeTimeout},
		{"a watcher, after hours", "/v1/events", "", 3 * time.Hour, heartbeat + writeTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := serveOnPipe(t, limited(t))
				fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: signet\r\n%s\r\n", tt.path, tt.header)
				in := bufio.NewReader(c)
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode != 200 {
					t.Fatal(resp, err)
				}
				if strings.HasPrefix(tt.name, "a watcher") {
					if _, err := io.ReadFull(resp.Body, make([]byte, len("retry: 1000\n\n"))); err != nil {
						t.Fatal(err)
					}
				}
				for began := time.Now(); time.Since(began) < tt.after; { // a heartbeat at a time
					if _, err := io.ReadFull(resp.Body, make([]byte, 3)); err != nil {
						t.Fatalf("given up while it reads, after %v: %v", time.Since(began), err)
					}
				}
				if d := ended(c, time.Now()); d < tt.want-time.Second || d > tt.want+time.Second {
					t.Errorf("given up after %v, want %v", d, tt.want)
				}
			})
		})
	}
}

// Nobody waits longer for another version than an hour, however long they want to,
// and has the answer then: the time for an answer begins when there is one.
func TestTheLongestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serveOnPipe(t, limited(t))
		began := time.Now()
		fmt.Fprint(c, "GET /v1/secrets/db?wait=10h&version=1 HTTP/1.1\r\nHost: signet\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 || time.Since(began) != maxWait {
			t.Fatalf("after %v: %v, %v", time.Since(began), resp, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
	})
}

// What cannot even be read as a request is refused in the words of the API, and
// recorded like any other refusal.
func TestWhatIsNoRequestIsAProblemToo(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	for i, tt := range []struct {
		request string
		status  int
	}{
		{"GET /v1/secrets/%zz HTTP/1.1\r\nHost: signet\r\n\r\n", 400},
		{"GET /v1/secrets/db HTTP/1.1\r\n\r\n", 400},
		{"GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\nHost: signet\r\n\r\n", 400},
		{"GET /v1/healthz HTTP/1.1\r\nHost: signet\r\n\r\nrubbish\r\n\r\n", 400},
		{"POST /v1/secrets/db/refused HTTP/1.1\r\nHost: signet\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		{"GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\nX-Long: " + strings.Repeat("x", maxHeader+8192) + "\r\n\r\n", 431},
		{"OPTIONS * HTTP/1.1\r\nHost: signet\r\n\r\n", 404},
	} {
		c, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		go fmt.Fprint(c, tt.request)
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err == nil && resp.Request == nil && strings.Contains(tt.request, "healthz") {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp, err = http.ReadResponse(in, nil)
		}
		if err != nil {
			t.Fatalf("%.60q: %v", tt.request, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		a := answer{resp.StatusCode, resp.Header, string(body)}
		if want := map[bool]string{true: CodeNotFound, false: CodeInvalid}[tt.status == 404]; a.status != tt.status || a.code(t) != want || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%.60q: %+v", tt.request, a)
		}
		if l := r.auditLines(i + 1)[i]; l["event"] != "request.refused" || l["status"] != float64(tt.status) {
			t.Errorf("%.60q: recorded as %v", tt.request, l)
		}
		c.Close()
	}
	if a := r.do("HEAD", "/v1/events", ""); a.status != 200 || a.body != "" {
		t.Errorf("HEAD of the events: %+v", a)
	}
}

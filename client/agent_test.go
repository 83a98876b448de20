package client

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A testAgent answers on a Unix socket as the Contract says, from what a test
// puts into it.
type testAgent struct {
	t      *testing.T
	socket string
	mux    *http.ServeMux

	mu       sync.Mutex
	server   *http.Server
	done     chan struct{} // closed when server has ended
	requests []string
}

// newAgent starts an agent without any routes.
func newAgent(t *testing.T) *testAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "signet") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &testAgent{t: t, socket: filepath.Join(dir, "s"), mux: http.NewServeMux()}
	a.start()
	t.Cleanup(a.stop)
	return a
}

// client returns a Client of the agent that ends with the test.
func (a *testAgent) client() *Client {
	c := &Client{Socket: a.socket}
	a.t.Cleanup(func() { c.Close() })
	return c
}

func (a *testAgent) start() {
	a.t.Helper()
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.requests = append(a.requests, r.Method+" "+r.URL.RequestURI())
		a.mu.Unlock()
		a.mux.ServeHTTP(w, r)
	})}
	done, server := make(chan struct{}), a.server
	a.done = done
	go func() {
		defer close(done)
		server.Serve(l)
	}()
}

// stop ends the agent at once, with all its connections.
func (a *testAgent) stop() {
	a.mu.Lock()
	server, done := a.server, a.done
	a.mu.Unlock()
	server.Close()
	<-done
}

// count is how many requests have begun with prefix.
func (a *testAgent) count(prefix string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, r := range a.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

// json answers a pattern with a body.
func (a *testAgent) json(pattern, body string) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(body))
	})
}

// refuse answers with an error of RFC 9457.
func refuse(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write([]byte(`{"type":"about:blank","title":"` + http.StatusText(status) + `","status":500,"code":"` + code + `","detail":"` + detail + `"}`))
}

// A testSecret is a secret of a testAgent that can change.
type testSecret struct {
	mu      sync.Mutex
	body    string // "" while code refuses it
	version string
	code    string
	status  int
	changed chan struct{}
}

// secret serves a secret that set and withdraw change, with long polls.
func (a *testAgent) secret(name string) *testSecret {
	s := &testSecret{changed: make(chan struct{})}
	a.mux.HandleFunc("GET /v1/secrets/"+name, func(w http.ResponseWriter, r *http.Request) {
		wait, _ := time.ParseDuration(r.FormValue("wait"))
		timeout := time.After(wait)
		for {
			s.mu.Lock()
			body, version, code, status, changed := s.body, s.version, s.code, s.status, s.changed
			s.mu.Unlock()
			if code != "" {
				refuse(w, status, code, "as the test wants")
				return
			}
			if wait == 0 || version != r.FormValue("version") {
				w.Header().Set("ETag", `"`+version+`"`)
				w.Write([]byte(body))
				return
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			case <-timeout:
				wait = 0
			}
		}
	})
	return s
}

func (s *testSecret) change(body, version, code string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body, s.version, s.code, s.status = body, version, code, status
	close(s.changed)
	s.changed = make(chan struct{})
}

// set makes the secret good for some time from now.
func (s *testSecret) set(version string, good time.Duration) {
	now := time.Now().UTC()
	s.change(`{"name":"db","version":"`+version+`","fields":{"username":"u","password":"p`+version+`"},"fetched_at":"`+now.Format(time.RFC3339Nano)+
		`","fresh_until":"`+now.Add(good).Format(time.RFC3339Nano)+`","rotates_at":null,"stale":false}`, version, "", 0)
}

func (s *testSecret) withdraw(status int, code string) { s.change("", "", code, status) }

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("never happened: " + what)
		}
	}
}

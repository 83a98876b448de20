package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/upstream"
)

// A served is a socket that is served.
type served struct {
	*socket.Server
	client *http.Client
}

// serveBackend serves a backend to an administrator who may also read the secret
// db, until the test ends.
func serveBackend(t *testing.T, b backend) *served {
	t.Helper()
	policy, err := access.Compile([]access.Rule{{
		Callers: access.Callers{Users: []string{strconv.Itoa(os.Getuid())}}, Allow: access.Allow{Secrets: []string{"db"}, Admin: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return serveSocket(t, socket.New(socket.Config{Backend: b, Policy: policy, Secrets: []string{"db"}}))
}

func serveSocket(t *testing.T, srv *socket.Server) *served {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := socket.Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{srv, &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.client.CloseIdleConnections()
	})
	return s
}

func (s *served) get(t *testing.T, path string) (*http.Response, []byte) {
	t.Helper()
	resp, err := s.client.Get("http://signet" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// Who asks for a secret before its slow upstream has answered is told which one it
// is, why, and what to do; the fetch goes on, and is joined by whoever asks again.
func TestFirstFetchThatTakesLongSaysSo(t *testing.T) {
	b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, nil)
	answers := make(chan struct{})
	b.set(func() (upstream.Secret, error) {
		<-answers
		return is("one")()
	})
	var s *served
	b.publish = func(p *sinks.Secret) { s.PublishSecret(p) }
	defer b.start(t)()
	s = serveBackend(t, b.asks())

	resp, body := s.get(t, "/v1/secrets/db?wait=50ms")
	var p struct{ Code, Detail, Hint string }
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || p.Code != socket.CodeUnavailable ||
		p.Detail != `secret "db": not fetched yet, its upstream has not answered within 50ms` || !strings.Contains(p.Hint, "?wait=30s") {
		t.Errorf("HTTP %d, %v, %s", resp.StatusCode, resp.Header, body)
	}
	close(answers)
	if resp, body := s.get(t, "/v1/secrets/db"); resp.StatusCode != 200 || b.count() != 1 {
		t.Errorf("after the answer: HTTP %d, %s; %d calls", resp.StatusCode, body, b.count())
	}
}

// Who waits for anything else no longer than the socket lets it is told by the
// socket what that was: the agent has nothing to add.
func TestTimeOverIsTheSocketsMatter(t *testing.T) {
	b := backend{&Agent{rotators: map[string]*rotator{"web": {asks: make(chan ask)}}}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := b.Renew(ctx, "web", false, false); err != context.DeadlineExceeded {
		t.Errorf("%T %v", err, err)
	}
}

// madeAgent is an agent of a configuration, which does not run.
func madeAgent(t *testing.T, text string) (*Agent, *store.Store) {
	t.Helper()
	cfg, _, err := checked(t, text)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st)
	if err != nil {
		t.Fatal(err)
	}
	return a, st
}

// While nothing can be recorded everything is refused: readyz and status say so
// both, and both say that it is over.
func TestNotReadyWhileTheAuditRefuses(t *testing.T) {
	for on, allow := range map[string]bool{"refuse": false, "allow": true} {
		a, st := madeAgent(t, fmt.Sprintf(`audit: {file: /dev/full, on_failure: %s}
policy: [{callers: {users: [%d]}, allow: {admin: true}}]
`, on, os.Getuid()))
		a.tokens, a.identities = nil, nil // all else is well
		close(a.opened)
		s := serveSocket(t, a.socket)
		for deadline := time.Now().Add(10 * time.Second); a.audit.Err() == nil; <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the full disk is not noticed")
			}
		}
		ready, why := s.get(t, "/v1/readyz")
		_, text := s.get(t, "/v1/status")
		var status Status
		if err := json.Unmarshal(text, &status); err != nil {
			t.Fatal(err)
		}
		if (ready.StatusCode == 200) != allow || status.Ready != allow {
			t.Errorf("allow=%v: readyz is %d, and status says ready %v", allow, ready.StatusCode, status.Ready)
		}
		if !allow && (!strings.Contains(string(why), "no space left") || !strings.Contains(status.Reason, "no space left")) {
			t.Errorf("why: readyz %s, status %q", why, status.Reason)
		}
		_ = a.audit.Close() // what waits cannot be written
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What is listed as a key can be shown: a key in a file is not.
func TestKeysInFilesAreNotListed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &rotator{name: "web", keys: newFileKeys(t, hsm.ECDSAP256, nil)}
	r.snap.Store(&snapshot{record: record{Next: version{CSR: csr}}})
	b := backend{&Agent{rotators: map[string]*rotator{"web": r}}}
	if keys, err := b.Keys(func(string) bool { return true }); err != nil || len(keys) > 0 {
		t.Errorf("listed: %+v, %v", keys, err)
	}
}

// The agent gives administrators its audit, as it is while it is written.
func TestTheAuditIsGivenWhole(t *testing.T) {
	a, st := madeAgent(t, fmt.Sprintf("policy: [{callers: {users: [%d]}, allow: {admin: true}}]\n", os.Getuid()))
	s := serveSocket(t, a.socket)
	defer func() {
		if err := errors.Join(a.audit.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	}()
	s.get(t, "/v1/plan")
	for deadline := time.Now().Add(10 * time.Second); a.audit.Head().Lines < 2; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is written")
		}
	}
	_, all := s.get(t, "/v1/audit/lines")
	v := access.Verifier{}
	if err := v.Read(bytes.NewReader(all)); err != nil || v.Done() != nil || v.Lines < 2 {
		t.Errorf("%d lines, %v, %v", v.Lines, err, v.Done())
	}
	if _, last := s.get(t, "/v1/audit/lines?last=1"); bytes.Count(last, []byte("\n")) != 1 {
		t.Errorf("the last one: %s", last)
	}
}

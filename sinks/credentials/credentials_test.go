package credentials

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

func TestAddress(t *testing.T) {
	for name, want := range map[string]address{
		"@328df1f1bc4d2efc/unit/u1.service/db":              {"u1.service", "db"},
		"@be1db78a876e444e/unit/tm@a-b.service/db.password": {"tm@a-b.service", "db.password"},
		"@1/unit/a.service/x/y":                             {"a.service", "x/y"},
		"":                                                  {},
		"@":                                                 {},
		"/run/u/unit/a.service/x":                           {},
		"@/unit/a.service/x":                                {},
		"@xyz/unit/a.service/x":                             {},
		"@12/user/a.service/x":                              {},
		"@12/unit//x":                                       {},
		"@12/unit/a.service/":                               {},
		"@12/unit/a.service":                                {},
	} {
		got, err := parseAddress(name)
		if got != want || (err == nil) != (want != address{}) {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
}

func TestResolve(t *testing.T) {
	s := newServer(t, Config{Secrets: []string{"db", "db.prod", "web"}, Certificates: []string{"web", "site"}})
	for id, want := range map[string]string{
		"db": "secret db ", "db.password": "secret db password", "db.prod": "secret db.prod ", "db.prod.user": "secret db.prod user",
		"db.a.b": "secret db a.b", "web.pem": "certificate web pem", "web.crt": "certificate web crt", "web.key": "certificate web key",
		"web.user": "secret web user", "web": "secret web ", "site": "error", "site.p12": "error", "nope": "error", "db.": "error",
	} {
		c, err := s.resolve(id)
		got := c.kind.String() + " " + c.name + " " + c.part
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, %v; want %s", id, got, err, want)
		}
	}
}

// fetch is a Backend.
type fetch func(ctx context.Context, name string) error

func (f fetch) Fetch(ctx context.Context, name string) error { return f(ctx, name) }

func away(context.Context, string) error { return errors.New("the upstream is away") }

func newServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server serves secrets db and big and certificate web to app.service.
func server(t *testing.T, b Backend) *Server {
	t.Helper()
	p, err := access.Compile([]access.Rule{
		{Callers: access.Callers{Units: []string{"app.service"}}, Allow: access.Allow{Secrets: []string{"db", "big", "late"}, Certificates: []string{"web", "hsm"}}},
		{Callers: access.Callers{Users: []string{"0"}, Groups: []string{"0"}}, Allow: access.Allow{Secrets: []string{"*"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, Config{Backend: b, Policy: p, Secrets: []string{"db", "big", "late", "other"}, Certificates: []string{"web", "hsm"}, Wait: time.Minute})
	hour := time.Now().Add(time.Hour)
	s.PublishSecret(&sinks.Secret{Name: "db", UsableUntil: hour, Fields: sinks.FieldsOf(map[string]secret.Value{
		"username": secret.New([]byte("robot")), "password": secret.New([]byte("hunter2\x00\xff")), "empty": {}})})
	s.PublishSecret(&sinks.Secret{Name: "big", UsableUntil: hour, Fields: sinks.FieldsOf(map[string]secret.Value{
		"fits": secret.New(make([]byte, maxCredential-len("big.fits"))), "long": secret.New(make([]byte, maxCredential-len("big.long")+1))})})
	s.PublishSecret(&sinks.Secret{Name: "other", UsableUntil: hour, Fields: sinks.FieldsOf(map[string]secret.Value{"value": secret.New([]byte("x"))})})
	return s
}

func ask(ctx context.Context, s *Server, unit, id string) (string, error) {
	q := &call{s: s, at: address{unit, id}, start: time.Now()}
	b, err := q.content(ctx)
	return string(b), err
}

// What policy gives to the unit is delivered, byte by byte; all else is refused
// with a reason, and nothing is ever delivered empty, cut or too long.
func TestContent(t *testing.T) {
	s := server(t, fetch(away))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8})
	chain := string(sinks.PEM([][]byte{der}))
	s.PublishCertificate(&sinks.Certificate{Name: "web", Chain: [][]byte{der}, Key: secret.New(keyPEM), NotAfter: tmpl.NotAfter})
	s.PublishCertificate(&sinks.Certificate{Name: "hsm", Chain: [][]byte{der}, KeyURI: "pkcs11:id=%01", NotAfter: tmpl.NotAfter})

	for id, want := range map[string]string{
		"db.password": "hunter2\x00\xff", "db.username": "robot", "big.fits": string(make([]byte, maxCredential-8)),
		"web.crt": chain, "web.key": string(keyPEM), "web.pem": chain + string(keyPEM), "hsm.crt": chain,
	} {
		if got, err := ask(t.Context(), s, "app.service", id); got != want || err != nil {
			t.Errorf("%s: %d bytes, %v; want %d", id, len(got), err, len(want))
		}
	}
	for _, tt := range []struct{ unit, id, want string }{
		{"app.service", "db.nope", `no field "nope"`},
		{"app.service", "db", "not text"},
		{"app.service", "db.empty", "is empty"},
		{"app.service", "big.long", "longer than the 1 MiB"},
		{"app.service", "hsm.key", "in the HSM"},
		{"app.service", "hsm.pem", "in the HSM"},
		{"app.service", "web", "web.pem, web.crt and web.key"},
		{"app.service", "other.value", `allows secret "other" to unit app.service`}, // though root may read it
		{"app.service", "nope", `allows secret "nope"`},
		{"evil.service", "db.password", "to unit evil.service"},
		{"", "db.password", "to unit"},
	} {
		got, err := ask(t.Context(), s, tt.unit, tt.id)
		if got != "" || err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s for %s: %q, %v; want %q", tt.id, tt.unit, got, err, tt.want)
		}
	}
}

// A unit that starts before the first fetch waits for it, past failures, and
// not for ever; a definite refusal ends the wait at once.
func TestWaitsForTheFirstFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, fetch(away))
		start := time.Now()
		time.AfterFunc(20*time.Second, func() {
			s.PublishSecret(&sinks.Secret{Name: "late", UsableUntil: time.Now().Add(time.Hour), Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte("it came"))})})
		})
		if got, err := ask(t.Context(), s, "app.service", "late.v"); got != "it came" || time.Since(start) != 20*time.Second {
			t.Errorf("%q, %v after %v", got, err, time.Since(start))
		}

		start = time.Now()
		if _, err := ask(t.Context(), s, "app.service", "web.pem"); err == nil || !strings.Contains(err.Error(), "not issued yet; it was waited for 1m") || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}

		start = time.Now()
		time.AfterFunc(10*time.Second, func() { s.WithdrawSecret("late", "the upstream forbids it") })
		time.AfterFunc(5*time.Second, func() { s.PublishSecret(&sinks.Secret{Name: "late"}) }) // expired
		time.Sleep(6 * time.Second)
		if got, err := ask(t.Context(), s, "app.service", "late.v"); got != "" || err == nil || !strings.Contains(err.Error(), "forbids") || time.Since(start) != 10*time.Second {
			t.Errorf("%q, %v after %v", got, err, time.Since(start))
		}
		start = time.Now()
		if _, err := ask(t.Context(), s, "app.service", "late.v"); err == nil || time.Since(start) != 0 {
			t.Errorf("a refused secret: %v after %v", err, time.Since(start))
		}
	})
}

// A unit that waited in vain is told what the upstream said, not that nothing came.
func TestAWaitInVainSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		s := server(t, fetch(func(ctx context.Context, _ string) error {
			if tries++; tries < 3 {
				return errors.New("the upstream answered HTTP 503")
			}
			<-ctx.Done() // the next try takes longer than the unit waits
			return context.Cause(ctx)
		}))
		if _, err := ask(t.Context(), s, "app.service", "late.v"); err == nil || !strings.Contains(err.Error(), "HTTP 503; it was waited for 1m") {
			t.Error(err)
		}
	})
}

func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// A unit that waits while the agent stops is refused, not given nothing.
func TestStopRefusesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, fetch(away))
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, stop)
		if got, err := ask(ctx, s, "app.service", "late.v"); got != "" || err == nil || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// While a unit waits its connection is held, and one that an earlier process
// held is answered.
func TestConnectionsAreHeldWhileTheyWait(t *testing.T) {
	s := server(t, fetch(away))
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	s.cfg.Hold = func(*net.UnixConn) (func(), error) {
		steps = append(steps, "hold")
		s.PublishSecret(&sinks.Secret{Name: "late", UsableUntil: time.Now().Add(time.Hour), Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte("x"))})})
		return func() { steps = append(steps, "release") }, nil
	}
	for _, id := range []string{"late.v", "late.v", "db.username"} { // the second does not wait
		q := &call{s: s, c: conn, at: address{"app.service", id}, start: time.Now()}
		if _, err := q.content(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := strings.Join(steps, " "); got != "hold release" {
		t.Errorf("%s, want the one that waits held, and released before it is answered", got)
	}

	// A copy of the connection elsewhere does not keep the peer from seeing the end.
	copied, err := conn.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	s.cfg.Held = []Held{{Conn: conn}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil) }()
	if b, err := io.ReadAll(client); err != nil || len(b) <= maxCredential { // it has no address, so it is refused
		t.Errorf("a held connection was answered %d bytes, %v", len(b), err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

const trustPassword = "Sv-passw0rd!"

const trustYAML = `
state_dir: %[1]q
runtime_dir: %[1]q
hsm: {module: /nonexistent.so, token: t, worker: /nonexistent, pin: {file: /nonexistent}}
upstreams:
  cm:
    type: ciphertrust
    url: https://localhost
    auth: {grant: password, username: svc, %[2]s refresh_token_lifetime: 30d, refresh_token_idle: 30m}
secrets:
  apikey: {upstream: cm, secret: mypass, ttl: 10m, max_stale: 1h}
`

// A trustBench is an agent in a bubble, without an HSM, at an appliance.
type trustBench struct {
	*testing.T
	*Agent
	server *ciphertrusttest.Server
	http   *upstream.HTTP
	yaml   string
	dir    string
}

// bubbleCA is made in the first bubble, and good in all of them: they begin at
// the same time.
var bubbleCA = sync.OnceValues(ciphertrusttest.NewCA)

func newTrustBench(t *testing.T, attended bool) *trustBench {
	t.Helper()
	ca, err := bubbleCA()
	if err != nil {
		t.Fatal(err)
	}
	server, pipe := ciphertrusttest.StartPipe(t, ciphertrusttest.Config{CA: ca, Setup: ciphertrusttest.Setup{
		Users:   []ciphertrusttest.User{{Username: "svc", Password: trustPassword, Groups: []string{"Key Admins"}}},
		Secrets: []ciphertrusttest.Secret{{Name: "mypass", DataType: "password", Material: "123456", Groups: []string{"Key Admins"}}},
	}})
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "cm", URL: "https://localhost", CAs: server.CA.Pool(), Dial: pipe.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Reset)
	b := &trustBench{T: t, server: server, http: h, dir: t.TempDir()}
	password := ""
	if !attended {
		file := filepath.Join(b.dir, "password")
		if err := os.WriteFile(file, []byte(trustPassword), 0o600); err != nil {
			t.Fatal(err)
		}
		password = fmt.Sprintf("password: {file: %q},", file)
	}
	b.yaml = fmt.Sprintf(trustYAML, b.dir, password)
	return b
}

// start starts the agent on what its disk has, and returns how to end it.
func (b *trustBench) start() (stop func()) {
	b.Helper()
	cfg, err := config.Parse("signet.yaml", []byte(b.yaml))
	if err != nil {
		b.Fatal(err)
	}
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		b.Fatal(err)
	}
	if b.Agent, err = newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st); err != nil {
		b.Fatal(err)
	}
	s := b.services["cm"]
	s.http = b.http
	b.newCipherTrust(s)
	b.refresher.clocks = clocks{} // the time since boot does not follow a bubble's
	if b.refresher.sealer, err = newSealer(bytes.Repeat([]byte{7}, 32)); err != nil {
		b.Fatal(err)
	}
	blobs, err := st.Secrets()
	if err != nil {
		b.Fatal(err)
	}
	b.refresher.load(blobs)
	close(b.opened)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 2)
	go func() { done <- s.keepToken(ctx) }()
	go func() { done <- b.refresher.run(ctx) }()
	return func() {
		b.Helper()
		time.Sleep(time.Minute) // no fetch is left under way
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				b.Error(err)
			}
		}
		time.Sleep(time.Minute) // a log-in under way ends by itself, not with the agent
		if err := errors.Join(b.audit.Close(), st.Close()); err != nil {
			b.Error(err)
		}
	}
}

// states are those of the login and of the secret, as the status shows them.
func (b *trustBench) states() string {
	login, _ := b.services["cm"].item()
	return login.State + " " + b.secretItem("apikey", time.Now()).State
}

func (b *trustBench) is(want, when string) {
	b.Helper()
	synctest.Wait()
	if got := b.states(); got != want {
		b.Errorf("%s: %s, want %s", when, got, want)
	}
}

func (b *trustBench) live() (n int) {
	for _, k := range b.server.Tokens() {
		if k.Live {
			n++
		}
	}
	return n
}

func TestCipherTrustForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTrustBench(t, false)
		for range 100 { // restarts, a quarter of an hour apart: more than a day
			stop := b.start()
			time.Sleep(14 * time.Minute)
			b.is("fresh fresh", "during the day")
			stop()
		}
		refused := 0
		for _, r := range b.server.Records() {
			if r.Status == 401 {
				refused++
			}
		}
		if n := len(b.server.Tokens()); refused != 0 || n != 1 {
			t.Errorf("%d requests refused, %d refresh tokens; want none, and 1", refused, n)
		}
		db, err := os.ReadFile(filepath.Join(b.dir, "signet.db"))
		if err != nil || bytes.Contains(db, []byte(`"token"`)) {
			t.Error("the refresh token is not sealed", err)
		}
	})
}

// What each cause leads to, and that the agent comes back; the secret is served
// for as long as it may be meanwhile.
func TestCipherTrustTrouble(t *testing.T) {
	for _, tt := range []struct {
		name        string
		attended    bool
		cause, cure func(*trustBench)
		early, late string // a quarter of an hour and two hours into it
	}{
		{"revoked, with a password", false, func(b *trustBench) { _, _ = b.server.RevokeTokens("") }, func(*trustBench) {}, "fresh fresh", "fresh fresh"},
		{"revoked, without one", true, func(b *trustBench) { _, _ = b.server.RevokeTokens("") }, (*trustBench).login, "waiting stale", "waiting expired"},
		{"password changed", false, func(b *trustBench) { _ = b.server.SetPassword("svc", "An0ther-passw0rd!") },
			func(b *trustBench) {
				_ = b.server.Unlock("svc")
				_ = os.WriteFile(filepath.Join(b.dir, "password"), []byte("An0ther-passw0rd!"), 0o600)
			}, "missing stale", "missing expired"},
		{"user locked, without a password", true, func(b *trustBench) {
			b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 401, Path: "/api/v1/auth/tokens/"})
		}, func(b *trustBench) { b.server.Faults.Clear(); b.login() }, "waiting stale", "waiting expired"},
		{"logged out", false, func(b *trustBench) { _ = backend{b.Agent}.Logout(b.Context(), "cm") }, (*trustBench).login, "waiting stale", "waiting expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTrustBench(t, tt.attended)
				defer b.start()()
				if tt.attended {
					time.Sleep(time.Minute)
					b.is("waiting missing", "before somebody logs in")
					b.login()
				}
				time.Sleep(time.Hour)
				b.is("fresh fresh", "before")
				tt.cause(b)
				time.Sleep(20 * time.Minute)
				b.is(tt.early, "after 20 minutes")
				time.Sleep(100 * time.Minute)
				b.is(tt.late, "after two hours")
				tt.cure(b)
				time.Sleep(15 * time.Minute)
				b.is("fresh fresh", "afterwards")
				if b.live() != 1 {
					t.Errorf("%d live refresh tokens", b.live())
				}
			})
		})
	}
}

// login is `signet login cm`.
func (b *trustBench) login() {
	b.Helper()
	got, err := backend{b.Agent}.Login(b.Context(), "cm", socket.LoginRequest{Username: "svc", Password: secret.New([]byte(trustPassword)), Life: 10 * time.Hour})
	if err != nil || time.Until(got.Until).Round(time.Minute) != 10*time.Hour {
		b.Errorf("%v, %v", got.Until, err)
	}
}

func TestLoginWhereThereIsNone(t *testing.T) {
	b := backend{&Agent{services: map[string]*service{"pam": {cfg: config.Upstream{Type: config.Senhasegura}}}}}
	for name, code := range map[string]string{"nosuch": socket.CodeNotFound, "pam": socket.CodeInvalid} {
		_, err := b.Login(t.Context(), name, socket.LoginRequest{})
		for _, err := range []error{err, b.Logout(t.Context(), name)} {
			if p, ok := err.(*socket.Problem); !ok || p.Code != code || strings.Contains(p.Detail, "%!") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
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
    auth: {grant: password, username: svc, %[2]s refresh_token_lifetime: %[3]s, refresh_token_idle: %[4]s}
secrets:
  apikey: {upstream: cm, secret: mypass, ttl: 10m, max_stale: 40m}
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

// newTrustBench makes the bench; more limits of the refresh token may be given
// in place of 30 days and 30 minutes.
func newTrustBench(t *testing.T, attended bool, limits ...string) *trustBench {
	t.Helper()
	if limits == nil {
		limits = []string{"30d", "30m"}
	}
	ca, err := bubbleCA()
	if err != nil {
		t.Fatal(err)
	}
	server, pipe := ciphertrusttest.StartPipe(t, ciphertrusttest.Config{CA: ca, Setup: ciphertrusttest.Setup{
		Users:   []ciphertrusttest.User{{Username: "svc", Password: trustPassword, Groups: []string{"Key Admins", "CA Admins"}}},
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
	b.yaml = fmt.Sprintf(trustYAML, b.dir, password, limits[0], limits[1])
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
	began := time.Now() // the time since boot does not follow a bubble's
	b.refresher.clocks = clocks{steady: func() time.Duration { return time.Since(began) }}
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
	parts := []func(context.Context) error{s.keepToken, b.refresher.run}
	for _, r := range b.rotators {
		r.issuer = s.issuer()
		parts = append(parts, r.run)
	}
	done := make(chan error, len(parts))
	for _, run := range parts {
		go func() { done <- run(ctx) }()
	}
	return func() {
		b.Helper()
		time.Sleep(time.Minute) // no fetch is left under way
		cancel()
		for range parts {
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

// call makes one call at the appliance.
func (b *trustBench) call(method, path, bearer, body string) (answer struct{ JWT string }) {
	b.Helper()
	resp, err := b.http.Do(b.Context(), upstream.Request{Method: method, Path: "/api/v1" + path, ContentType: "application/json",
		Body: []byte(body), Header: http.Header{"Accept": {"application/json"}, "Authorization": {"Bearer " + bearer}}})
	if err == nil && resp.Status == http.StatusOK {
		err = json.Unmarshal(resp.Body, &answer)
	}
	if err != nil {
		b.Error(err)
	}
	return answer
}

// change is a call of the administrator's.
func (b *trustBench) change(path, body string) {
	b.Helper()
	admin := b.call("POST", "/auth/tokens/", "", `{"username":"admin","password":"admin","refresh_token_lifetime":1}`)
	b.call("PATCH", path, admin.JWT, body)
}

// lock has somebody try wrong passwords until the user is locked, for that many
// minutes or until the administrator unlocks it.
func (b *trustBench) lock(minutes int) {
	b.Helper()
	b.change("/usermgmt/pwdpolicies/global", fmt.Sprintf(`{"failed_logins_lockout_thresholds":[0,0,%d]}`, minutes))
	for range 3 {
		b.call("POST", "/auth/tokens/", "", `{"username":"svc","password":"gue55-Work"}`)
	}
}

func (b *trustBench) unlock() { _ = b.server.Unlock("svc") }

// What each cause leads to, and that the agent comes back; the secret is served
// for as long as it may be meanwhile.
func TestCipherTrustTrouble(t *testing.T) {
	nothing := func(*trustBench) {}
	revoke := func(b *trustBench) { _, _ = b.server.RevokeTokens("") }
	theEnd := func(*trustBench) { time.Sleep(100 * time.Minute) } // of the two hours asked for
	const goesOn, needsSomebody, keepsTrying = "fresh fresh, fresh fresh", "waiting stale, waiting expired", "missing stale, missing expired"
	for _, tt := range []struct {
		name        string
		attended    bool
		limits      []string
		cause, cure func(*trustBench)
		want        string // twenty minutes and an hour into it
	}{
		{"revoked, with a password", false, nil, revoke, nothing, goesOn},
		{"revoked, without one", true, nil, revoke, (*trustBench).login, needsSomebody},
		{"absolute life over, with a password", false, []string{"2h", "30m"}, theEnd, nothing, goesOn},
		{"absolute life over, without one", true, nil, theEnd, (*trustBench).login, needsSomebody},
		{"password changed", false, nil, func(b *trustBench) { _ = b.server.SetPassword("svc", "An0ther-passw0rd!") },
			func(b *trustBench) {
				b.unlock()
				_ = os.WriteFile(filepath.Join(b.dir, "password"), []byte("An0ther-passw0rd!"), 0o600)
			}, keepsTrying},
		{"user locked, with a password", false, nil, func(b *trustBench) { b.lock(600) }, (*trustBench).unlock, keepsTrying},
		{"user locked, without one", true, []string{"30d", "6h"}, func(b *trustBench) { b.lock(600) }, (*trustBench).unlock, needsSomebody},
		{"user locked for half an hour, with a password", false, nil, func(b *trustBench) { b.lock(30) }, nothing, "missing stale, fresh fresh"},
		{"user locked for half an hour, without one", true, []string{"30d", "6h"}, func(b *trustBench) { b.lock(30) }, nothing, "waiting stale, fresh fresh"},
		{"logged out", false, nil, func(b *trustBench) { _ = backend{b.Agent}.Logout(b.Context(), "cm") }, (*trustBench).login, needsSomebody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTrustBench(t, tt.attended, tt.limits...)
				defer b.start()()
				if tt.attended {
					time.Sleep(time.Minute)
					b.is("waiting missing", "before somebody logs in")
					b.login()
				}
				time.Sleep(20 * time.Minute)
				b.is("fresh fresh", "before")
				tt.cause(b)
				early, late, _ := strings.Cut(tt.want, ", ")
				time.Sleep(20 * time.Minute)
				b.is(early, "after 20 minutes")
				time.Sleep(40 * time.Minute)
				b.is(late, "after an hour")
				tt.cure(b)
				time.Sleep(31 * time.Minute) // a password is tried every half an hour at the least
				b.is("fresh fresh", "afterwards")
				if b.live() != 1 {
					t.Errorf("%d live refresh tokens", b.live())
				}
			})
		})
	}
}

// What waited for somebody to log in is there at once when it was done, although
// it had been tried so often that the next try was far away.
func TestALoginBringsWhatHasWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTrustBench(t, true)
		b.yaml += fmt.Sprintf("certificates:\n  web: {issuer: cm, ca: %s, duration: 30d, dns_names: [web.example], key: {type: ecdsa-p256, store: file}}\n", b.server.RootCA())
		defer b.start()()
		certificate := func() snapshot {
			synctest.Wait()
			return *b.rotators["web"].snap.Load()
		}
		for time.Until(certificate().At) < 20*time.Minute {
			time.Sleep(time.Minute)
		}
		b.is("waiting missing", "before somebody logs in")
		began := time.Now()
		b.login()
		b.is("fresh fresh", "when somebody has logged in")
		if got := certificate(); !got.Current.exists() || !time.Now().Equal(began) {
			t.Errorf("no certificate %v after the login: %s", time.Since(began), got.Error)
		}
	})
}

// A token endpoint that comes and goes has nothing tried that does not want a
// token: what was refused is left alone as long as ever (failures T12, T18).
func TestATokenThatComesAndGoesBringsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTrustBench(t, false)
		defer b.start()()
		b.is("fresh fresh", "before")
		var tries atomic.Int32
		b.refresher.mu.Lock() // flights begin and end under it
		b.refresher.items["apikey"].fetch = func(context.Context) (upstream.Secret, error) {
			tries.Add(1)
			return upstream.Secret{}, &upstream.Error{Upstream: "cm", Op: "read secret", Code: upstream.Denied}
		}
		b.refresher.mu.Unlock()
		time.Sleep(time.Hour) // until it is tried every few minutes
		before := tries.Load()
		tokens := b.services["cm"].tokens
		came := b.onTokenOf(b.services["cm"])
		for range 30 {
			token, err := tokens.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			tokens.Evict(token.AccessToken)
			came(token) // a new one
			time.Sleep(time.Minute)
		}
		if n := tries.Load() - before; n < 5 || n > 13 {
			t.Errorf("tried %d times in half an hour, want every two and a half to five minutes", n)
		}
	})
}

// An upstream that is shown an identity is tried when there is one, for its
// certificates too; the identity's own is not tried for that.
func TestAnIdentityBringsWhatHasWaited(t *testing.T) {
	a := newIdle(t, `
upstreams:
  cm: {type: ciphertrust, url: "https://localhost", auth: {grant: password, username: svc}}
  user: {type: ciphertrust, url: "https://localhost", identity: host, auth: {grant: user_certificate}}
identities:
  host: {issuer: cm, ca: root, subject: {common_name: host1}}
certificates:
  web: {issuer: user, ca: root, dns_names: [web.example]}
  other: {issuer: cm, ca: root, dns_names: [web.example]}
`)
	ca, err := ciphertrusttest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Client("host1")
	if err != nil {
		t.Fatal(err)
	}
	for _, web := range []int{1, 0} { // the same certificate again brings nothing
		if err := a.rotators["host"].publish(t.Context(), version{Generation: 1, Chain: cert.Certificate}); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{"web": web, "other": 0, "host": 0} {
			if got := len(a.rotators[name].wake); got != want {
				t.Errorf("%s is woken %d times, want %d", name, got, want)
			}
		}
		for range web {
			<-a.rotators["web"].wake
		}
	}
}

// The appliance says when a secret rotates: nobody is told that it is good for
// longer, and the new version is there right after it.
func TestRotationDateOfTheAppliance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTrustBench(t, false)
		at := time.Now().Add(25 * time.Minute).UTC()
		b.change("/vault/secrets/mypass", fmt.Sprintf(`{"rotationDate":%q}`, at.Format(time.RFC3339)))
		defer b.start()()
		time.Sleep(24 * time.Minute)
		it := b.secretItem("apikey", time.Now())
		if it.Version != "0" || it.RotatesAt.After(at) || at.Sub(it.RotatesAt) > time.Minute || it.FreshUntil.After(it.RotatesAt) {
			t.Errorf("before the rotation: version %s, rotates at %v, fresh until %v; want version 0 until %v", it.Version, it.RotatesAt, it.FreshUntil, at)
		}
		time.Sleep(time.Until(at))
		if _, err := b.server.RotateSecret("mypass", "654321"); err != nil {
			t.Error(err)
		}
		b.change("/vault/secrets/mypass?type=name", `{"rotationDate":""}`)
		time.Sleep(10 * time.Second)
		b.is("fresh fresh", "after the rotation")
		if it := b.secretItem("apikey", time.Now()); it.Version != "1" || !it.RotatesAt.IsZero() {
			t.Errorf("after the rotation: version %s, rotates at %v", it.Version, it.RotatesAt)
		}
	})
}

// login is `signet login cm`.
func (b *trustBench) login() {
	b.Helper()
	got, err := backend{b.Agent}.Login(b.Context(), "cm", socket.LoginRequest{Username: "svc", Password: secret.New([]byte(trustPassword)), Life: 2 * time.Hour})
	if err != nil || time.Until(got.Until).Round(time.Minute) != 2*time.Hour {
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

package ciphertrust_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust"
	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// memKeeper keeps a login in memory, as a disk does across restarts.
type memKeeper struct {
	mu    sync.Mutex
	text  []byte
	saves int
	full  int // the save of this number fails, as a power cut would have it; 0 is none
}

func (k *memKeeper) Load() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]byte(nil), k.text...), nil
}

func (k *memKeeper) Save(text []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.saves++; k.saves == k.full {
		return errors.New("disk is gone")
	}
	k.text = append([]byte(nil), text...)
	return nil
}

// bed is an appliance in a bubble, and what an agent has to log in to it.
type bed struct {
	*testing.T
	server *ciphertrusttest.Server
	http   *upstream.HTTP
	keeper *memKeeper
	cfg    ciphertrust.LoginConfig
}

const goodPassword = "Sv-passw0rd!"

func newBed(t *testing.T) *bed {
	t.Helper()
	server, pipe := ciphertrusttest.StartPipe(t, ciphertrusttest.Config{CA: rootCA(t), Setup: ciphertrusttest.Setup{
		Users:   []ciphertrusttest.User{{Username: "svc", Password: goodPassword, Groups: []string{"Key Admins"}}},
		Secrets: []ciphertrusttest.Secret{{Name: "mypass", DataType: "password", Material: "123456", Groups: []string{"Key Admins"}}},
	}})
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "cm", URL: "https://localhost", CAs: server.CA.Pool(), Dial: pipe.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Reset)
	t.Cleanup(func() { time.Sleep(time.Minute) }) // a fetch under way ends before its bubble does
	b := &bed{T: t, server: server, http: h, keeper: new(memKeeper)}
	b.cfg = ciphertrust.LoginConfig{
		HTTP: h, Keeper: b.keeper, URL: "https://localhost", Host: "host1", Grant: ciphertrust.GrantPassword, Username: "svc",
		Password: func() (secret.Value, error) { return secret.New([]byte(goodPassword)), nil },
		Life:     30 * 24 * time.Hour, Idle: 30 * time.Minute, Log: slog.New(slog.DiscardHandler),
	}
	return b
}

// oneCA is made in the first bubble, and good in all of them: they begin at the
// same time.
var oneCA = sync.OnceValues(ciphertrusttest.NewCA)

func rootCA(t *testing.T) *upstreamtest.CA {
	t.Helper()
	ca, err := oneCA()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// keep keeps a login fresh for a time, as the agent does, and returns how often
// an API token was to be had at the full minutes.
func (b *bed) keep(l *ciphertrust.Login, d time.Duration) (had int) {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			wait := time.Until(l.Tokens().Due())
			if wait <= 0 {
				_, _ = l.Tokens().Token(ctx)
				wait = time.Second
			}
			select {
			case <-time.After(min(wait, time.Minute)):
			case <-ctx.Done():
			}
		}
	}()
	client := ciphertrust.New(ciphertrust.Config{HTTP: b.http, Tokens: l.Tokens()})
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Minute) {
		if s, err := client.Fetch(ctx, "mypass"); err == nil && len(s.Fields) == 1 {
			had++
		}
	}
	stop()
	<-done
	return had
}

// calls counts the calls of a path that ended with a status; 0 is any.
func (b *bed) calls(path string, status int) (n int) {
	for _, r := range b.server.Records() {
		if strings.TrimSuffix(r.Path, "/") == path && (status == 0 || r.Status == status) {
			n++
		}
	}
	return n
}

// live are the refresh tokens of the agent that still work.
func (b *bed) live() (list []ciphertrusttest.Token) {
	for _, t := range b.server.Tokens() {
		if t.Live {
			list = append(list, t)
		}
	}
	return list
}

func (b *bed) token(l *ciphertrust.Login) *oauth2.Token {
	b.Helper()
	t, err := l.Tokens().Token(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return t
}

func TestADayOfShortTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		var logins atomic.Int64
		ask := b.cfg.Password
		b.cfg.Password = func() (secret.Value, error) { logins.Add(1); return ask() }
		had := b.keep(ciphertrust.NewLogin(b.cfg), 24*time.Hour)
		if had != 24*60 {
			t.Errorf("%d of %d fetches succeeded", had, 24*60)
		}
		refused := 0
		for _, r := range b.server.Records() {
			if r.Status == 401 {
				refused++
			}
		}
		if refused != 0 || logins.Load() != 1 {
			t.Errorf("%d requests with a token that was over, %d logins by password; want 0, and 1", refused, logins.Load())
		}
		live := b.live()
		if len(live) != 1 || len(b.server.Tokens()) != 1 {
			t.Fatalf("tokens %+v", b.server.Tokens())
		}
		if got := strings.Join(live[0].Labels, " "); !strings.Contains(got, "signet") || !strings.Contains(got, "host1") {
			t.Errorf("labels %s", got)
		}
		if left := live[0].ExpiresAt.Sub(live[0].CreatedAt); left != 30*24*time.Hour {
			t.Errorf("absolute life %v", left)
		}
	})
}

// Whatever the limit, the token is used again within half of it.
func TestShortIdleLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.cfg.Idle = 2 * time.Minute
		if had := b.keep(ciphertrust.NewLogin(b.cfg), time.Hour); had != 60 {
			t.Errorf("%d fetches succeeded", had)
		}
		if n := len(b.server.Tokens()); n != 1 {
			t.Errorf("%d refresh tokens", n)
		}
	})
}

func TestRestartsLeakNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		for range 100 {
			b.token(ciphertrust.NewLogin(b.cfg))
			time.Sleep(time.Minute)
		}
		if n := len(b.server.Tokens()); n != 1 {
			t.Errorf("%d refresh tokens after 100 restarts", n)
		}
		// With the password gone it goes on.
		b.cfg.Password = func() (secret.Value, error) { return secret.Value{}, errors.New("no such file") }
		b.token(ciphertrust.NewLogin(b.cfg))
	})
}

// Dead at any save, and with any answer lost, an agent that starts again ends up
// with one token, and nobody else has any.
func TestCrashesLeakNoToken(t *testing.T) {
	for full := 1; full <= 6; full++ {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			b.keeper.full = full
			if full == 6 {
				b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Path: "/api/v1/auth/tokens/", Count: 1})
			}
			_, _ = ciphertrust.NewLogin(b.cfg).Tokens().Token(t.Context()) // and dies here
			time.Sleep(time.Minute)
			l := ciphertrust.NewLogin(b.cfg)
			b.token(l)
			if n := b.live(); len(n) != 1 {
				t.Errorf("save %d: %d live tokens: %+v", full, len(n), n)
			}
		})
	}
}

// Each of these ends the refresh token; with the cause gone the agent is back by
// itself, without having locked its user meanwhile.
func TestLoginRecovers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		break_  func(b *bed)
		mend    func(b *bed)
		failing bool // nothing works until it is mended
	}{
		{"revoked by an administrator", func(b *bed) { _, _ = b.server.RevokeTokens("") }, func(*bed) {}, false},
		{"password changed", func(b *bed) { _ = b.server.SetPassword("svc", "An0ther-passw0rd!") },
			func(b *bed) { _ = b.server.SetPassword("svc", goodPassword) }, true},
		{"user locked", func(b *bed) { _ = b.server.Lock("svc") }, func(b *bed) { _ = b.server.Unlock("svc") }, true},
		{"an outage", func(b *bed) {
			b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop})
		}, func(b *bed) { b.server.Faults.Clear() }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				b.cfg.Idle = 6 * time.Hour
				l := ciphertrust.NewLogin(b.cfg)
				b.keep(l, 10*time.Minute)
				tt.break_(b)
				b.keep(l, 6*time.Minute) // the API token of before is over
				before := b.keep(l, 20*time.Minute)
				if tt.failing != (before == 0) {
					t.Errorf("%d fetches succeeded while it lasted", before)
				}
				tt.mend(b)
				b.keep(l, 35*time.Minute) // the longest time between two tries is half an hour
				if had := b.keep(l, 30*time.Minute); had != 30 {
					t.Errorf("%d of 30 fetches succeeded afterwards", had)
				}
				if n := len(b.live()); n != 1 {
					t.Errorf("%d live tokens", n)
				}
			})
		})
	}
}

// A lock that is taken off brings a login by a person back too, and no second
// token is left behind by it.
func TestLockOfAPersonsLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.cfg.Password, b.cfg.Idle = nil, 6*time.Hour
		l := ciphertrust.NewLogin(b.cfg)
		if _, err := l.Login(t.Context(), ciphertrust.LoginRequest{Password: secret.New([]byte(goodPassword))}); err != nil {
			t.Fatal(err)
		}
		_ = b.server.Lock("svc")
		b.keep(l, 10*time.Minute)
		if st := l.Status(); !st.Waiting {
			t.Errorf("%+v", st)
		}
		_ = b.server.Unlock("svc")
		b.keep(l, 2*time.Minute)
		if had := b.keep(l, 10*time.Minute); had != 10 || l.Status().Waiting {
			t.Errorf("%d of 10 fetches succeeded, %+v", had, l.Status())
		}
		if n := len(b.live()); n != 1 {
			t.Errorf("%d live tokens", n)
		}
	})
}

// A refused password is tried ever more rarely, and another one at once.
func TestRefusedPasswordIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		var password atomic.Value
		password.Store("wr0ng-Password!")
		b.cfg.Password = func() (secret.Value, error) { return secret.New([]byte(password.Load().(string))), nil }
		l := ciphertrust.NewLogin(b.cfg)
		b.keep(l, 30*time.Minute)
		if n := b.calls("/api/v1/auth/tokens", 401); n > 6 {
			t.Errorf("tried %d times in half an hour", n)
		}
		_ = b.server.Unlock("svc")
		password.Store(goodPassword)
		b.keep(l, time.Minute)
		b.token(l)
	})
}

// The absolute life ends: with a password the agent has logged in again before,
// without one it says who has to do what.
func TestAbsoluteLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.cfg.Life = 2 * time.Hour
		if had := b.keep(ciphertrust.NewLogin(b.cfg), 5*time.Hour); had != 300 {
			t.Errorf("%d of 300 fetches succeeded", had)
		}
		if live := b.live(); len(live) != 1 {
			t.Errorf("%d live tokens", len(live))
		}

		b.cfg.Password = nil
		l := ciphertrust.NewLogin(b.cfg)
		b.keep(l, 3*time.Hour)
		_, err := l.Tokens().Token(t.Context())
		e, ok := errors.AsType[*upstream.Error](err)
		if !ok || e.Code != upstream.Unavailable || e.Remedy != "run `signet login cm`" || !l.Status().Waiting {
			t.Errorf("%v, %+v", err, l.Status())
		}
		got, err := l.Login(t.Context(), ciphertrust.LoginRequest{Password: secret.New([]byte(goodPassword)), Life: 10*24*time.Hour + 10*time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if s := ciphertrust.Span(time.Until(got.Until).Round(time.Minute)); s != "10 days, 10 hours" {
			t.Errorf("lasts %s", s)
		}
		b.token(l)
	})
}

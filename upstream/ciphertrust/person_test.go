package ciphertrust_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

func admin(life time.Duration) ciphertrust.LoginRequest {
	return ciphertrust.LoginRequest{Username: "admin", Password: secret.New([]byte("admin")), Life: life}
}

// Asking for more than the server allows is told before it happens: not even a
// token of the life asked for comes into being.
func TestServersLimitIsToldBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		if err := b.server.SetProperty("MAXIMUM_REFRESH_TOKEN_LIFETIME", "5d"); err != nil {
			t.Fatal(err)
		}
		l := ciphertrust.NewLogin(b.cfg)
		before := b.token(l) // the login of before stays
		_, err := l.Login(t.Context(), admin(10*24*time.Hour))
		if upstream.CodeOf(err) != upstream.Invalid || !strings.Contains(err.Error(), "MAXIMUM_REFRESH_TOKEN_LIFETIME is 5 days") {
			t.Fatal(err)
		}
		if live := b.live(); len(live) != 1 || live[0].Username != "svc" {
			t.Errorf("live tokens %+v", live)
		}
		if now := b.token(l); now.AccessToken != before.AccessToken {
			t.Error("the login of before is gone")
		}
		got, err := l.Login(t.Context(), admin(0)) // as long as is allowed
		if err != nil {
			t.Fatal(err)
		}
		if s := ciphertrust.Span(time.Until(got.Until).Round(time.Minute)); s != "5 days" {
			t.Errorf("lasts %s", s)
		}
		if live := b.live(); len(live) != 1 || live[0].Username != "admin" {
			t.Errorf("live tokens %+v", live)
		}
	})
}

func TestConfiguredLifeBeyondTheLimitIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		_ = b.server.SetProperty("MAXIMUM_REFRESH_TOKEN_LIFETIME", "12h")
		b.cfg.Username = "admin"
		b.cfg.Password = func() (secret.Value, error) { return secret.New([]byte("admin")), nil }
		l := ciphertrust.NewLogin(b.cfg)
		b.token(l)
		if st := l.Status(); st.Capped != 12*time.Hour || time.Until(st.Until) > 12*time.Hour {
			t.Errorf("%+v", st)
		}
	})
}

func TestLogoutLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		l := ciphertrust.NewLogin(b.cfg)
		b.token(l)
		if err := l.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		if live := b.live(); len(live) != 0 {
			t.Errorf("live tokens %+v", live)
		}
		for _, l := range []*ciphertrust.Login{l, ciphertrust.NewLogin(b.cfg)} { // and after a restart
			if _, err := l.Tokens().Token(t.Context()); upstream.CodeOf(err) != upstream.Unavailable || !strings.Contains(err.Error(), "logged out") {
				t.Error(err)
			}
			if !l.Status().Out {
				t.Errorf("%+v", l.Status())
			}
		}
		if err := l.Logout(t.Context()); upstream.CodeOf(err) != upstream.Invalid {
			t.Error(err)
		}
		if _, err := l.Login(t.Context(), ciphertrust.LoginRequest{}); err != nil { // as configured
			t.Fatal(err)
		}
		b.token(l)
		if live := b.live(); len(live) != 1 {
			t.Errorf("live tokens %+v", live)
		}
	})
}

// A logout that the server does not hear is carried out when it is back.
func TestLogoutDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		l := ciphertrust.NewLogin(b.cfg)
		b.token(l)
		b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop})
		if err := l.Logout(t.Context()); upstream.CodeOf(err) != upstream.Unavailable {
			t.Error(err)
		}
		b.server.Faults.Clear()
		b.keep(ciphertrust.NewLogin(b.cfg), 2*time.Minute)
		if live := b.live(); len(live) != 0 {
			t.Errorf("live tokens %+v", live)
		}
	})
}

func TestWrongPasswordOfAPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		l := ciphertrust.NewLogin(b.cfg)
		b.token(l)
		_, err := l.Login(t.Context(), ciphertrust.LoginRequest{Username: "admin", Password: secret.New([]byte("nope"))})
		if upstream.CodeOf(err) != upstream.Denied || strings.Contains(err.Error(), "nope") {
			t.Error(err)
		}
		if live := b.live(); len(live) != 1 || live[0].Username != "svc" {
			t.Errorf("live tokens %+v", live)
		}
	})
}

func TestLoginElsewhereIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		r := admin(0)
		r.URL = "https://other.example"
		if _, err := ciphertrust.NewLogin(b.cfg).Login(t.Context(), r); upstream.CodeOf(err) != upstream.Invalid {
			t.Error(err)
		}
		r.URL = "HTTPS://LOCALHOST:443/"
		if _, err := ciphertrust.NewLogin(b.cfg).Login(t.Context(), r); err != nil {
			t.Error(err)
		}
	})
}

// One login serves the agent and another program, both ways.
func TestSharedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		l := ciphertrust.NewLogin(b.cfg)
		r := admin(time.Hour)
		r.Share = true
		got, err := l.Login(t.Context(), r)
		if err != nil || len(got.RefreshToken.Reveal()) != 64 || got.ClientID == "" {
			t.Fatalf("%+v, %v", got, err)
		}
		// Another agent goes on with it.
		b.keeper = new(memKeeper)
		b.cfg.Keeper, b.cfg.Password = b.keeper, nil
		other := ciphertrust.NewLogin(b.cfg)
		if _, err := other.Login(t.Context(), ciphertrust.LoginRequest{RefreshToken: got.RefreshToken, ClientID: got.ClientID}); err != nil {
			t.Fatal(err)
		}
		if st := other.Status(); st.Username != "admin" {
			t.Errorf("%+v", st)
		}
		if n := len(b.live()); n != 1 {
			t.Errorf("%d live tokens", n)
		}
		// A login over it revokes it.
		next := admin(0)
		next.RefreshToken, next.ClientID = got.RefreshToken, got.ClientID
		if _, err := other.Login(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		if n := len(b.live()); n != 1 {
			t.Errorf("%d live tokens", n)
		}
	})
}

// A changed configuration does not go on with the login of before, and another
// server never sees its token.
func TestConfigurationChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.token(ciphertrust.NewLogin(b.cfg))
		first := b.live()[0].ID
		b.cfg.Username = "admin"
		b.cfg.Password = func() (secret.Value, error) { return secret.New([]byte("admin")), nil }
		b.token(ciphertrust.NewLogin(b.cfg))
		if live := b.live(); len(live) != 1 || live[0].Username != "admin" || live[0].ID == first {
			t.Errorf("live tokens %+v", live)
		}
		b.server.Log.Clear()
		b.cfg.URL, b.cfg.Password = "https://other.example", nil
		if _, err := ciphertrust.NewLogin(b.cfg).Tokens().Token(t.Context()); upstream.CodeOf(err) != upstream.Unavailable {
			t.Error(err)
		}
		if n := len(b.server.Log.Entries()); n != 0 {
			t.Errorf("%d calls", n)
		}
	})
}

// The refresh token of a file is used as it is, and a new one in the file is
// noticed.
func TestRefreshTokenOfAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		r := admin(time.Hour)
		r.Share = true
		got, err := ciphertrust.NewLogin(b.cfg).Login(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		var file atomic.Value
		file.Store(got.RefreshToken)
		b.keeper = new(memKeeper)
		b.cfg.Grant, b.cfg.Password, b.cfg.Keeper = ciphertrust.GrantRefreshToken, nil, b.keeper
		b.cfg.RefreshToken = func() (secret.Value, error) { return file.Load().(secret.Value), nil }
		l := ciphertrust.NewLogin(b.cfg)
		if had := b.keep(l, 30*time.Minute); had != 30 {
			t.Errorf("%d fetches succeeded", had)
		}
		_, _ = b.server.RevokeTokens("")
		if had := b.keep(l, 30*time.Minute); had > 6 {
			t.Errorf("%d fetches succeeded with a revoked token", had)
		}
		b.cfg.Grant, b.cfg.Keeper = ciphertrust.GrantPassword, new(memKeeper)
		if got, err = ciphertrust.NewLogin(b.cfg).Login(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		file.Store(got.RefreshToken)
		b.keep(l, 2*time.Minute)
		if had := b.keep(l, 20*time.Minute); had != 20 {
			t.Errorf("%d fetches succeeded with the new one", had)
		}
	})
}

package senhasegura_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/senhasegura"
	"github.com/signet-agent/signet/upstream/senhasegura/senhaseguratest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

const clientID, clientSecret = "3ca8a98d907543812334f7f5dbafcfa6505e3319f", "849f0fea424d795e0a8625e17dbea6a0"

// A bed is a client in front of a simulator.
type bed struct {
	sim    *senhaseguratest.Server
	client *senhasegura.Client
	http   *upstream.HTTP
}

// setup starts a simulator of the examples and a client for it, over the
// network or, with a pipe, inside a bubble.
func setup(t *testing.T, pipe bool, cfg senhaseguratest.Config, cert *tls.Certificate) *bed {
	t.Helper()
	cfg.Vault = senhaseguratest.Examples(clientID, clientSecret)
	sim, err := senhaseguratest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := upstreamtest.NewCA(upstreamtest.CAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	to := upstream.HTTPConfig{Name: "pam", CAs: ca.Pool(), Timeout: 5 * time.Second}
	if pipe {
		to.URL, to.Dial = "https://localhost", sim.StartPipe(t, ca, sim).Dial
	} else {
		to.URL = sim.Bench.Start(t, ca, sim)
	}
	if cert != nil {
		to.Certificate = func(context.Context) (*tls.Certificate, error) { return cert, nil }
	}
	h, err := upstream.NewHTTP(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Reset)
	client := senhasegura.New(senhasegura.Config{
		HTTP: h, ClientID: clientID,
		ClientSecret: func() (secret.Value, error) { return secret.New([]byte(clientSecret)), nil },
	})
	return &bed{sim, client, h}
}

var robot = senhasegura.Ref{Credential: "robot-test-5"}

// password reads the credential's password.
func (b *bed) password(t *testing.T) string {
	t.Helper()
	sec, err := b.client.Fetch(t.Context(), robot)
	if err != nil {
		t.Fatal(err)
	}
	return string(sec.Fields["password"].Reveal())
}

// code reads the credential, which has to fail.
func (b *bed) code(t *testing.T) upstream.Code {
	t.Helper()
	_, err := b.client.Fetch(t.Context(), robot)
	if err == nil {
		t.Fatal("got a value, want an error")
	}
	if strings.Contains(err.Error(), "secret@") || strings.Contains(err.Error(), clientSecret) {
		t.Errorf("error tells too much: %v", err)
	}
	return upstream.CodeOf(err)
}

func TestTheExamplesComeThrough(t *testing.T) {
	b := setup(t, false, senhaseguratest.Config{Modern: true}, nil)
	if got := b.password(t); got != "secret@2504" {
		t.Errorf("password %q, want the manual's", got)
	}
	for ref, field := range map[senhasegura.Ref]string{
		{Info: "INFOID5"}:   "content",
		{Application: true}: "secret_access_key",
		{Application: true, Identity: "application5"}: "my_key_name_2",
		{Credential: "credential_5@destktop-91.com"}:  "password",
	} {
		sec, err := b.client.Fetch(t.Context(), ref)
		if err != nil || len(sec.Fields[field].Reveal()) == 0 {
			t.Errorf("%+v: no %s: %v", ref, field, err)
		}
	}
	for range 2 { // the second is not held any more, which is as good
		if err := b.client.Release(t.Context(), "5"); err != nil {
			t.Error(err)
		}
	}
	if n := b.sim.Log.Count("POST", "/iso/oauth2/token"); n != 1 {
		t.Errorf("%d log-ins, want 1", n)
	}
}

func TestManyReadersLogInOnce(t *testing.T) {
	b := setup(t, false, senhaseguratest.Config{}, nil)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := b.client.Fetch(t.Context(), robot); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.sim.Log.Count("POST", "/iso/oauth2/token"); n != 1 {
		t.Errorf("%d log-ins, want 1", n)
	}
}

func TestARotationIsSeenAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, true, senhaseguratest.Config{}, nil)
		if err := b.sim.ChangeCredential("5", senhaseguratest.CredentialChange{RotateEvery: new(upstreamtest.Duration(20 * time.Second))}); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			before, err := b.client.Fetch(t.Context(), robot)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(before.Expires); left <= 0 || left > 20*time.Second {
				t.Fatalf("expires in %v, want at most 20s", left)
			}
			if before.TTL != 0 {
				t.Errorf("TTL %v beside an expiry, want none", before.TTL)
			}
			time.Sleep(time.Until(before.Expires) - time.Millisecond)
			if got := b.password(t); got != string(before.Fields["password"].Reveal()) {
				t.Error("changed before it expired")
			}
			time.Sleep(time.Millisecond)
			if got := b.password(t); got == string(before.Fields["password"].Reveal()) || !b.sim.Login("5", got) {
				t.Error("not the new password at the moment of expiry")
			}
		}
		b.http.Reset()
	})
}

func TestTheTokenIsKeptFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, true, senhaseguratest.Config{}, nil)
		if err := b.sim.ChangeAuthorization(clientID, senhaseguratest.AuthorizationChange{TokenLife: new(upstreamtest.Duration(time.Minute))}); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			b.password(t)
			time.Sleep(3 * time.Second)
		}
		for _, e := range b.sim.Log.Entries() {
			if e.Status != 200 {
				t.Errorf("%s %s: status %d; want no read with a dead token", e.Method, e.Path, e.Status)
			}
		}
		b.http.Reset()
	})
}

func TestWhatGoesWrongAndPasses(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail func(b *bed) error
		want upstream.Code // "" if the read succeeds nevertheless
		mend func(b *bed) error
	}{
		{"one 401", func(b *bed) error {
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 401, Path: "/iso/pam/*", Count: 1})
			return nil
		}, "", nil},
		{"tokens revoked", func(b *bed) error {
			return b.sim.ChangeAuthorization(clientID, senhaseguratest.AuthorizationChange{RevokeTokens: true})
		}, "", nil},
		{"token expired by the vault's clock", func(b *bed) error { b.sim.Clock.Advance(2 * time.Hour); return nil }, "", nil},
		{"one 502", func(b *bed) error {
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 502, Path: "/iso/pam/*", Count: 1})
			return nil
		}, "", nil},
		{"a reply lost", func(b *bed) error {
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Path: "/iso/pam/*", Count: 1})
			return nil
		}, "", nil},
		{"401 for good", func(b *bed) error {
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 401, Path: "/iso/pam/*"})
			return nil
		}, upstream.Unavailable, nil},
		{"429", func(b *bed) error {
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 429, RetryAfter: "30", Path: "/iso/pam/*"})
			return nil
		}, upstream.Unavailable, nil},
		{"500", func(b *bed) error {
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 500, Path: "/iso/pam/*"})
			return nil
		}, upstream.Unavailable, nil},
		{"cut off", func(b *bed) error {
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop, Path: "/iso/pam/*"})
			return nil
		}, upstream.Unavailable, nil},
		{"another vault answers", func(b *bed) error {
			b.http.Reset()
			b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultWrongCA})
			return nil
		}, upstream.Unavailable, nil},
		{"deactivated", func(b *bed) error {
			return b.sim.ChangeCredential("5", senhaseguratest.CredentialChange{Inactive: new(true)})
		}, upstream.NotFound, func(b *bed) error {
			return b.sim.ChangeCredential("5", senhaseguratest.CredentialChange{Inactive: new(false)})
		}},
		{"authorization switched off", func(b *bed) error {
			return b.sim.ChangeAuthorization(clientID, senhaseguratest.AuthorizationChange{Inactive: new(true)})
		}, upstream.Denied, nil},
		{"address not allowed any more", func(b *bed) error {
			return b.sim.ChangeAuthorization(clientID, senhaseguratest.AuthorizationChange{AllowedIPs: &[]string{"10.0.0.1"}})
		}, upstream.Denied, nil},
		{"an empty password", func(b *bed) error {
			return b.sim.ChangeCredential("5", senhaseguratest.CredentialChange{Password: new("")})
		}, upstream.Unavailable, func(b *bed) error {
			return b.sim.ChangeCredential("5", senhaseguratest.CredentialChange{Password: new("again")})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := setup(t, false, senhaseguratest.Config{}, nil)
			b.password(t)
			if err := tt.fail(b); err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				b.password(t)
				return
			}
			if got := b.code(t); got != tt.want {
				t.Errorf("code %s, want %s", got, tt.want)
			}
			b.sim.Faults.Clear()
			if tt.mend != nil {
				if err := tt.mend(b); err != nil {
					t.Fatal(err)
				}
				b.password(t)
			}
		})
	}
}

func TestTheClientCertificateIsShown(t *testing.T) {
	clients, err := upstreamtest.NewCA(upstreamtest.CAConfig{RSA: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := clients.Client("host1")
	if err != nil {
		t.Fatal(err)
	}
	cfg := senhaseguratest.Config{ClientCAs: clients.Pool()}
	if got := setup(t, false, cfg, cert).password(t); got != "secret@2504" {
		t.Errorf("password %q, want the manual's", got)
	}
	if got := setup(t, false, cfg, nil).code(t); got != upstream.Unavailable {
		t.Errorf("without a certificate: code %s, want unavailable", got)
	}
}

func TestAWrongSecretIsNotTheItemsFault(t *testing.T) {
	b := setup(t, false, senhaseguratest.Config{}, nil)
	if err := b.sim.ChangeAuthorization(clientID, senhaseguratest.AuthorizationChange{ClientSecret: new("another")}); err != nil {
		t.Fatal(err)
	}
	_, err := b.client.Fetch(t.Context(), robot)
	e, ok := errors.AsType[*upstream.Error](err)
	if !ok || e.Code != upstream.Unavailable || e.Status != http.StatusUnauthorized || e.Remedy == "" {
		t.Errorf("got %#v, want unavailable for HTTP 401, with a remedy", err)
	}
}

func TestNobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: url})
	if err != nil {
		t.Fatal(err)
	}
	c := senhasegura.New(senhasegura.Config{HTTP: h, ClientID: "x",
		ClientSecret: func() (secret.Value, error) { return secret.New([]byte("y")), nil }})
	if _, err := c.Fetch(t.Context(), robot); upstream.CodeOf(err) != upstream.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
}

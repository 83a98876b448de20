package ciphertrust_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust"
	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// asAdmin is a client that is logged in as admin.
func (b *bed) asAdmin() *ciphertrust.Client {
	cfg := b.cfg
	cfg.Keeper, cfg.Username = new(memKeeper), "admin"
	cfg.Password = func() (secret.Value, error) { return secret.New([]byte("admin")), nil }
	return ciphertrust.New(ciphertrust.Config{HTTP: b.http, Tokens: ciphertrust.NewLogin(cfg).Tokens()})
}

// csr makes a certificate request and its key.
func csr(t *testing.T, name string) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

func TestSecretsFollowTheirStateAndDates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.asAdmin()
		value := func(name string) (upstream.Secret, string, error) {
			s, err := c.Fetch(t.Context(), name)
			return s, string(s.Fields["value"].Reveal()), err
		}
		if s, v, err := value("mypass"); err != nil || v != "123456" || s.Version != "0" {
			t.Errorf("%+v %q %v", s, v, err)
		}
		if _, err := c.RotateSecret(t.Context(), "mypass", secret.New([]byte("654321"))); err != nil {
			t.Fatal(err)
		}
		if s, v, err := value("mypass"); err != nil || v != "654321" || s.Version != "1" {
			t.Errorf("%+v %q %v", s, v, err)
		}
		n := 0
		for s, err := range c.Versions(t.Context(), "mypass") {
			if err != nil || s.Name != "mypass" {
				t.Error(s, err)
			}
			n++
		}
		if n != 2 {
			t.Errorf("%d versions", n)
		}
		for _, kind := range []string{ciphertrust.TypeBlob, ciphertrust.TypeSeed, ciphertrust.TypePassword} {
			if _, err := c.CreateSecret(t.Context(), ciphertrust.NewSecret{Name: kind, DataType: kind, Value: secret.New([]byte("\x01\x7f~?"))}); err != nil {
				t.Fatal(err)
			}
			if _, v, err := value(kind); err != nil || v != "\x01\x7f~?" {
				t.Errorf("%s: %q %v", kind, v, err)
			}
		}
		if _, _, err := value("nosuch"); upstream.CodeOf(err) != upstream.NotFound {
			t.Error(err)
		}
		if err := c.DeleteSecret(t.Context(), "mypass"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := value("mypass"); upstream.CodeOf(err) != upstream.NotFound {
			t.Error(err)
		}
		b.server.Faults.Add(ciphertrusttest.Failure(429, 0))
		if _, _, err := value("blob"); upstream.CodeOf(err) != upstream.Unavailable {
			t.Error(err)
		}
	})
}

// Identities and certificates are issued here, found again when the answer was
// lost, and revoked with their key.
func TestIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.asAdmin()
		root := b.server.RootCA()
		der, key := csr(t, "host1")
		req := upstream.CertificateRequest{ID: "1", CSR: der, Options: upstream.Options{CA: root, Purpose: "client", Duration: 36 * time.Hour}}
		issued, err := c.Issue(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(issued.Chain[0])
		if err != nil || !key.PublicKey.Equal(leaf.PublicKey) || leaf.Subject.CommonName != "host1" {
			t.Fatal(leaf, err)
		}
		if left := time.Until(leaf.NotAfter); left > 36*time.Hour || left < 35*time.Hour {
			t.Errorf("lives for %v", left)
		}
		// Asked for again, it is the same one; renewed, with a CSR that may be the
		// same, it is one certificate more.
		if again, err := c.Issue(t.Context(), req); err != nil || !bytes.Equal(again.Chain[0], leaf.Raw) {
			t.Errorf("another certificate for the same request, or %v", err)
		}
		renewed, err := c.Issue(t.Context(), upstream.CertificateRequest{Kind: upstream.Renew, ID: "2", CSR: der, Options: req.Options})
		if err != nil || bytes.Equal(renewed.Chain[0], leaf.Raw) {
			t.Errorf("the same certificate for another request, or %v", err)
		}
		// The answer to a rotation is lost, and it is asked again.
		next, _ := csr(t, "host1")
		b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Method: "POST", Path: "*/certs", Count: 1})
		rotate := upstream.CertificateRequest{Kind: upstream.Rotate, ID: "3", CSR: next, Options: req.Options, Compromised: true,
			Current: &tls.Certificate{Certificate: issued.Chain, PrivateKey: key}}
		_, err = c.Issue(t.Context(), rotate)
		if e, ok := errors.AsType[*upstream.Error](err); !ok || !e.Sent {
			t.Fatal(err)
		}
		rotate.Uncertain = true
		if _, err := c.Issue(t.Context(), rotate); err != nil {
			t.Fatal(err)
		}
		active, revoked := 0, 0
		for got, err := range c.Certificates(t.Context(), root, nil) {
			switch {
			case err != nil:
				t.Fatal(err)
			case !strings.Contains(got.Subject, "host1"):
			case got.State == "revoked" && got.RevokedReason == "keyCompromise":
				revoked++
			default:
				active++
			}
		}
		if active != 1 || revoked != 2 {
			t.Errorf("%d active, %d revoked; want the new one, and both of the compromised key", active, revoked)
		}
		if _, err := c.Issue(t.Context(), upstream.CertificateRequest{ID: "4", CSR: next, Options: upstream.Options{CA: "nosuch"}}); upstream.CodeOf(err) != upstream.NotFound {
			t.Error(err)
		}
	})
}

// Both grants by client certificate, with the certificate shown in TLS.
func TestCertificateGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		admin := b.asAdmin()
		cert, err := b.server.CA.Client("robot")
		if err != nil {
			t.Fatal(err)
		}
		name := "CN=robot"
		if _, err := admin.CreateUser(t.Context(), ciphertrust.UserSettings{Username: "robot", CertificateDN: &name,
			AllowedAuthMethods: &[]string{"user_certificate"}}); err != nil {
			t.Fatal(err)
		}
		cfg := b.cfg
		cfg.HTTP, cfg.Keeper, cfg.Grant, cfg.Username, cfg.Password = b.http.With(cert), new(memKeeper), ciphertrust.GrantUserCertificate, "", nil
		l := ciphertrust.NewLogin(cfg)
		b.token(l)
		time.Sleep(10 * time.Minute)
		b.token(l)
		n := 0
		for _, k := range b.server.Tokens() {
			if k.Username == "robot" {
				n++
				if k.ExpiresAt.IsZero() {
					t.Error("a refresh token without end")
				}
			}
		}
		if n != 1 {
			t.Errorf("%d refresh tokens", n)
		}

		reg, err := admin.CreateRegistrationToken(t.Context(), ciphertrust.RegistrationTokenRequest{CA: b.server.RootCA(), Lifetime: "10h", MaxClients: 1})
		if err != nil {
			t.Fatal(err)
		}
		der, key := csr(t, "agent-7")
		client, err := admin.RegisterClient(t.Context(), secret.New([]byte(reg.Token)), "agent-7", pemOf(der))
		if err != nil {
			t.Fatal(err)
		}
		cfg.HTTP = b.http.With(&tls.Certificate{Certificate: [][]byte{derOf(client.Cert)}, PrivateKey: key})
		cfg.Grant, cfg.ClientID, cfg.Keeper = ciphertrust.GrantClientCredential, client.ID, nil
		l = ciphertrust.NewLogin(cfg)
		b.token(l)
		if _, err := l.Login(t.Context(), ciphertrust.LoginRequest{}); upstream.CodeOf(err) != upstream.Invalid {
			t.Error(err)
		}
	})
}

// Without a password a refresh token is replaced before its life is over.
func TestRefreshTokenIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.cfg.Password = nil
		l := ciphertrust.NewLogin(b.cfg)
		if _, err := l.Login(t.Context(), ciphertrust.LoginRequest{Password: secret.New([]byte(goodPassword)), Life: 3 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		first := b.live()[0].ID
		if had := b.keep(l, 150*time.Minute); had != 150 {
			t.Errorf("%d of 150 fetches succeeded", had)
		}
		if live := b.live(); len(live) != 1 || live[0].ID == first {
			t.Errorf("live tokens %+v", live)
		}
		b.token(ciphertrust.NewLogin(b.cfg)) // the new one was kept
	})
}

// A token that is refused is replaced and the call made once more, and no more.
func TestARefusedTokenIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.asAdmin()
		for _, tt := range []struct{ refusals, calls int }{{0, 1}, {1, 2}, {9, 2}} {
			b.server.Faults.Clear()
			b.server.Log.Clear()
			if tt.refusals > 0 {
				b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 401, Path: "/api/v1/usermgmt/*", Count: tt.refusals})
			}
			_, err := c.CreateGroup(t.Context(), ciphertrust.GroupSettings{Name: fmt.Sprintf("group-%d", tt.refusals)})
			if n := b.server.Log.Count("POST", "/api/v1/usermgmt/groups/"); n != tt.calls || (err == nil) != (tt.refusals < 2) {
				t.Errorf("refused %d times: %d calls, %v", tt.refusals, n, err)
			}
		}
	})
}

// What the server and the way to it do wrong: a read is made again where that
// may help, a change never.
func TestFaults(t *testing.T) {
	const ok = upstream.Code("")
	slow := upstreamtest.Fault{Kind: upstreamtest.FaultSlow, Delay: upstreamtest.Duration(time.Hour)}
	for _, tt := range []struct {
		name         string
		fault        upstreamtest.Fault
		read, change upstream.Code
		calls        int // that the read takes; 0 is any
	}{
		{"429", ciphertrusttest.Failure(429, 1), upstream.Unavailable, upstream.Busy, 1},
		{"500", ciphertrusttest.Failure(500, 1), upstream.Unavailable, upstream.Unavailable, 1},
		{"502", ciphertrusttest.Failure(502, 1), ok, upstream.Unavailable, 2},
		{"503", ciphertrusttest.Failure(503, 1), ok, upstream.Unavailable, 2},
		{"504", ciphertrusttest.Failure(504, 1), ok, upstream.Unavailable, 2},
		{"connection dropped", upstreamtest.Fault{Kind: upstreamtest.FaultDrop, Count: 1}, ok, upstream.Unavailable, 2},
		{"answer lost", upstreamtest.Fault{Kind: upstreamtest.FaultLost, Count: 1}, ok, upstream.Unavailable, 2},
		{"slow", slow, upstream.Unavailable, upstream.Unavailable, 0},
		{"another CA", upstreamtest.Fault{Kind: upstreamtest.FaultWrongCA}, upstream.Unavailable, upstream.Unavailable, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				c := b.asAdmin()
				if _, err := c.Self(t.Context()); err != nil { // there is an API token
					t.Fatal(err)
				}
				code := func(err error) upstream.Code {
					b.server.Faults.Clear()
					b.http.Reset()
					if err == nil {
						return ok
					}
					return upstream.CodeOf(err)
				}
				add := func() {
					synctest.Wait() // for the end of the call before, whose caller has gone
					b.server.Log.Clear()
					b.server.Faults.Add(tt.fault)
				}
				add()
				_, err := c.Fetch(t.Context(), "mypass")
				if got, n := code(err), len(b.server.Log.Entries()); got != tt.read || tt.calls > 0 && n != tt.calls {
					t.Errorf("read: %d calls, %v; want %d, %s", n, err, tt.calls, tt.read)
				}
				add()
				_, err = c.CreateGroup(t.Context(), ciphertrust.GroupSettings{Name: "g"})
				if got, n := code(err), len(b.server.Log.Entries()); got != tt.change || n > 1 {
					t.Errorf("change: %d calls, %v; want %s", n, err, tt.change)
				}
			})
		})
	}
}

// 10,000 users are paged through, each once, without holding them.
func TestLongListsStream(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 10,000 users")
	}
	var setup ciphertrusttest.Setup
	for i := range 10_000 {
		setup.Users = append(setup.Users, ciphertrusttest.User{Username: fmt.Sprintf("user-%05d", i), Name: strings.Repeat("x", 200)})
	}
	server, url := ciphertrusttest.Start(t, ciphertrusttest.Config{Setup: setup})
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "cm", URL: url, CAs: server.CA.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{T: t, server: server, http: h, cfg: ciphertrust.LoginConfig{HTTP: h, URL: url, Grant: ciphertrust.GrantPassword, Life: time.Hour, Idle: time.Hour}}
	c := b.asAdmin()
	seen := map[string]bool{}
	var first, last runtime.MemStats
	for u, err := range c.Users(t.Context(), ciphertrust.Filter{"username": "user-*"}) {
		if err != nil {
			t.Fatal(err)
		}
		seen[u.Username] = true
		switch len(seen) {
		case 1000:
			runtime.GC()
			runtime.ReadMemStats(&first)
		case 10_000:
			runtime.GC()
			runtime.ReadMemStats(&last)
		}
	}
	if len(seen) != 10_000 {
		t.Errorf("%d users", len(seen))
	}
	// The names in seen and the log of calls grow; the records themselves would
	// be ten times that.
	if grown := int64(last.HeapAlloc) - int64(first.HeapAlloc); grown > 4<<20 {
		t.Errorf("%d bytes more in memory", grown)
	}
	for _, err := range c.Users(t.Context(), ciphertrust.Filter{"shoe_size": "9"}) {
		if upstream.CodeOf(err) != upstream.Invalid {
			t.Error(err)
		}
	}
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func derOf(text string) []byte {
	block, _ := pem.Decode([]byte(text))
	return block.Bytes
}

package ciphertrusttest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestTokensSecretsAndCertificatesEndToEnd(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	a, login := c.login("admin", "admin")
	if !regexp.MustCompile(`^[A-Za-z0-9]{64}$`).MatchString(login.text("refresh_token")) {
		t.Errorf("refresh token %q, want 64 letters and digits", login.text("refresh_token"))
	}
	if got := a.want(200, "POST", "/vault/secrets/mypass/export?type=name", "").text("material"); got != "123456" {
		t.Errorf("material %q, want the manual's", got)
	}
	key := newKey(t)
	out := a.want(201, "POST", "/ca/local-cas/"+a.rootCA()+"/certs", js(object{
		"csr": request(t, key, pkix.Name{CommonName: "host1"}, "host1.example"), "purpose": "server", "duration": 30,
	}))
	cert := parsed(t, out.text("cert"))
	if _, err := cert.Verify(x509.VerifyOptions{Roots: c.sim.CA.Pool(), DNSName: "host1.example"}); err != nil {
		t.Error(err)
	}
	if out.text("serialNumber") != cert.SerialNumber.String() || out.text("subject") != "/CN=host1" {
		t.Errorf("serial %q, subject %q", out.text("serialNumber"), out.text("subject"))
	}
	if !near(cert.NotBefore, time.Now().Add(-24*time.Hour)) || !near(cert.NotAfter, time.Now().AddDate(0, 0, 30)) {
		t.Errorf("valid from %v until %v, want from 24 h ago for 30 days", cert.NotBefore, cert.NotAfter)
	}
}

func TestJWTHasTheClaimsOfTheProduct(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	_, out := c.login("admin", "admin")
	parts := strings.Split(out.text("jwt"), ".")
	if len(parts) != 3 {
		t.Fatalf("jwt %q", out.text("jwt"))
	}
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	if string(header) != `{"alg":"HS256","typ":"JWT"}` {
		t.Errorf("header %s", header)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var p object
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	cust, _ := p["cust"].(map[string]any)
	if p["sub"] != "local|917b53fc-d209-4895-babe-76c711e429dc" || p["iss"] != "kylo" || p["acc"] != "kylo" || p["preferred_username"] != "admin" {
		t.Errorf("payload %s", payload)
	}
	if cust["sid"] != out["client_id"] || cust["domain_name"] != "root" || js(cust["groups"]) != `["All Clients","admin"]` {
		t.Errorf("cust %v, client_id %v", cust, out["client_id"])
	}
	if p["exp"].(float64)-p["iat"].(float64) != 300 || out["duration"] != 300.0 || out["token_type"] != "Bearer" {
		t.Errorf("life %v to %v, answer %v", p["iat"], p["exp"], out)
	}
	for _, name := range []string{"aud", "jwtid"} {
		if !uuidPattern.MatchString(p.text(name)) {
			t.Errorf("%s %q: no UUID", name, p.text(name))
		}
	}
}

func TestStateOutlivesAKill(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	first := start(t, Config{StateFile: file, Setup: Examples()})
	a, out := first.login("maya", "Maya-2504")
	a.want(201, "POST", "/vault/secrets", `{"name":"mine","dataType":"password","material":"x"}`)

	second := start(t, Config{StateFile: file})
	b := *second
	b.jwt = a.jwt // as the client still has it
	if got := b.want(200, "POST", "/vault/secrets/mine/export", "").text("material"); got != "x" {
		t.Errorf("material %q", got)
	}
	second.want(200, "POST", "/auth/tokens", js(object{"refresh_token": out.text("refresh_token")}))
}

func TestARotatedAuthKeyIsUsedAfterARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	c := start(t, Config{StateFile: file})
	a := c.admin()
	a.refused(400, 9, badValue, "POST", "/auth/rotate-auth-key", `{"type":"rsa"}`)
	for _, tt := range []struct{ body, alg, kind string }{
		{`{"type":"ecdsa","curve":"p384"}`, "ES384", "ecdsa"}, {`{"type":"ecdsa"}`, "ES256", "ecdsa"}, {``, "HS256", "hmac"},
	} {
		a.want(200, "POST", "/auth/rotate-auth-key", tt.body)
		a.want(200, "GET", "/auth/self/user", "")
		old := a.jwt
		c = start(t, Config{StateFile: file})
		stale := *c
		stale.jwt = old
		stale.refused(401, 1, badToken, "GET", "/auth/self/user", "")
		a = c.admin()
		if header, _ := base64.RawURLEncoding.DecodeString(strings.SplitN(a.jwt, ".", 2)[0]); !strings.Contains(string(header), `"alg":"`+tt.alg+`"`) {
			t.Errorf("%s: header %s", tt.body, header)
		}
		if got := a.want(200, "GET", "/auth/auth-key", ""); got["type"] != tt.kind || (got["jwk"] != nil) != (tt.kind == "ecdsa") {
			t.Errorf("%s: %v", tt.body, got)
		}
	}
}

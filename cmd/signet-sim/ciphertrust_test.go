package main

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cipherTrustLogin logs a user in at the CipherTrust Manager by a form.
func (p *process) cipherTrustLogin(g *guest, form url.Values) (int, map[string]any) {
	p.t.Helper()
	return g.call("POST", p.CipherTrust.URL+"/api/v1/auth/tokens/", form, "", "")
}

func TestAKilledCipherTrustManagerComesBackTheSame(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	p := start(t, dir)
	password, err := os.ReadFile(p.CipherTrust.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	g := visit(t, nil, p.CipherTrust.CAFile)
	byPassword := url.Values{"grant_type": {"password"}, "username": {p.CipherTrust.Username}, "password": {string(password)}}
	status, out := p.cipherTrustLogin(g, byPassword)
	if status != 200 {
		t.Fatalf("log-in: status %d: %v", status, out)
	}
	if status, _, stderr := operate(t, dir, "second", "ciphertrust", "secret", "rotate", p.CipherTrust.Secret); status != 0 {
		t.Fatalf("rotate: %s", stderr)
	}
	jwt, refresh := out["jwt"].(string), out["refresh_token"].(string)
	for range 2 {
		before := p.endpoints
		p.kill()
		p = start(t, dir)
		if p.endpoints != before {
			t.Fatalf("endpoints %+v, before %+v", p.endpoints, before)
		}
		status, out := g.call("POST", p.CipherTrust.URL+"/api/v1/vault/secrets/"+p.CipherTrust.Secret+"/export?type=name", nil, "", jwt)
		if status != 200 || out["material"] != "second" || out["version"] != 1.0 {
			t.Errorf("export by a JWT from before: status %d: %v", status, out)
		}
		if status, out := p.cipherTrustLogin(g, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}); status != 200 {
			t.Errorf("refresh: status %d: %v", status, out)
		}
	}
	if strings.Contains(p.ready, strings.TrimSpace(string(password))) {
		t.Error("the ready line tells the password")
	}
}

func TestCipherTrustOperatorsCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	p := start(t, dir)
	g := visit(t, nil, p.CipherTrust.CAFile)
	login := func(user, password string) int {
		status, _ := p.cipherTrustLogin(g, url.Values{"grant_type": {"password"}, "username": {user}, "password": {password}})
		return status
	}
	for _, tt := range []struct {
		args   string
		stdin  string
		status int
		stdout string // part of it
		stderr string // part of it
	}{
		{"user add ops --group CA_Admins", "x", 1, "", `user "ops": no group "CA_Admins"`},
		{"user add ops --group admin", "first", 0, "", ""},
		{"user password ops", "other\n", 0, "", ""},
		{"user lock maya", "", 0, "", ""},
		{"user lock nobody", "", 1, "", `user "nobody": not found`},
		{"secret add db", "s3cret", 0, "", ""},
		{"secret add db", "s3cret", 1, "", `secret "db": there is one already`},
		{"secret rotate nothing", "x", 1, "", `secret "nothing": not found`},
		{"property MAXIMUM_REFRESH_TOKEN_LIFETIME 12h", "", 0, "", ""},
		{"property MAXIMUM_REFRESH_TOKEN_LIFETIME soon", "", 1, "", `"soon" is not allowed here`},
		{"mistake other-key expired", "", 0, "", ""},
		{"mistake none", "", 0, "", ""},
		{"mistake colour", "", 1, "", `mistake "colour": want one of other-key`},
		{"crl " + p.CipherTrust.CA, "", 0, "-----BEGIN X509 CRL-----", ""},
		{"crl nobody", "", 1, "", `local CA "nobody": not active`},
		{"token revoke nothing", "", 1, "", `token "nothing": not there`},
	} {
		status, stdout, stderr := operate(t, dir, tt.stdin, append([]string{"ciphertrust"}, strings.Fields(tt.args)...)...)
		if status != tt.status || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) || (status == 0) != (stderr == "") {
			t.Errorf("%s: status %d, %q, %q; want %d, %q, %q", tt.args, status, stdout, stderr, tt.status, tt.stdout, tt.stderr)
		}
	}
	if a, b := login("ops", "first"), login("ops", "other"); a != 401 || b != 200 {
		t.Errorf("old password: %d, new one: %d", a, b)
	}
	if got := login("maya", "Maya-2504"); got != 401 {
		t.Errorf("a locked user: status %d", got)
	}
	if status, _, stderr := operate(t, dir, "", "ciphertrust", "user", "unlock", "maya"); status != 0 {
		t.Error(stderr)
	}
	if got := login("maya", "Maya-2504"); got != 200 {
		t.Errorf("an unlocked user: status %d", got)
	}
	if _, stdout, _ := operate(t, dir, "", "ciphertrust", "token", "list"); strings.Count(stdout, " true ") != 2 || strings.Contains(stdout, "never") {
		t.Errorf("tokens:\n%s\nwant two that are live and end", stdout)
	}
	if _, stdout, _ := operate(t, dir, "", "ciphertrust", "token", "revoke"); stdout != "2 revoked\n" {
		t.Errorf("revoked: %q", stdout)
	}
	if _, stdout, _ := operate(t, dir, "", "log", "ciphertrust", "--product"); !strings.Contains(stdout, "NCERRUnauthorizedAccess") {
		t.Errorf("records:\n%s", stdout)
	}
}

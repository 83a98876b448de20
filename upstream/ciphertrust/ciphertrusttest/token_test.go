package ciphertrusttest

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The refresh tokens that the manual prints.
const (
	manualToken    = "e7UySu7fj8ZAwPKVIjEGwOTmt8AidxFHK8Wc4tL0RiaHVf7sd3oBQ74y2M8pPhNI"
	cutToken       = "e7UySu7fj8ZAwPKVIjEGwOTmt8AidxFHK8Wc4tL0RiaHVf7sd3oBQ74y2M8pPhN" // printed one character short
	rotatedToken   = "cIb6w1PzazBnJM35v9QyP6LWN70lGnGfNVUMGQfzjrcY8Hfv9cJjuMIXFHqNIo9g"
	ksctlToken     = "icmtiodYvNfCAr5XXXODlgJjATkYPpYs3oHRXXXCdGWhGpSXXX70x3AQF1tkcpGO"
	ksctlClient    = "ffbbd794-68a3-4da9-83bc-9b0dd7a3ee48"
	badCredentials = "NCERRUnauthorizedAccess"
	badToken       = "NCERRUnauthorized"
)

// names are the fields of an object, sorted by js.
func (o object) has(names ...string) bool {
	if len(o) != len(names) {
		return false
	}
	for _, n := range names {
		if _, ok := o[n]; !ok {
			return false
		}
	}
	return true
}

func TestManualsTokenExamples(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	// ksctl tokens create --user admin --password admin --issue-rt
	_, out := c.login("admin", "admin")
	if !out.has("jwt", "duration", "token_type", "client_id", "refresh_token_id", "refresh_token") {
		t.Errorf("password: %v", out)
	}
	// ksctl tokens create --refresh-token ...
	out = c.want(200, "POST", "/auth/tokens/", js(object{"grant_type": "refresh_token", "refresh_token": manualToken}))
	if !out.has("jwt", "duration", "token_type") || out["duration"] != 300.0 || out["token_type"] != "Bearer" {
		t.Errorf("refresh: %v, want what the manual prints", out)
	}
	c.refused(401, 1, badToken, "POST", "/auth/tokens", js(object{"refresh_token": cutToken}))
	// ksctl tokens create --issue-rt --refresh-token ...
	renew := js(object{"refresh_token": rotatedToken, "renew_refresh_token": true})
	out = c.want(200, "POST", "/auth/tokens", renew)
	next := out.text("refresh_token")
	if !regexp.MustCompile(`^[A-Za-z0-9]{64}$`).MatchString(next) || next == rotatedToken || out["duration"] != 300.0 {
		t.Errorf("renewal: %v", out)
	}
	c.refused(401, 1, badToken, "POST", "/auth/tokens", renew)
	c.want(200, "POST", "/auth/tokens", js(object{"refresh_token": next}))
	// ksctl logout
	c.want(204, "POST", "/auth/revoke", js(object{"token": ksctlToken, "client_id": ksctlClient}))
	c.refused(401, 1, badToken, "POST", "/auth/tokens", js(object{"refresh_token": ksctlToken}))
	c.refused(401, 1, badToken, "POST", "/auth/revoke", js(object{"token": ksctlToken, "client_id": ksctlClient}))
}

func TestGrantsAreAskedForRightly(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	for _, tt := range []struct {
		name, body string
		status     int
		code       int
		symbol     string
	}{
		{"wrong password", `{"username":"admin","password":"nimda"}`, 401, 5, badCredentials},
		{"no such user", `{"username":"nobody","password":"admin"}`, 401, 5, badCredentials},
		{"another directory", `{"username":"admin","password":"admin","connection":"ldap"}`, 401, 5, badCredentials},
		{"the directory in the name wins", `{"username":"ldap|admin","password":"admin","connection":"local_account"}`, 401, 5, badCredentials},
		{"no such domain", `{"username":"admin","password":"admin","domain":"elsewhere"}`, 401, 1, badToken},
		{"no password", `{"grant_type":"password","username":"admin"}`, 400, 9, "NCERRInvalidParamValue"},
		{"grant in the plural", `{"grant_type":"client_credentials","client_id":"x"}`, 400, 9, "NCERRInvalidParamValue"},
		{"password with a refresh token", `{"grant_type":"refresh_token","refresh_token":"x","password":"y"}`, 400, 9, "NCERRInvalidParamValue"},
		{"refresh token with a password", `{"username":"admin","password":"admin","grant_type":"password","refresh_token":"x"}`, 400, 9, "NCERRInvalidParamValue"},
		{"no refresh token", `{"grant_type":"refresh_token"}`, 400, 9, "NCERRInvalidParamValue"},
		{"client without id", `{"grant_type":"client_credential"}`, 400, 9, "NCERRInvalidParamValue"},
		{"client in a domain", `{"grant_type":"client_credential","client_id":"x","domain":"root"}`, 400, 9, "NCERRInvalidParamValue"},
		{"no certificate", `{"grant_type":"user_certificate"}`, 401, 5, badCredentials},
		{"old flag", `{"username":"admin","password":"admin","issueRefreshToken":true}`, 400, 9, "NCERRInvalidParamValue"},
		{"name in another case", `{"Username":"admin","password":"admin"}`, 400, 9, "NCERRInvalidParamValue"},
		{"lifetime as text", `{"username":"admin","password":"admin","refresh_token_lifetime":"30m"}`, 400, 9, "NCERRInvalidParamValue"},
		{"negative lifetime", `{"username":"admin","password":"admin","refresh_token_lifetime":-1}`, 400, 9, "NCERRInvalidParamValue"},
		{"no JSON", `username=admin`, 400, 15, "NCERRBadRequest"},
		{"no object", `[]`, 400, 15, "NCERRBadRequest"},
		{"nothing", ` `, 400, 15, "NCERRBadRequest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := *c
			c.T = t
			out := c.refused(tt.status, tt.code, tt.symbol, "POST", "/auth/tokens", tt.body)
			if tt.code == 5 && out["message"] != "Wrong username or password." && out["message"] != "Invalid Client" {
				t.Errorf("message %v", out["message"])
			}
		})
	}
	for _, body := range []string{
		`{"username":"admin","password":"admin"}`,
		`{"name":"admin","password":"admin"}`,
		`{"username":"local_account|admin","password":"admin"}`,
		`{"username":"admin","password":"admin","domain":"root","auth_domain":"root","auth_domain_path":"root"}`,
		`{"username":"admin","password":"admin","domain":"00000000-0000-0000-0000-000000000000"}`,
	} {
		c.want(200, "POST", "/auth/tokens", body)
	}
	resp, text := c.send("POST", base+"/auth/tokens", "application/x-www-form-urlencoded", "grant_type=password&username=admin&password=admin&refresh_token_lifetime=5")
	if resp.StatusCode != 200 || !strings.Contains(text, `"refresh_token_expires_in":`) {
		t.Errorf("a form: HTTP %d %s", resp.StatusCode, text)
	}
	if resp, _ := c.send("POST", base+"/auth/tokens", "text/plain", `{"username":"admin","password":"admin"}`); resp.StatusCode != 400 {
		t.Errorf("text/plain: HTTP %d", resp.StatusCode)
	}
	if resp, _ := c.send("GET", base+"/auth/tokens", "", ""); resp.StatusCode != 401 {
		t.Errorf("a list without token: HTTP %d", resp.StatusCode)
	}
}

func TestModernReleaseAnswersCode1(t *testing.T) {
	c := start(t, Config{Modern: true})
	c.refused(401, 1, badToken, "POST", "/auth/tokens", `{"username":"admin","password":"nimda"}`)
}

func TestJWTLivesFiveMinutes(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	c.sim.Clock.Advance(298 * time.Second)
	a.want(200, "GET", "/auth/self/user", "")
	c.sim.Clock.Advance(3 * time.Second)
	a.refused(401, 1, badToken, "GET", "/auth/self/user", "")
	for name, jwt := range map[string]string{
		"signed by somebody else": a.jwt[:len(a.jwt)-3] + "AAA", "unsigned": a.jwt[:strings.LastIndex(a.jwt, ".")+1], "empty": "", "no JWT": "x",
	} {
		bad := *c
		bad.jwt = jwt
		if status, _ := bad.call("GET", "/auth/self/user", ""); status != 401 {
			t.Errorf("%s: HTTP %d", name, status)
		}
	}
	if resp, _ := a.send("GET", base+"/auth/self/user", "", "", "Authorization", "Basic YWRtaW46YWRtaW4="); resp.StatusCode != 401 {
		t.Errorf("Basic: HTTP %d", resp.StatusCode)
	}
}

// refreshable logs in as asked and returns how the refresh token is used.
func (c tester) refreshable(fields object) (use func() int, out object) {
	c.Helper()
	fields["username"], fields["password"] = "admin", "admin"
	out = c.want(200, "POST", "/auth/tokens", js(fields))
	body := js(object{"refresh_token": out["refresh_token"]})
	return func() int { status, _ := c.call("POST", "/auth/tokens", body); return status }, out
}

func TestRefreshTokensEnd(t *testing.T) {
	c := start(t, Config{})
	t.Run("idle", func(t *testing.T) {
		use, out := c.refreshable(object{"refresh_token_revoke_unused_in": 30})
		if s := out["refresh_token_expires_in"].(float64); s < 1790 || s > 1800 {
			t.Errorf("expires in %v s, want 1800 or a little less", s)
		}
		for range 3 { // every use gives it 30 minutes more
			c.sim.Clock.Advance(29 * time.Minute)
			if got := use(); got != 200 {
				t.Fatalf("used in time: HTTP %d", got)
			}
		}
		c.sim.Clock.Advance(31 * time.Minute)
		if got := use(); got != 401 {
			t.Errorf("idle too long: HTTP %d", got)
		}
	})
	t.Run("absolute", func(t *testing.T) {
		use, _ := c.refreshable(object{"refresh_token_lifetime": 60, "refresh_token_revoke_unused_in": 40})
		c.sim.Clock.Advance(35 * time.Minute)
		if got := use(); got != 200 {
			t.Fatalf("used in time: HTTP %d", got)
		}
		c.sim.Clock.Advance(26 * time.Minute)
		if got := use(); got != 401 {
			t.Errorf("beyond its life: HTTP %d", got)
		}
	})
	t.Run("never", func(t *testing.T) {
		use, out := c.refreshable(object{})
		if _, ok := out["refresh_token_expires_in"]; ok {
			t.Errorf("without limits: %v", out)
		}
		c.sim.Clock.Advance(10 * 365 * 24 * time.Hour)
		if got := use(); got != 200 {
			t.Errorf("HTTP %d", got)
		}
		c.sim.Clock.SetOffset(0)
	})
	t.Run("renewal keeps the absolute end", func(t *testing.T) {
		_, out := c.refreshable(object{"refresh_token_lifetime": 60})
		c.sim.Clock.Advance(50 * time.Minute)
		out = c.want(200, "POST", "/auth/tokens", js(object{"refresh_token": out["refresh_token"], "renew_refresh_token": true}))
		if s := out["refresh_token_expires_in"].(float64); s < 590 || s > 600 {
			t.Errorf("expires in %v s, want 600 or a little less", s)
		}
		c.sim.Clock.Advance(11 * time.Minute)
		c.refused(401, 1, badToken, "POST", "/auth/tokens", js(object{"refresh_token": out["refresh_token"]}))
	})
}

func TestMaximumRefreshTokenLifetimeCapsEveryToken(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	const path = "/configs/properties/MAXIMUM_REFRESH_TOKEN_LIFETIME"
	if out := a.want(200, "GET", path, ""); out["value"] != "" || out.text("description") == "" {
		t.Errorf("not set: %v", out)
	}
	for value, most := range map[string]float64{"90m": 5400, "2h": 7200, "1d": 86400, "10": 600} {
		if out := a.want(200, "PATCH", path, js(object{"value": value})); out["value"] != value {
			t.Errorf("set to %s: %v", value, out)
		}
		for _, asked := range []int{0, 1 << 20} {
			_, out := c.refreshable(object{"refresh_token_lifetime": asked})
			if s, _ := out["refresh_token_expires_in"].(float64); s > most || s < most-10 {
				t.Errorf("cap %s, asked for %d min: expires in %v s, want %v", value, asked, s, most)
			}
		}
		if _, out := c.refreshable(object{"refresh_token_lifetime": 5}); out["refresh_token_expires_in"].(float64) > 300 {
			t.Errorf("cap %s: less was asked for: %v", value, out)
		}
	}
	a.refused(400, 9, "NCERRInvalidParamValue", "PATCH", path, `{"value":"soon"}`)
	a.refused(400, 9, "NCERRInvalidParamValue", "PATCH", path, `{"value":5}`)
	if out := a.want(200, "POST", path+"/reset", ""); out["value"] != "" {
		t.Errorf("reset: %v", out)
	}
}

func TestRefreshForAnotherDomainRevokes(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	self := a.want(200, "GET", "/auth/self/user", "")
	a.want(201, "POST", "/domains", js(object{"name": "plant", "admins": []any{self["user_id"]}}))
	if got := len(a.want(200, "GET", "/auth/self/domains", "").list()); got != 2 {
		t.Errorf("%d domains, want 2", got)
	}
	plant := c.want(200, "POST", "/auth/tokens", `{"username":"admin","password":"admin","domain":"plant"}`)
	p := *c
	p.jwt = plant.text("jwt")
	p.want(201, "POST", "/vault/secrets", `{"name":"local","dataType":"password","material":"x"}`)
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/vault/secrets/local", "")

	_, out := c.refreshable(object{})
	same := js(object{"refresh_token": out["refresh_token"], "domain": "root"})
	c.want(200, "POST", "/auth/tokens", same)
	c.refused(401, 1, badToken, "POST", "/auth/tokens", js(object{"refresh_token": out["refresh_token"], "domain": "plant"}))
	c.refused(401, 1, badToken, "POST", "/auth/tokens", same)
}

func TestRefreshTokenIsBoundToItsClient(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	c.refused(401, 1, badToken, "POST", "/auth/tokens", js(object{"refresh_token": ksctlToken, "client_id": uuid()}))
	c.want(200, "POST", "/auth/tokens", js(object{"refresh_token": ksctlToken, "client_id": ksctlClient}))
	c.refused(401, 1, badToken, "POST", "/auth/revoke", js(object{"token": ksctlToken, "client_id": uuid()}))
	c.refused(400, 9, "NCERRInvalidParamValue", "POST", "/auth/revoke", js(object{"token": ksctlToken}))
	c.refused(401, 5, badCredentials, "POST", "/auth/revoke", js(object{"token": ksctlToken, "username": "admin", "password": "x"}))
	c.refused(401, 1, badToken, "POST", "/auth/revoke", js(object{"token": ksctlToken, "username": "maya", "password": "Maya-2504"}))
	c.want(204, "POST", "/auth/revoke", js(object{"refresh_token": ksctlToken, "username": "admin", "password": "admin"}))
	_, out := c.refreshable(object{"client_id": "my-agent"})
	if out["client_id"] != "my-agent" {
		t.Errorf("client_id %v", out["client_id"])
	}
}

func TestTokenAdministration(t *testing.T) {
	c := start(t, Config{Setup: Setup{Users: []User{{Username: "maya", Password: "Maya-2504"}}}})
	_, first := c.refreshable(object{"labels": []string{"hostagent", "host1"}, "refresh_token_lifetime": 60, "refresh_token_revoke_unused_in": 60})
	c.refreshable(object{"labels": []string{"hostagent"}, "refresh_token_lifetime": 5})
	_, gone := c.refreshable(object{})
	c.want(204, "POST", "/auth/revoke", js(object{"token": gone["refresh_token"], "client_id": gone["client_id"]}))
	_, mine := c.login("maya", "Maya-2504")
	c.sim.Clock.Advance(10 * time.Minute)
	a := c.admin()
	for query, want := range map[string]int{
		"": 3, "?expired=true": 4, "?revoked=true": 4, "?expired=true&revoked=true": 5,
		"?labels=hostagent": 1, "?labels=hostagent&expired=true": 2, "?labels=hostagent,host1": 1, "?labels=other": 0,
		"?refreshed_before=-5m": 2, "?refreshed_before=-1Y-2M-5D": 0, "?refreshed_before=2100-01-01T00:00:00Z": 3,
		"?limit=1": 3,
	} {
		if got := a.want(200, "GET", "/auth/tokens/"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v tokens, want %d", query, got, want)
		}
	}
	a.refused(400, 9, "NCERRInvalidParamValue", "GET", "/auth/tokens/?refreshed_before=yesterday", "")
	id := first.text("refresh_token_id")
	one := a.want(200, "GET", "/auth/tokens/"+id, "")
	if !one.has("id", "uri", "account", "createdAt", "user_id", "client_id", "labels", "refreshedAt", "expiresAt", "revoked", "expired", "revoke_unused_in") {
		t.Errorf("record %v", one)
	}
	if one["uri"] != "kylo:kylo:auth:tokens:"+id || one["account"] != accountURI || one["revoke_unused_in"] != 60.0 || js(one["labels"]) != `["hostagent","host1"]` {
		t.Errorf("record %v", one)
	}
	if strings.Contains(js(a.want(200, "GET", "/auth/tokens/?limit=0", "")), first.text("refresh_token")) {
		t.Error("the list tells the token")
	}
	m, _ := c.login("maya", "Maya-2504")
	if got := m.want(200, "GET", "/auth/tokens", "")["total"]; got != 2.0 {
		t.Errorf("maya sees %v tokens, want her 2", got)
	}
	m.refused(404, 16, "NCERRResourceNotFound", "DELETE", "/auth/tokens/"+id, "")
	m.want(204, "DELETE", "/auth/tokens/"+mine.text("refresh_token_id"), "")
	a.want(204, "DELETE", "/auth/tokens/"+id, "")
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/auth/tokens/"+id, "")
	c.refused(401, 1, badToken, "POST", "/auth/tokens", js(object{"refresh_token": first["refresh_token"]}))
}

func TestCookiesInsteadOfTheBody(t *testing.T) {
	c := start(t, Config{})
	resp, text := c.send("POST", base+"/auth/tokens", "application/json", `{"username":"admin","password":"admin","cookies":true,"labels":["web-ui"]}`)
	if resp.StatusCode != 200 || strings.Contains(text, "jwt") || strings.Contains(text, `"refresh_token"`) {
		t.Errorf("HTTP %d %s", resp.StatusCode, text)
	}
	cookies := map[string]*http.Cookie{}
	for _, k := range resp.Cookies() {
		cookies[k.Name] = k
	}
	if k := cookies["jwt"]; k == nil || !k.Secure || !k.HttpOnly || cookies["refresh_token"] == nil {
		t.Errorf("cookies %v", resp.Header["Set-Cookie"])
	}
}

func TestWhatEndsALoginAndHowItComesBack(t *testing.T) {
	c := start(t, Config{})
	for name, tt := range map[string]struct{ end, back func() error }{
		"password changed": {func() error { return c.sim.SetPassword("admin", "other") }, func() error { return c.sim.SetPassword("admin", "admin") }},
		"user locked":      {func() error { return c.sim.Lock("admin") }, func() error { return c.sim.Unlock("admin") }},
		"tokens revoked":   {func() error { _, err := c.sim.RevokeTokens(""); return err }, func() error { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			use, _ := c.refreshable(object{})
			a := c.admin()
			if err := tt.end(); err != nil {
				t.Fatal(err)
			}
			if got := use(); got != 401 {
				t.Errorf("refresh: HTTP %d", got)
			}
			a.want(200, "GET", "/auth/self/user", "") // a JWT lasts until its end
			if err := tt.back(); err != nil {
				t.Fatal(err)
			}
			c.admin()
		})
	}
}

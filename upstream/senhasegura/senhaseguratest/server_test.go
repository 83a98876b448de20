package senhaseguratest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

const (
	clientID = "3ca8a98d907543812334f7f5dbafcfa6505e3319f"
	password = "849f0fea424d795e0a8625e17dbea6a0"
)

// A caller makes raw calls.
type caller struct {
	t    *testing.T
	url  string
	http *http.Client
	sim  *Server
}

// start starts a simulator of the examples, changed by change.
func start(t *testing.T, change func(*Config)) *caller {
	t.Helper()
	cfg := Config{Vault: Examples(clientID, password)}
	if change != nil {
		change(&cfg)
	}
	sim, url, ca := Start(t, cfg)
	return &caller{t, url, client(t, ca, nil), sim}
}

func client(t *testing.T, ca *upstreamtest.CA, cert *tls.Certificate) *http.Client {
	cfg := &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// do makes a call with headers given as name, value, ...
func (c *caller) do(method, path, body string, headers ...string) (int, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

const form = "application/x-www-form-urlencoded"

func basic(id, pass string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+pass))
}

// login gets an access token.
func (c *caller) login() string {
	c.t.Helper()
	status, body := c.do("POST", "/iso/oauth2/token", "grant_type=client_credentials", "Authorization", basic(clientID, password), "Content-Type", form)
	var tok struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &tok); err != nil || status != 200 || tok.AccessToken == "" {
		c.t.Fatalf("log-in: %d %s", status, body)
	}
	return "Bearer " + tok.AccessToken
}

// get reads with the given token.
func (c *caller) get(path, token string) (int, string) {
	c.t.Helper()
	return c.do("GET", path, "", "Authorization", token)
}

// want compares an answer with the JSON expected.
func (c *caller) want(status int, body string, wantStatus int, wantBody string) {
	c.t.Helper()
	var got, want any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		c.t.Fatalf("answer %d is not JSON: %s", status, body)
	}
	if err := json.Unmarshal([]byte(wantBody), &want); err != nil {
		c.t.Fatal(err)
	}
	if status != wantStatus {
		c.t.Errorf("status %d, want %d", status, wantStatus)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		c.t.Errorf("body (-got +want):\n%s", diff)
	}
}

// refused is an error as the manual prints it.
func refused(status, code, message string) string {
	exception := ""
	if code != "" {
		exception = `, "exception": {"code": ` + code + `, "message": "` + message + `", "detail": null}`
	}
	return `{"response": {"status": ` + status + `, "mensagem": "` + message + `", "erro": true, "message": "` + message + `", "error": true}` + exception + `}`
}

const gatewayBody = `{"message":"no Route matched with those values"}`

func TestAnswersAreTheManualsOwn(t *testing.T) {
	c := start(t, nil)
	token := c.login()
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/iso/pam/credential/5", 200, `{"response": {"status": 200, "mensagem": "Credential 5", "erro": false, "message": "Credential 5", "error": false},
			"credential": {"id": "5", "tag": "robot-test-5", "username": "credential_5", "password": "secret@2504", "content": "secret@2504",
			"hostname": "destktop-91.com", "parent_credential_cod": null, "parent_credential": null, "additional": "CREDADD01", "domain": "",
			"ip": "172.10.10.90", "port": "22", "model": "Ubuntu", "expiration_time": "2021-01-16T17:31:39"}}`},
		{"GET", "/iso/pam/credential/7", 400, refused("400", "1007", "1007: Credential not found")},
		{"GET", "/iso/pam/info/INFOID5", 200, `{"response": {"status": 200, "mensagem": "Information 20", "erro": false, "message": "Information 20", "error": false},
			"info": {"id": "20", "tag": "INFOID5", "type": "Access credential", "content": "INFOCONTENTNDIGH"}}`},
		{"GET", "/iso/pam/info/none", 400, refused("400", "1023", "1023: Information not found")},
		{"GET", "/iso/dapp/application", 200, `{"response": {"status": 200, "mensagem": "Application 5", "erro": false, "message": "Application 5", "error": false},
			"application": {"name": "postman", "description": null, "tags": [""], "system": "back", "environment": "test", "secrets": [
			{"secret_id": "106", "secret_name": "application5", "identity": "application5", "version": "", "expiration_date": "", "engine": "Kubernetes", "data": [
			{"hostname": "application5_v_test", "username": "ADMIN_V_USR", "password": "ADMIN_V_PW", "additional_information": "ADMIN_V_SCHEMA"},
			{"access_key_id": "LKU5YC6QWAT487S4KEK", "secret_access_key": "sack10821du07f9sacfsdaasdf", "TTL": null},
			{"my_key_name": "my_key_value", "my_key_name_2": "my_key_value_2"}]}]}}`},
		{"DELETE", "/iso/pam/credential/custody/5", 200, `{"response": {"status": 200, "mensagem": "Credential custody 5 released", "erro": false, "message": "Credential custody 5 released", "error": false}}`},
		{"DELETE", "/iso/pam/credential/custody/5", 400, refused("400", "1018", "1018: The credential is not in the user custody")},
		{"DELETE", "/iso/pam/credential/custody/7", 400, refused("400", "1007", "1007: Credential not found")},
		{"GET", "/iso/pam/nothing", 404, refused("404", "", "Resource/sub-resource not found")},
		{"GET", "/iso/pam/credential/", 404, refused("404", "", "Resource/sub-resource not found")},
		{"POST", "/iso/pam/credential/5", 404, refused("404", "", "Resource/sub-resource not found")},
		{"GET", "/elsewhere", 404, gatewayBody},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			c := &caller{t, c.url, c.http, c.sim}
			status, body := c.do(tt.method, tt.path, "", "Authorization", token)
			c.want(status, body, tt.status, tt.body)
		})
	}
}

func TestNewerReleasesHaveALongerEnvelope(t *testing.T) {
	c := start(t, func(cfg *Config) { cfg.Modern = true })
	token := c.login()
	status, body := c.get("/iso/pam/credential/7", token)
	c.want(status, body, 400, `{"code": 400, "response": {"status": 400, "message": "1007: Credential not found", "error": true, "error_code": 1, "detail": "",
		"mensagem": "1007: Credential not found", "erro": true, "cod_erro": 1}, "exception": {"code": 1007, "message": "1007: Credential not found", "detail": null}}`)
	if err := c.sim.ChangeAuthorization(clientID, AuthorizationChange{Inactive: new(true)}); err != nil {
		t.Fatal(err)
	}
	status, body = c.get("/iso/pam/credential/5", token)
	c.want(status, body, 401, `{"code":401,"response":{"status":401,"message":"Inactive authorization","error":true,"error_code":1,"detail":"","mensagem":"Inactive authorization","erro":true,"cod_erro":1}}`)
}

func TestTokenEndpointIsStrict(t *testing.T) {
	const grant = "grant_type=client_credentials"
	good := basic(clientID, password)
	bad := `{"error":"invalid_client","message":"Client authentication failed"}`
	fields := grant + "&client_id=" + clientID + "&client_secret=" + password
	for _, tt := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		want                     string // "" looks at the status only
	}{
		{"Basic header", "POST", "", grant, []string{"Authorization", good, "Content-Type", form}, 200, ""},
		{"form fields", "POST", "", fields, []string{"Content-Type", form}, 200, ""},
		{"form fields, and a ttl that is ignored", "POST", "", fields + "&ttl=60", []string{"Content-Type", form}, 200, ""},
		{"JSON", "POST", "", `{"grant_type":"client_credentials","client_id":"` + clientID + `","client_secret":"` + password + `"}`, []string{"Content-Type", "application/json"}, 200, ""},
		{"wrong secret", "POST", "", grant, []string{"Authorization", basic(clientID, "x"), "Content-Type", form}, 401, bad},
		{"unknown client", "POST", "", grant, []string{"Authorization", basic("x", password), "Content-Type", form}, 401, bad},
		{"no secret", "POST", "", grant + "&client_id=" + clientID, []string{"Content-Type", form}, 401, bad},
		{"nobody", "POST", "", grant, []string{"Content-Type", form}, 404, gatewayBody},
		{"malformed header", "POST", "", grant, []string{"Authorization", "Basic !", "Content-Type", form}, 404, gatewayBody},
		{"two headers", "POST", "", grant, []string{"Authorization", good, "Authorization", good, "Content-Type", form}, 404, gatewayBody},
		{"both ways", "POST", "", fields, []string{"Authorization", good, "Content-Type", form}, 400, ""},
		{"no grant", "POST", "", "", []string{"Authorization", good, "Content-Type", form}, 400, ""},
		{"another grant", "POST", "", "grant_type=password", []string{"Authorization", good, "Content-Type", form}, 400, ""},
		{"a field twice", "POST", "", grant + "&" + grant, []string{"Authorization", good, "Content-Type", form}, 400, ""},
		{"no content type", "POST", "", grant, []string{"Authorization", good}, 400, ""},
		{"secrets in the query", "POST", "?client_secret=" + password, grant, []string{"Authorization", good, "Content-Type", form}, 400, ""},
		{"GET", "GET", "", "", []string{"Authorization", good}, 404, gatewayBody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, nil)
			status, body := c.do(tt.method, "/iso/oauth2/token"+tt.path, tt.body, tt.headers...)
			if status != tt.status {
				t.Fatalf("status %d, want %d: %s", status, tt.status, body)
			}
			if tt.want != "" {
				c.want(status, body, tt.status, tt.want)
			}
		})
	}
}

func TestAccessTokenIsASignedJWT(t *testing.T) {
	c := start(t, func(cfg *Config) {
		cfg.Vault.Authorizations[0].TokenLife = upstreamtest.Duration(90 * time.Second)
	})
	c.sim.Clock.Set(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	status, body := c.do("POST", "/iso/oauth2/token", "grant_type=client_credentials", "Authorization", basic(clientID, password), "Content-Type", form)
	var tok struct {
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &tok); err != nil || status != 200 || tok.TokenType != "Bearer" || tok.ExpiresIn != 90 {
		t.Fatalf("%d %s", status, body)
	}
	parts := strings.Split(tok.AccessToken, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	var h, cl map[string]any
	for i, into := range []*map[string]any{&h, &cl} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(b, into) != nil {
			t.Fatalf("part %d is not JSON", i)
		}
	}
	sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&c.sim.key.PublicKey, crypto.SHA256, sum[:], sig); err != nil {
		t.Error(err)
	}
	if h["typ"] != "JWT" || h["alg"] != "RS256" || h["jti"] != cl["jti"] || cl["aud"] != clientID || cl["exp"].(float64)-cl["iat"].(float64) != 90 {
		t.Errorf("header %v, claims %v", h, cl)
	}
	if len(cl["scopes"].([]any)) != 0 || cl["nbf"] != cl["iat"] || cl["sub"] == "" {
		t.Errorf("claims %v", cl)
	}
}

func TestOnlyATokenInForceOpens(t *testing.T) {
	for _, tt := range []struct {
		name   string
		token  func(c *caller) string
		status int
	}{
		{"good", func(c *caller) string { return c.login() }, 200},
		{"to the last second", func(c *caller) string { tok := c.login(); c.sim.Clock.Advance(time.Hour - 2*time.Second); return tok }, 200},
		{"expired", func(c *caller) string { tok := c.login(); c.sim.Clock.Advance(time.Hour); return tok }, 401},
		{"of the future", func(c *caller) string { tok := c.login(); c.sim.Clock.Advance(-time.Minute); return tok }, 401},
		{"altered", func(c *caller) string {
			parts := strings.Split(c.login(), ".")
			b, _ := base64.RawURLEncoding.DecodeString(parts[1])
			parts[1] = base64.RawURLEncoding.EncodeToString(bytes.Replace(b, []byte(`"scopes":[]`), []byte(`"scopes":[1]`), 1))
			return strings.Join(parts, ".")
		}, 401},
		{"revoked", func(c *caller) string {
			tok := c.login()
			if err := c.sim.ChangeAuthorization(clientID, AuthorizationChange{RevokeTokens: true}); err != nil {
				c.t.Fatal(err)
			}
			return tok
		}, 401},
		{"authorization switched off", func(c *caller) string {
			tok := c.login()
			if err := c.sim.ChangeAuthorization(clientID, AuthorizationChange{Inactive: new(true)}); err != nil {
				c.t.Fatal(err)
			}
			return tok
		}, 401},
		{"authorization at its end", func(c *caller) string {
			tok := c.login()
			c.sim.vault.Authorizations[0].Expires = c.sim.Clock.Now()
			return tok
		}, 401},
		{"of another vault", func(c *caller) string { return start(c.t, nil).login() }, 401},
		{"nonsense", func(*caller) string { return "Bearer a.b.c" }, 401},
		{"none", func(*caller) string { return "" }, 404},
		{"another scheme", func(*caller) string { return basic(clientID, password) }, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, nil)
			status, body := c.get("/iso/pam/credential/5", tt.token(c))
			if status != tt.status {
				t.Errorf("status %d, want %d: %s", status, tt.status, body)
			}
			if status == 404 {
				c.want(status, body, 404, gatewayBody)
			}
		})
	}
}

func TestSecuritySettingsCountOnEveryCall(t *testing.T) {
	clients, err := upstreamtest.NewCA(upstreamtest.CAConfig{RSA: true})
	if err != nil {
		t.Fatal(err)
	}
	strangers, err := upstreamtest.NewCA(upstreamtest.CAConfig{RSA: true})
	if err != nil {
		t.Fatal(err)
	}
	pair := func(ca *upstreamtest.CA) *tls.Certificate {
		cert, err := ca.Client("host1")
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	forServers, err := clients.Server("host1")
	if err != nil {
		t.Fatal(err)
	}
	good, other, foreign := pair(clients), pair(clients), pair(strangers)
	sum := sha256.Sum256(good.Certificate[0])
	pinned := strings.ToUpper(hex.EncodeToString(sum[:]))
	for _, tt := range []struct {
		name   string
		change func(*Config, *Authorization)
		cert   *tls.Certificate
		status int
	}{
		{"nothing asked for", func(*Config, *Authorization) {}, nil, 200},
		{"a certificate is needed", func(c *Config, _ *Authorization) { c.ClientCAs = clients.Pool() }, nil, 401},
		{"a good one", func(c *Config, _ *Authorization) { c.ClientCAs = clients.Pool() }, good, 200},
		{"of another CA of the same name", func(c *Config, _ *Authorization) { c.ClientCAs = clients.Pool() }, foreign, 401},
		{"of a server", func(c *Config, _ *Authorization) { c.ClientCAs = clients.Pool() }, forServers, 401},
		{"at its end", func(c *Config, _ *Authorization) {
			c.ClientCAs = clients.Pool()
			c.Bench.Clock.Advance(11 * 365 * 24 * time.Hour)
		}, good, 401},
		{"pinned", func(_ *Config, a *Authorization) { a.Fingerprint = pinned }, good, 200},
		{"pinned, with colons", func(_ *Config, a *Authorization) { a.Fingerprint = pinned[:2] + ":" + pinned[2:] }, good, 200},
		{"pinned, another one", func(_ *Config, a *Authorization) { a.Fingerprint = pinned }, other, 401},
		{"pinned, none", func(_ *Config, a *Authorization) { a.Fingerprint = pinned }, nil, 401},
		{"any address", func(_ *Config, a *Authorization) { a.AllowedIPs = []string{"*"} }, nil, 200},
		{"this address", func(_ *Config, a *Authorization) { a.AllowedIPs = []string{"10.0.0.1", "127.0.0.1"} }, nil, 200},
		{"this network", func(_ *Config, a *Authorization) { a.AllowedIPs = []string{"127.0.0.0/8"} }, nil, 200},
		{"another address", func(_ *Config, a *Authorization) { a.AllowedIPs = []string{"10.0.0.1"} }, nil, 403},
		{"a referer", func(_ *Config, a *Authorization) { a.Referers = []string{"https://app.example"} }, nil, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, nil)
			token := c.login()
			c.sim.mu.Lock()
			tt.change(&c.sim.cfg, c.sim.vault.Authorizations[0])
			c.sim.mu.Unlock()
			cfg := c.http.Transport.(*http.Transport).TLSClientConfig.Clone()
			if tt.cert != nil {
				cfg.Certificates = []tls.Certificate{*tt.cert}
			}
			tr := &http.Transport{TLSClientConfig: cfg}
			t.Cleanup(tr.CloseIdleConnections)
			c.http = &http.Client{Transport: tr}
			if status, body := c.do("POST", "/iso/oauth2/token", "grant_type=client_credentials", "Authorization", basic(clientID, password), "Content-Type", form); status != tt.status {
				t.Errorf("log-in: status %d, want %d: %s", status, tt.status, body)
			}
			if status, body := c.get("/iso/pam/credential/5", token); status != tt.status {
				t.Errorf("call: status %d, want %d: %s", status, tt.status, body)
			}
		})
	}
}

func TestAuthorizationSeesOnlyWhatItWasGiven(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Authorization)
		path   string
		status int
	}{
		{"PAM not among the resources", func(a *Authorization) { a.Resources = []Resource{DSM} }, "/iso/pam/credential/5", 403},
		{"DSM not among the resources", func(a *Authorization) { a.Resources = []Resource{PAM} }, "/iso/dapp/application", 403},
		{"another credential only", func(a *Authorization) { a.Credentials = []string{"6"} }, "/iso/pam/credential/5", 400},
		{"no information", func(a *Authorization) { a.Infos = []string{} }, "/iso/pam/info/20", 400},
		{"this credential, by its user and host", func(a *Authorization) { a.Credentials = []string{"5"} }, "/iso/pam/credential/credential_5@destktop-91.com", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, func(cfg *Config) { tt.change(cfg.Vault.Authorizations[0]) })
			if status, body := c.get(tt.path, c.login()); status != tt.status {
				t.Errorf("status %d, want %d: %s", status, tt.status, body)
			}
		})
	}
}

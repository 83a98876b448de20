package socket

import (
	"context"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/internal/secret"
)

func TestKeys(t *testing.T) {
	b := &fake{keys: []KeyInfo{{Name: "host", Generation: 1, Algorithm: "rsa-2048", PublicKey: "PEM"}, {Name: "hidden"}}}
	b.sign = func(name string, r SignRequest) ([]byte, int, error) {
		return append([]byte(name+r.Hash+r.Padding), append(r.Digest, r.Message...)...), 1, nil
	}
	r := start(t, b, tester(false))
	if a := r.get("/v1/keys"); strings.Contains(a.body, "hidden") || !strings.Contains(a.body, `"host"`) {
		t.Errorf("list: %s", a.body)
	}
	b.keysErr = &Problem{Code: CodeUnavailable, Detail: "token away"}
	if a := r.get("/v1/keys"); a.code(t) != CodeUnavailable {
		t.Errorf("list while the token is closed: %+v", a)
	}
	b.keysErr = nil
	if m := r.get("/v1/keys/host").json(t); m["public_key"] != "PEM" || m["generation"] != 1. {
		t.Errorf("key: %v", m)
	}
	if a := r.get("/v1/keys/pub"); a.code(t) != CodeNotFound {
		t.Errorf("no such key: %+v", a)
	}
	digest := "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	if m := r.do("POST", "/v1/keys/host/sign", `{"hash":"SHA-256","padding":"pss","digest":"`+digest+`"}`).json(t); m["generation"] != 1. || m["signature"] == "" {
		t.Errorf("sign: %v", m)
	}
	if m := r.do("POST", "/v1/keys/host/sign", `{"message":"AAA="}`).json(t); m["signature"] != "aG9zdAAA" {
		t.Errorf("sign a message: %v", m)
	}
	for _, body := range []string{`{}`, `{"hash":"SHA-1","digest":"` + digest + `"}`, `{"hash":"SHA-384","digest":"` + digest + `"}`, `{"hash":"SHA-256","digest":"!"}`,
		`{"hash":"SHA-256","padding":"none","digest":"` + digest + `"}`, `{"message":"AAA=","digest":"` + digest + `"}`, `{"message":"AAA=","generation":-1}`} {
		if got := r.do("POST", "/v1/keys/host/sign", body).code(t); got != CodeInvalid {
			t.Errorf("%s: %s", body, got)
		}
	}
	for _, body := range []string{`{}`, `{"message":""}`} {
		if a := r.do("POST", "/v1/keys/host/sign", body); !strings.Contains(a.body, "a message that is not empty") {
			t.Errorf("%s: %s", body, a.body)
		}
	}
	b.sign = func(string, SignRequest) ([]byte, int, error) {
		return nil, 0, &Problem{Code: CodeUnavailable, Detail: `hsm "default": sign: CKR_DEVICE_REMOVED`}
	}
	if a := r.do("POST", "/v1/keys/host/sign", `{"message":"AAA="}`); a.status != 503 || !strings.Contains(a.body, "CKR_DEVICE_REMOVED") {
		t.Errorf("token away: %+v", a)
	}
}

// What acts refuses a parameter that it does not know, as what reads does: a wish
// that is not heard would look granted.
func TestActionsHaveNoParameters(t *testing.T) {
	called := false
	act := func() error { called = true; return nil }
	b := &fake{
		renew:   func(context.Context, string, bool, bool) error { return act() },
		refused: func(string, string) error { return act() },
		login:   func(string, LoginRequest) error { return act() },
	}
	r := start(t, b, tester(true))
	for path, body := range map[string]string{
		"certificates/web/renew": "", "certificates/web/rotate": `{"compromised":false}`, "secrets/db/refused": `{"version":"1"}`,
		"upstreams/pam/login": "", "upstreams/pam/logout": "", "hsm/default/clear-pin-guard": "",
	} {
		a := r.do("POST", "/v1/"+path+"?compromised=true", body)
		if a.status != 400 || a.code(t) != CodeInvalid || !strings.Contains(a.body, `there is no parameter \"compromised\"`) {
			t.Errorf("%s: %+v", path, a)
		}
	}
	if called || len(b.cleared) > 0 {
		t.Error("it was done all the same")
	}
	b.renew = func(context.Context, string, bool, bool) error { return context.DeadlineExceeded }
	if a := r.do("POST", "/v1/certificates/web/renew", ""); a.status != 503 || !strings.Contains(a.body, `"detail":"certificate \"web\": not done within the time limit"`) {
		t.Errorf("what takes too long: %+v", a)
	}
}

func TestToken(t *testing.T) {
	at := time.Now().Add(time.Hour)
	b := &fake{token: func(string) (*oauth2.Token, error) { return &oauth2.Token{AccessToken: "tok", Expiry: at}, nil }}
	r := start(t, b, tester(false))
	if m := r.get("/v1/tokens/pam").json(t); m["access_token"] != "tok" || m["token_type"] != "Bearer" || m["expires_at"] != stamp(at) {
		t.Errorf("got %v", m)
	}
}

func TestAdministration(t *testing.T) {
	var did []string
	b := &fake{
		renew: func(_ context.Context, name string, rotate, compromised bool) error {
			did = append(did, strings.Join([]string{name, strconv.FormatBool(rotate), strconv.FormatBool(compromised)}, " "))
			return nil
		},
		enroll: func(identity, username string, password secret.Value) error {
			did = append(did, identity+" "+username+" "+string(password.Reveal()))
			return nil
		},
		login: func(upstream string, r LoginRequest) error { did = append(did, upstream+" "+r.Username); return nil },
	}
	r := start(t, b, tester(true))
	for _, tt := range []struct{ path, body, want string }{
		{"/v1/certificates/host/renew", "", "host false false"},
		{"/v1/certificates/host/rotate", `{"compromised":true}`, "host true true"},
		{"/v1/identities/host/enroll", `{"username":"u","password":"one-time"}`, "host u one-time"},
		{"/v1/upstreams/cm/login", `{"username":"u","password":"p"}`, "cm u"},
	} {
		did = nil
		a := r.do("POST", tt.path, tt.body)
		if a.status != 200 || len(did) != 1 || did[0] != tt.want {
			t.Errorf("%s: %+v, did %q, want %q", tt.path, a, did, tt.want)
		}
	}
	for same, want := range map[bool]any{false: "done", true: "unchanged"} {
		b.same = same
		if got := r.do("POST", "/v1/certificates/host/renew", "").json(t)["result"]; got != want {
			t.Errorf("renewed, the same: %v; result %v", same, got)
		}
	}
	if got := r.do("POST", "/v1/certificates/host/renew", `{"compromised":true}`).code(t); got != CodeInvalid {
		t.Errorf("renew of a compromised key: %s", got)
	}
	m := r.get("/v1/policy/explain?kind=secret&name=db&uid=" + strconv.Itoa(os.Getuid())).json(t)["decisions"].([]any)[0].(map[string]any)
	if m["allowed"] != true || m["rule"] != 0. {
		t.Errorf("explain: %v", m)
	}
	m = r.get("/v1/policy/explain?kind=secret&name=db&unit=x.service").json(t)["decisions"].([]any)[0].(map[string]any)
	if m["allowed"] != false {
		t.Errorf("explain a unit: %v", m)
	}
	for path, want := range map[string]string{"/iso/x": "allowed: policy[0]", "/iso/a%2fb": "never forwarded, whoever asks: the path holds an encoded slash", "/iso/%78": "allowed", "/iso/..": "never forwarded"} {
		m = r.get("/v1/policy/explain?kind=proxy&name=pam&path=" + url.QueryEscape(path) + "&uid=" + strconv.Itoa(os.Getuid())).json(t)["decisions"].([]any)[0].(map[string]any)
		if text := m["text"].(string); !strings.HasPrefix(text, want) || m["allowed"] != strings.HasPrefix(want, "allowed") {
			t.Errorf("explain the path %s: %v, want %q", path, m, want)
		}
	}
	text, _ := os.ReadFile(r.audit)
	if strings.Contains(string(text), "one-time") {
		t.Error("a password is in the audit")
	}
}

func TestReadiness(t *testing.T) {
	b := &fake{}
	r := start(t, b, tester(false))
	if a := r.get("/v1/readyz"); a.status != 200 {
		t.Errorf("ready: %+v", a)
	}
	b.ready = &Problem{Code: CodeUnavailable, Detail: "token not open"}
	if a := r.get("/v1/readyz"); a.status != 503 || !strings.Contains(a.body, "token not open") {
		t.Errorf("not ready: %+v", a)
	}
	if a := r.get("/metrics"); !strings.HasPrefix(a.body, "signet_up 1\n") {
		t.Errorf("metrics: %+v", a)
	}
}

func TestBrowsersAndForeignHostsAreRefused(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	r.PublishSecret(db("1"))
	for _, h := range []string{"Origin: http://evil.example", "Origin: null", "Referer: http://localhost/", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors",
		"Host: evil.example", "Host: localhost:8080", "Host: 127.0.0.1", "Host: 169.254.169.254"} {
		if a := r.get("/v1/secrets/db", h); a.status != 403 || strings.Contains(a.body, "robot") {
			t.Errorf("%s: %+v", h, a)
		}
	}
	for _, h := range []string{"Host: localhost", "Host: signet", "Host: unix"} {
		if a := r.get("/v1/secrets/db", h); a.status != 200 {
			t.Errorf("%s: %+v", h, a)
		}
	}
	if a := r.do("POST", "/v1/secrets/db/refused", `{"version":"0"}`, "Content-Type: text/plain"); a.status != 400 {
		t.Errorf("a form of a browser: %+v", a)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/v1/secrets/db", 405}, {"DELETE", "/v1/secrets/db", 405}, {"GET", "/v1/secrets/db/refused", 405}, {"GET", "/v1/certificates/web/renew", 405},
		{"GET", "/", 404}, {"GET", "/v1", 404}, {"GET", "/v1/", 404}, {"GET", "/v1/secrets/", 404}, {"GET", "/v1/secrets/db/", 404},
		{"GET", "/v1/secrets/db/nope", 404}, {"GET", "/v1//secrets", 404}, {"GET", "/v1/../v1/secrets/db", 404}, {"GET", "/v2/secrets", 404},
		{"GET", "/v1/tokens", 404}, {"GET", "/v1/policy", 404}, {"GET", "/metrics/", 404},
	} {
		a := r.do(tt.method, tt.path, "")
		if a.status != tt.status {
			t.Errorf("%s %s: %d, want %d: %s", tt.method, tt.path, a.status, tt.status, a.body)
		}
		a.code(t)
	}
}

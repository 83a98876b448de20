package senhasegura

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

func TestLoginSendsTheAccessKeyAsConfigured(t *testing.T) {
	for _, tt := range []struct {
		name string
		form bool
		auth string
		body string
	}{
		{"Basic header", false, "Basic Y2xpZW50LTE6" + "YzlhN2Y2ZDVlNGIzYTI5MTgwNzA2MDUwNDAzMDIwMTA=", "grant_type=client_credentials"},
		{"form fields", true, "", "client_id=client-1&client_secret=" + testSecret + "&grant_type=client_credentials"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var auth, body, media, method string
			v := &canned{body: goldenCredential, tokens: func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				auth, body, media, method = r.Header.Get("Authorization"), string(b), r.Header.Get("Content-Type"), r.Method
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"token_type":"bearer","expires_in":90,"access_token":"token-1"}`)
			}}
			told := make(chan *oauth2.Token, 10)
			c := v.dial(t, Config{Form: tt.form, OnToken: func(tok *oauth2.Token) { told <- tok }})
			before := time.Now()
			if _, err := c.Fetch(t.Context(), Ref{Credential: "5"}); err != nil {
				t.Fatal(err)
			}
			if method != "POST" || media != "application/x-www-form-urlencoded" || auth != tt.auth || body != tt.body {
				t.Errorf("sent %s %q %q %q, want POST of a form, %q %q", method, media, auth, body, tt.auth, tt.body)
			}
			if _, err := c.Fetch(t.Context(), Ref{Credential: "5"}); err != nil {
				t.Fatal(err)
			}
			token := <-told
			if v.logins != 1 || len(told) != 0 {
				t.Errorf("%d log-ins, %d more told; want one log-in for two reads", v.logins, len(told))
			}
			// expires_in is believed, whatever the manual says of a day.
			if life := token.Expiry.Sub(before); life > 91*time.Second || life < 80*time.Second {
				t.Errorf("token lives %v, want about 90s", life)
			}
		})
	}
}

func TestARefusedTokenIsReplacedOnce(t *testing.T) {
	v := &canned{body: goldenCredential}
	c := v.dial(t, Config{})
	if _, err := c.Fetch(t.Context(), Ref{Credential: "5"}); err != nil {
		t.Fatal(err)
	}
	v.logins = 7 // the vault forgets token-1
	if _, err := c.Fetch(t.Context(), Ref{Credential: "5"}); err != nil {
		t.Fatal(err)
	}
	if v.logins != 8 || len(v.seen) != 3 {
		t.Errorf("%d more log-ins and %d reads, want 1 and 3", v.logins-7, len(v.seen))
	}
}

func TestLoginErrors(t *testing.T) {
	inactive := `{"code":401,"response":{"status":401,"message":"Inactive authorization","error":true,"error_code":1,"detail":"","mensagem":"Inactive authorization","erro":true,"cod_erro":1}}`
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   upstream.Code
		symbol string
		text   string
	}{
		{"bad client", 401, `{"error":"invalid_client","message":"Client authentication failed"}`, upstream.Unavailable, "invalid_client", "Client authentication failed"},
		{"an error in HTTP 200", 200, `{"error":"invalid_client","message":"Client authentication failed"}`, upstream.Unavailable, "invalid_client", "Client authentication failed"},
		{"inactive", 401, inactive, upstream.Denied, "", "Inactive authorization"},
		{"address not allowed", 403, `{"response":{"status":403,"message":"IP not allowed","error":true}}`, upstream.Denied, "", "IP not allowed"},
		{"gateway", 404, `{"message":"no Route matched with those values"}`, upstream.Unavailable, "", "no Route matched with those values"},
		{"not there says nothing of the item", 404, `{"response":{"status":404,"message":"x","error":true}}`, upstream.Unavailable, "", "x"},
		{"too often", 429, `tell-tale`, upstream.Unavailable, "", ""},
		{"broken", 500, `tell-tale`, upstream.Unavailable, "", ""},
		{"no token", 200, `{"token_type":"Bearer","note":"tell-tale"}`, upstream.Unavailable, "", "answer is not that of a token endpoint"},
		{"not JSON", 200, `tell-tale`, upstream.Unavailable, "", "answer is not that of a token endpoint"},
		{"redirect", 302, `tell-tale`, upstream.Unavailable, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &canned{tokens: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Location", "https://elsewhere.example/tell-tale")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}}
			_, err := v.dial(t, Config{}).Fetch(t.Context(), Ref{Credential: "5"})
			e, ok := errors.AsType[*upstream.Error](err)
			if !ok {
				t.Fatalf("got %v, want an *upstream.Error", err)
			}
			if e.Code != tt.want || e.Symbol != tt.symbol || e.Text != tt.text || e.Op != "get access token" {
				t.Errorf("got %s %q %q of %q, want %s %q %q", e.Code, e.Symbol, e.Text, e.Op, tt.want, tt.symbol, tt.text)
			}
			if s := fmt.Sprintf("%v %s %+v", e, e.Hint(), errors.Unwrap(e)); strings.Contains(s, "tell-tale") || strings.Contains(s, testSecret) {
				t.Errorf("error tells too much: %s", s)
			}
			if v.logins != 1 || len(v.seen) != 0 {
				t.Errorf("%d log-ins, %d reads; want 1 and none", v.logins, len(v.seen))
			}
		})
	}
}

func TestAnUnreadableClientSecretIsToldWithItsCause(t *testing.T) {
	v := &canned{body: goldenCredential}
	c := v.dial(t, Config{})
	c.cfg.ClientSecret = func() (secret.Value, error) { return secret.Value{}, errors.New("open secret: permission denied") }
	_, err := c.Fetch(t.Context(), Ref{Credential: "5"})
	if upstream.CodeOf(err) != upstream.Unavailable || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want unavailable with the cause", err)
	}
	if v.logins != 0 {
		t.Error("logged in without a secret")
	}
}

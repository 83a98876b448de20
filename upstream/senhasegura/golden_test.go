package senhasegura

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// canned is a vault that knows one token and one answer.
type canned struct {
	status int
	body   string
	header http.Header
	tokens func(w http.ResponseWriter, r *http.Request) // nil: gives a token
	seen   []string                                     // METHOD path, of all but log-ins
	logins int
}

func (v *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/iso/oauth2/token" {
		v.logins++
		if v.tokens != nil {
			v.tokens(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":3600,"access_token":"token-%d"}`, v.logins)
		return
	}
	v.seen = append(v.seen, r.Method+" "+r.URL.EscapedPath())
	if r.Header.Get("Authorization") != fmt.Sprintf("Bearer token-%d", v.logins) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	for k, values := range v.header {
		w.Header()[k] = values
	}
	if v.status != 0 {
		w.WriteHeader(v.status)
	}
	_, _ = io.WriteString(w, v.body)
}

const testSecret = "c9a7f6d5e4b3a2918070605040302010"

// dial starts the vault and returns a client for it.
func (v *canned) dial(t *testing.T, cfg Config) *Client {
	t.Helper()
	srv := httptest.NewTLSServer(v)
	t.Cleanup(srv.Close)
	pool := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: srv.URL, CAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Reset)
	cfg.HTTP, cfg.ClientID = h, "client-1"
	cfg.ClientSecret = func() (secret.Value, error) { return secret.New([]byte(testSecret)), nil }
	return New(cfg)
}

// reveal is what a test may see of a secret.
func reveal(sec upstream.Secret) map[string]string {
	m := map[string]string{}
	for name, v := range sec.Fields {
		m[name] = string(v.Reveal())
	}
	return m
}

// The answers as the vendor's manual prints them (3.21), and in the envelope of
// 3.32.
const (
	goldenCredential = `{"response": {"status": 200, "mensagem": "Credential 5", "erro": false, "message": "Credential 5", "error": false},
		"credential": {"id": "5", "tag": "robot-test-5", "username": "credential_5", "password": "secret@2504", "content": "secret@2504",
		"hostname": "destktop-91.com", "parent_credential_cod": null, "parent_credential": null, "additional": "CREDADD01", "domain": "",
		"ip": "172.10.10.90", "port": "22", "model": "Ubuntu", "expiration_time": "2021-01-16T17:31:39"}}`
	goldenInfo = `{"response": {"status": 200, "mensagem": "Information 20", "erro": false, "message": "Information 20", "error": false},
		"info": {"id": "20", "tag": "INFOID5", "type": "Access credential", "content": "INFOCONTENTNDIGH"}}`
	goldenApplication = `{"response": {"status": 200, "mensagem": "Application 5", "erro": false, "message": "Application 5", "error": false},
		"application": {"name": "postman", "description": null, "tags": [""], "system": "back", "environment": "test", "secrets": [
		{"secret_id": "106", "secret_name": "application5", "identity": "application5", "version": "", "expiration_date": "", "engine": "Kubernetes", "data": [
		{"hostname": "application5_v_test", "username": "ADMIN_V_USR", "password": "ADMIN_V_PW", "additional_information": "ADMIN_V_SCHEMA"},
		{"access_key_id": "LKU5YC6QWAT487S4KEK", "secret_access_key": "sack10821du07f9sacfsdaasdf", "TTL": null},
		{"my_key_name": "my_key_value", "my_key_name_2": "my_key_value_2"}]}]}}`
	newEnvelope = `"code": 200, "response": {"status": 200, "message": "Credential 5", "error": false, "error_code": 0, "detail": "", "mensagem": "Credential 5", "erro": false, "cod_erro": 0}`
)

func TestFetchReadsWhatTheManualPrints(t *testing.T) {
	lisbon := time.FixedZone("-03", -3*60*60)
	expiry := time.Date(2021, 1, 16, 17, 31, 39, 0, time.UTC)
	credential := map[string]string{
		"username": "credential_5", "password": "secret@2504", "hostname": "destktop-91.com",
		"ip": "172.10.10.90", "port": "22", "additional": "CREDADD01",
	}
	application := map[string]string{
		"hostname": "application5_v_test", "username": "ADMIN_V_USR", "password": "ADMIN_V_PW", "additional_information": "ADMIN_V_SCHEMA",
		"access_key_id": "LKU5YC6QWAT487S4KEK", "secret_access_key": "sack10821du07f9sacfsdaasdf",
		"my_key_name": "my_key_value", "my_key_name_2": "my_key_value_2",
	}
	for _, tt := range []struct {
		name    string
		body    string
		ref     Ref
		zone    *time.Location
		want    map[string]string
		call    string
		expires time.Time
		ttl     time.Duration
		version string
	}{
		{name: "credential", body: goldenCredential, ref: Ref{Credential: "robot-test-5"},
			want: credential, call: "GET /iso/pam/credential/robot-test-5", expires: expiry},
		{name: "credential by id", body: goldenCredential, ref: Ref{Credential: "5"},
			want: credential, call: "GET /iso/pam/credential/5", expires: expiry},
		{name: "credential by user and host", body: goldenCredential, ref: Ref{Credential: "credential_5@destktop-91.com"},
			want: credential, call: "GET /iso/pam/credential/credential_5@destktop-91.com", expires: expiry},
		{name: "its time is the vault's own", body: goldenCredential, ref: Ref{Credential: "5"}, zone: lisbon,
			want: credential, call: "GET /iso/pam/credential/5", expires: expiry.Add(3 * time.Hour)},
		{name: "numbers where strings were, no date, new envelope", ref: Ref{Credential: "5"},
			body: `{` + newEnvelope + `, "credential": {"id": 5, "username": "u", "password": 12345678901234567890, "port": 22, "additional": null, "expiration_time": null}}`,
			want: map[string]string{"username": "u", "password": "12345678901234567890", "port": "22"}, call: "GET /iso/pam/credential/5", ttl: 300 * time.Second},
		{name: "a date as lists have it", ref: Ref{Credential: "5"},
			body: `{` + newEnvelope + `, "credential": {"id": "5", "username": "u", "password": "p", "expiration_time": "2021-01-16 17:31:39"}}`,
			want: map[string]string{"username": "u", "password": "p"}, call: "GET /iso/pam/credential/5", expires: expiry},
		{name: "information", body: goldenInfo, ref: Ref{Info: "INFOID5"},
			want: map[string]string{"content": "INFOCONTENTNDIGH"}, call: "GET /iso/pam/info/INFOID5", ttl: 900 * time.Second},
		{name: "an id is one segment of the path", body: strings.Replace(goldenInfo, "INFOID5", "a/b?c", 1), ref: Ref{Info: "a/b?c"},
			want: map[string]string{"content": "INFOCONTENTNDIGH"}, call: "GET /iso/pam/info/a%2Fb%3Fc", ttl: 900 * time.Second},
		{name: "application", body: goldenApplication, ref: Ref{Application: true},
			want: application, call: "GET /iso/dapp/application", ttl: 120 * time.Second},
		{name: "application, one identity", body: goldenApplication, ref: Ref{Application: true, Identity: "application5"},
			want: application, call: "GET /iso/dapp/application", ttl: 120 * time.Second},
		{name: "application: last wins, smallest TTL above 10, earliest date, versions", ref: Ref{Application: true},
			body: `{"application": {"secrets": [
				{"identity": "a", "version": 7, "expiration_date": "2031-01-01 00:00:00", "data": [{"K": "1", "L": 1, "TTL": "10"}, {"K": "2", "TTL": 60}]},
				{"identity": "b", "version": "8", "expiration_date": "2030-01-01 00:00:00", "data": {"K": "3", "M": null, "N": "", "TTL": "soon"}}]}}`,
			want: map[string]string{"K": "3", "L": "1", "N": ""}, call: "GET /iso/dapp/application", ttl: 60 * time.Second,
			version: "a=7;b=8", expires: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)},
		{name: "application: its version", ref: Ref{Application: true, Identity: "b"},
			body: `{"application": {"secrets": [{"identity": "a", "data": [{"K": "1"}]}, {"identity": "b", "version": "205", "data": [[], {"K": "3"}]}]}}`,
			want: map[string]string{"K": "3"}, call: "GET /iso/dapp/application", ttl: 120 * time.Second, version: "205"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &canned{body: tt.body}
			got, err := v.dial(t, Config{Zone: tt.zone}).Fetch(t.Context(), tt.ref)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(reveal(got), tt.want); diff != "" {
				t.Errorf("fields (-got +want):\n%s", diff)
			}
			if !got.Expires.Equal(tt.expires) {
				t.Errorf("expires %v, want %v", got.Expires, tt.expires)
			}
			if got.TTL != tt.ttl {
				t.Errorf("TTL %v, want %v", got.TTL, tt.ttl)
			}
			if got.Version != tt.version {
				t.Errorf("version %q, want %q", got.Version, tt.version)
			}
			if diff := cmp.Diff(v.seen, []string{tt.call}); diff != "" {
				t.Errorf("calls (-got +want):\n%s", diff)
			}
		})
	}
}

// refused is an error body of the vault, in its old envelope.
func refused(status int, message string, code int) string {
	exception := ""
	if code != 0 {
		exception = fmt.Sprintf(`, "exception": {"code": %d, "message": %q, "detail": null}`, code, message)
	}
	return fmt.Sprintf(`{"response": {"status": %d, "mensagem": %[2]q, "erro": true, "message": %[2]q, "error": true}%[3]s}`, status, message, exception)
}

func TestErrorsSayWhatTheyMean(t *testing.T) {
	cred := Ref{Credential: "5"}
	for _, tt := range []struct {
		name   string
		status int
		body   string
		ref    Ref
		want   upstream.Code
		symbol string
		text   string
	}{
		{"credential not found", 400, refused(400, "1007: Credential not found", 1007), cred, upstream.NotFound, "1007", "1007: Credential not found"},
		{"information not found", 400, refused(400, "1023: Information not found", 1023), Ref{Info: "x"}, upstream.NotFound, "1023", "1023: Information not found"},
		{"information inactive", 400, refused(400, "1024: Inactive information", 1024), Ref{Info: "x"}, upstream.NotFound, "1024", "1024: Inactive information"},
		{"no access", 400, refused(400, "1009: No access to credential", 1009), cred, upstream.Denied, "1009", "1009: No access to credential"},
		{"inactive, number only in the message", 400, refused(400, "1017:Credential inactive", 0), cred, upstream.NotFound, "1017", "1017:Credential inactive"},
		{"the new envelope", 400, `{"code":400,"response":{"status":400,"message":"1007: Credential not found","error":true,"error_code":1,"detail":"","mensagem":"1007: Credential not found","erro":true,"cod_erro":1},"exception":{"code":1007,"message":"1007: Credential not found","detail":null}}`,
			cred, upstream.NotFound, "1007", "1007: Credential not found"},
		{"an error inside HTTP 200", 200, refused(400, "1007: Credential not found", 1007), cred, upstream.NotFound, "1007", "1007: Credential not found"},
		{"status 400 though error is false", 200, `{"response":{"status":400,"error":false,"erro":false,"message":"Invalid request"}}`, cred, upstream.Invalid, "", "Invalid request"},
		{"error although status is 200", 200, `{"response":{"status":200,"error":true,"message":"so"}}`, cred, upstream.Unavailable, "", "so"},
		{"an empty list for an exception", 400, `{"response":{"status":400,"error":true,"menssage":"1009: x"},"exception":[]}`, cred, upstream.Denied, "1009", "1009: x"},
		{"a number of another module", 400, refused(400, "1007: x", 1007), Ref{Application: true}, upstream.Invalid, "1007", "1007: x"},
		{"forbidden", 403, `{"response":{"status":403,"error":true,"message":"IP not allowed"}}`, cred, upstream.Denied, "", "IP not allowed"},
		{"forbidden by what stands in front", 403, `<html>secret@2504</html>`, cred, upstream.Denied, "", ""},
		{"not there", 404, refused(404, "Resource/sub-resource not found", 0), cred, upstream.NotFound, "", "Resource/sub-resource not found"},
		{"the gateway knows no route, so nothing of the item", 404, `{"message":"no Route matched with those values"}`, cred, upstream.Unavailable, "", "no Route matched with those values"},
		{"unexpected error", 500, refused(500, "Unexpected error", 0), cred, upstream.Unavailable, "", "Unexpected error"},
		{"a number in a 500 counts for nothing", 500, refused(500, "1007: Credential not found", 1007), cred, upstream.Unavailable, "1007", "1007: Credential not found"},
		{"too often", 429, ``, cred, upstream.Unavailable, "", ""},
		{"unavailable inside HTTP 200", 200, refused(503, "Maintenance", 0), cred, upstream.Unavailable, "", "Maintenance"},
		{"a token that is never good", 401, refused(401, "Unauthorized", 0), cred, upstream.Unavailable, "", "Unauthorized"},
		{"authorization switched off", 401, refused(401, "Inactive authorization", 0), cred, upstream.Denied, "", "Inactive authorization"},
		{"not JSON", 200, `<html>secret@2504</html>`, cred, upstream.Unavailable, "", ""},
		{"cut off", 200, goldenCredential[:len(goldenCredential)-30], cred, upstream.Unavailable, "", ""},
		{"nothing", 200, ``, cred, upstream.Unavailable, "", ""},
		{"no credential in it", 200, `{` + newEnvelope + `}`, cred, upstream.Unavailable, "", ""},
		{"a list for a credential", 200, `{` + newEnvelope + `,"credential":[]}`, cred, upstream.Unavailable, "", ""},
		{"a map for a password", 200, `{` + newEnvelope + `,"credential":{"id":"5","username":"u","password":{"a":"secret@2504"}}}`, cred, upstream.Unavailable, "", ""},
		{"no password", 200, `{` + newEnvelope + `,"credential":{"id":"5","username":"u"}}`, cred, upstream.Unavailable, "", ""},
		{"an empty password", 200, `{` + newEnvelope + `,"credential":{"id":"5","username":"u","password":""}}`, cred, upstream.Unavailable, "", ""},
		{"a null password", 200, `{` + newEnvelope + `,"credential":{"id":"5","username":"u","password":null}}`, cred, upstream.Unavailable, "", ""},
		{"no username", 200, `{` + newEnvelope + `,"credential":{"id":"5","username":"","password":"p"}}`, cred, upstream.Unavailable, "", ""},
		{"another credential", 200, goldenCredential, Ref{Credential: "6"}, upstream.Unavailable, "", ""},
		{"another information", 200, goldenInfo, Ref{Info: "21"}, upstream.Unavailable, "", ""},
		{"empty information", 200, strings.Replace(goldenInfo, "INFOCONTENTNDIGH", "", 1), Ref{Info: "20"}, upstream.Unavailable, "", ""},
		{"encryption failed", 200, strings.Replace(goldenInfo, "INFOCONTENTNDIGH", "An error occurred while encrypting the text", 1), Ref{Info: "20"}, upstream.Unavailable, "", ""},
		{"encryption failed in an application", 200, strings.Replace(goldenApplication, "my_key_value_2", "An error occurred while encrypting the text", 1), Ref{Application: true}, upstream.Unavailable, "", ""},
		{"an application without values", 200, `{"application":{"secrets":[{"identity":"a","data":[]}]}}`, Ref{Application: true}, upstream.Unavailable, "", ""},
		{"no secret of that identity", 200, goldenApplication, Ref{Application: true, Identity: "b"}, upstream.NotFound, "", "no secret of this identity in the application"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &canned{status: tt.status, body: tt.body, header: http.Header{"Retry-After": {"7"}}}
			got, err := v.dial(t, Config{}).Fetch(t.Context(), tt.ref)
			e, ok := errors.AsType[*upstream.Error](err)
			if !ok {
				t.Fatalf("got error %v, want an *upstream.Error", err)
			}
			if got.Fields != nil {
				t.Error("a value came with the error")
			}
			if e.Code != tt.want || e.Symbol != tt.symbol || e.Text != tt.text {
				t.Errorf("got %s %q %q, want %s %q %q", e.Code, e.Symbol, e.Text, tt.want, tt.symbol, tt.text)
			}
			if e.Upstream != "pam" || !strings.HasPrefix(e.Op, "read ") || e.Item == "" {
				t.Errorf("error does not say what it is about: %v", e)
			}
			if s := e.Error() + e.Hint(); strings.Contains(s, "secret@2504") || strings.Contains(s, "token-") {
				t.Errorf("error tells too much: %s", s)
			}
			if tt.status == 429 && e.RetryAfter != 7*time.Second {
				t.Errorf("retry after %v, want 7s", e.RetryAfter)
			}
		})
	}
}

func TestNamesThatCannotBeAskedForAreNotSent(t *testing.T) {
	for _, id := range []string{"", ".", ".."} {
		v := &canned{body: goldenCredential}
		_, err := v.dial(t, Config{}).Fetch(t.Context(), Ref{Credential: id})
		if upstream.CodeOf(err) != upstream.Invalid || len(v.seen) != 0 {
			t.Errorf("%q: got %v and calls %v, want code invalid and none", id, err, v.seen)
		}
	}
}

func TestReleaseForgivesWhatIsNotHeld(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   upstream.Code // "" is success
	}{
		{"released", 200, `{"response": {"status": 200, "mensagem": "Credential custody 1 released", "erro": false, "message": "Credential custody 1 released", "error": false}}`, ""},
		{"no body", 204, ``, ""},
		{"not held", 400, refused(400, "1018: The credential is not in the user custody", 1018), ""},
		{"not found", 400, refused(400, "1007: Credential not found", 1007), upstream.NotFound},
		{"away", 500, ``, upstream.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &canned{status: tt.status, body: tt.body}
			err := v.dial(t, Config{}).Release(t.Context(), "1")
			if (tt.want == "" && err != nil) || (tt.want != "" && (err == nil || upstream.CodeOf(err) != tt.want)) {
				t.Errorf("got %v, want code %q", err, tt.want)
			}
			if diff := cmp.Diff(v.seen, []string{"DELETE /iso/pam/credential/custody/1"}); diff != "" {
				t.Errorf("calls (-got +want):\n%s", diff)
			}
		})
	}
}

func FuzzAnswers(f *testing.F) {
	for _, s := range []string{goldenCredential, goldenInfo, goldenApplication, refused(400, "1007: x", 1007), `[]`, `{"response":[]}`} {
		f.Add(200, s)
		f.Add(400, s)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		var into struct {
			Application struct {
				Secrets []appSecret `json:"secrets"`
			} `json:"application"`
			Credential map[string]scalar `json:"credential"`
		}
		e := read(pam, &upstream.Response{Status: status, Body: []byte(body)}, &into)
		if e == nil {
			if !json.Valid([]byte(body)) {
				t.Errorf("%q was understood", body)
			}
			_, _ = flatten(into.Application.Secrets)
			return
		}
		if len(e.Text) > 200 || strings.ContainsAny(e.Text, "\n\r") {
			t.Errorf("text is not one short line: %q", e.Text)
		}
	})
}

package ciphertrust

import (
	"context"
	"crypto/x509"
	"encoding/json"
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

// A seen is one request as the server saw it.
type seen struct {
	Method, URI, Auth, Accept, Body string
}

// golden is a server that answers one call with a text, and the call it saw.
func golden(t *testing.T, status int, header http.Header, body string) (*Client, *seen) {
	t.Helper()
	s := new(seen)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		*s = seen{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Accept"), string(text)}
		for name, v := range header {
			w.Header()[name] = v
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}), s
}

// serve is a server of which a test knows every answer.
func serve(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewTLSServer(answer)
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "cm", URL: srv.URL, CAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	return &Client{http: h, bearer: "jwt"}
}

// same compares JSON texts by what they say.
func same(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if want == "" {
		if got != "" {
			t.Errorf("body %s, want none", got)
		}
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("body %q: %v", got, err)
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Error(d)
	}
}

// The replies that the token page prints, as they stand there.
const (
	exampleJWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJkOWNhZTVlOC0xNDJmLTQ2NmQtOTlhZS1iODI5YmQ4ZTc0YWQiLCJzdWIiOiJsb2NhbHw5MTdiNTNmYy1kMjA5LTQ4OTUtYmFiZS03NmM3MTFlNDI5ZGMiLCJpc3MiOiJreWxvIiwiYWNjIjoia3lsbyIsInByZWZlcnJlZF91c2VybmFtZSI6ImFkbWluIiwiY3VzdCI6eyJncm91cHMiOlsiYWRtaW4iXX0sImp3dGlkIjoiNTg0MDI0N2YtZTQ5ZS00YmNkLTk0NjctNzE5YTU4OGQ0NjViIiwiaWF0IjoxNTMwODk1Nzg4LCJleHAiOjE1MzA4OTYwODh9.JMRtLevUUv5YOsxg4BJhHMt5pyzlvwxOTWLD49EzTU4"

	refreshReply = `{ "jwt": "` + exampleJWT + `", "duration": 300, "token_type": "Bearer" }`
	renewReply   = `{
"jwt": "` + exampleJWT + `",
"duration": 300,
"token_type": "Bearer",
"refresh_token": "1xy4tVzBzjrzsVho4xWQAtN5Whil3a71eH6nYMTi4VNSIEWXHv7NpKGAItdQRUip"
}`
	passwordReply = `{"jwt": "` + exampleJWT + `", "duration": 300, "token_type": "Bearer",
  "client_id": "73b520df-ba41-4bb8-a33e-c62cc56a4ed3", "refresh_token_id": "5654a61f-df69-49b4-9efb-d91a7a87e0b5",
  "refresh_token": "LzdpmPM7kpSHM0DohOsgPR8MorDvrjnFoRT5EFDMGma1EhuZMaMEQtyY2XvmTpqy", "refresh_token_expires_in": 1799}`
)

func TestGrantsAreWrittenAsTheServerWantsThem(t *testing.T) {
	for _, tt := range []struct {
		name, reply, body string
		request           tokenRequest
		want              tokenAnswer
	}{
		{"password", passwordReply,
			`{"grant_type":"password","username":"admin","password":"s3cret","connection":"local_account","domain":"root","auth_domain":"root",
			  "refresh_token_lifetime":43200,"refresh_token_revoke_unused_in":30,"labels":["signet"]}`,
			tokenRequest{Grant: GrantPassword, Username: "admin", Password: "s3cret", Connection: "local_account", Domain: "root", AuthDomain: "root",
				Labels: []string{"signet"}}.limited(30*24*time.Hour, 30*time.Minute),
			tokenAnswer{exampleJWT, 300, "73b520df-ba41-4bb8-a33e-c62cc56a4ed3", "5654a61f-df69-49b4-9efb-d91a7a87e0b5",
				"LzdpmPM7kpSHM0DohOsgPR8MorDvrjnFoRT5EFDMGma1EhuZMaMEQtyY2XvmTpqy", 1799}},
		{"refresh", refreshReply,
			`{"grant_type":"refresh_token","refresh_token":"e7UySu7fj8ZAwPKVIjEGwOTmt8AidxFHK8Wc4tL0RiaHVf7sd3oBQ74y2M8pPhNI"}`,
			tokenRequest{Grant: GrantRefreshToken, RefreshToken: "e7UySu7fj8ZAwPKVIjEGwOTmt8AidxFHK8Wc4tL0RiaHVf7sd3oBQ74y2M8pPhNI"},
			tokenAnswer{JWT: exampleJWT, Duration: 300}},
		{"renewal", renewReply,
			`{"grant_type":"refresh_token","refresh_token":"cIb6w1PzazBnJM35v9QyP6LWN70lGnGfNVUMGQfzjrcY8Hfv9cJjuMIXFHqNIo9g","client_id":"c1","renew_refresh_token":true}`,
			tokenRequest{Grant: GrantRefreshToken, RefreshToken: "cIb6w1PzazBnJM35v9QyP6LWN70lGnGfNVUMGQfzjrcY8Hfv9cJjuMIXFHqNIo9g", ClientID: "c1", Renew: true},
			tokenAnswer{JWT: exampleJWT, Duration: 300, RefreshToken: "1xy4tVzBzjrzsVho4xWQAtN5Whil3a71eH6nYMTi4VNSIEWXHv7NpKGAItdQRUip"}},
		{"user certificate", passwordReply,
			`{"grant_type":"user_certificate","refresh_token_lifetime":60,"refresh_token_revoke_unused_in":1}`,
			tokenRequest{Grant: GrantUserCertificate}.limited(time.Hour, time.Second),
			tokenAnswer{exampleJWT, 300, "73b520df-ba41-4bb8-a33e-c62cc56a4ed3", "5654a61f-df69-49b4-9efb-d91a7a87e0b5",
				"LzdpmPM7kpSHM0DohOsgPR8MorDvrjnFoRT5EFDMGma1EhuZMaMEQtyY2XvmTpqy", 1799}},
		{"client", refreshReply, `{"grant_type":"client_credential","client_id":"c1"}`,
			tokenRequest{Grant: GrantClientCredential, ClientID: "c1"}, tokenAnswer{JWT: exampleJWT, Duration: 300}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, saw := golden(t, 200, nil, tt.reply)
			c.bearer = ""
			got, err := c.grant(t.Context(), tt.request)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, *got); d != "" {
				t.Error(d)
			}
			same(t, saw.Body, tt.body)
			if saw.Method != "POST" || saw.URI != "/api/v1/auth/tokens/" || saw.Auth != "" || saw.Accept != "application/json" {
				t.Errorf("%+v", saw)
			}
		})
	}
}

const (
	userRecord = `{"user_id":"local|c07e8d2d-1111-4222-8333-444455556666","username":"maya","name":"Maya","nickname":"maya","email":"m@example.com",
 "created_at":"2024-06-18T09:17:06Z","updated_at":"2024-06-18T09:17:06Z","last_login":null,"logins_count":0,
 "failed_logins_count":0,"failed_logins_initial_attempt_at":null,"last_failed_login_at":null,"account_lockout_at":null,
 "password_changed_at":"2024-06-18T09:17:06Z","password_change_required":false,"certificate_subject_dn":"","enable_cert_auth":false,
 "allowed_auth_methods":["password"],"allowed_client_types":["unregistered","public","confidential"],
 "login_flags":{"prevent_ui_login":false},"auth_domain":"00000000-0000-0000-0000-000000000000","auth_domain_name":"root",
 "groups":["admin"],"user_metadata":{"current_domain":{"id":"x","name":"root"}},"app_metadata":{},"userid":"unknown field"}`
	groupRecord = `{"name":"Ops","created_at":"2024-06-18T09:17:06Z","updated_at":"2024-06-18T09:17:06Z","description":"d","users_count":1,
 "user_metadata":{},"app_metadata":{"system":true},"client_metadata":{}}`
	pendingCA = `{"id":"5e2f3d27","uri":"kylo:kylo:naboo:localca:5e2f3d27","account":"kylo:kylo:admin:accounts:kylo",
 "createdAt":"2024-06-18T09:17:06.117919Z","updatedAt":"2024-06-18T09:17:06.117919Z","name":"localca-5e2f3d27",
 "state":"pending","csr":"-----BEGIN CERTIFICATE REQUEST-----\n...","subject":"/C=US/ST=MD/L=Belcamp/O=Acme/CN=root.example",
 "notBefore":"0001-01-01T00:00:00Z","notAfter":"0001-01-01T00:00:00Z","sha1Fingerprint":"A","sha256Fingerprint":"B","sha512Fingerprint":"C"}`
	activeCA = `{"id":"5e2f3d27","uri":"kylo:kylo:naboo:localca:5e2f3d27","name":"localca-5e2f3d27","state":"active","csr":"",
 "cert":"-----BEGIN CERTIFICATE-----\n...","serialNumber":"168033943462","issuer":"/C=US/CN=root.example","subject":"/C=US/CN=root.example",
 "notBefore":"2024-06-17T09:17:06Z","notAfter":"2034-06-18T09:17:06Z","purpose":{"client_authentication":"Enabled","user_authentication":"Enabled"}}`
	certRecord = `{"id":"7a1b","uri":"kylo:kylo:naboo:certs:7a1b","account":"kylo:kylo:admin:accounts:kylo",
 "createdAt":"2024-06-18T09:20:00Z","updatedAt":"2024-06-18T09:20:00Z","name":"cert-7a1b","ca":"kylo:kylo:naboo:localca:5e2f3d27",
 "state":"active","revoked_at":"0001-01-01T00:00:00Z","revoked_reason":"","cert":"-----BEGIN CERTIFICATE-----\n...",
 "sha1Fingerprint":"..","sha256Fingerprint":"..","sha512Fingerprint":"..","serialNumber":"320948","subject":"/CN=host1",
 "issuer":"/CN=root.example","notBefore":"2024-06-17T09:20:00Z","notAfter":"2025-06-18T09:20:00Z"}`
	secretRecord = `{"id":"b5f1","uri":"kylo:kylo:vault:secrets:mypass-v0","account":"kylo:kylo:admin:accounts:kylo",
 "createdAt":"2024-06-18T09:17:06Z","updatedAt":"2024-06-18T09:17:06Z","name":"mypass","version":0,"dataType":"password",
 "objectType":"Secret Data","state":"Active","activationDate":"2024-06-18T09:17:06Z","meta":{"ownerId":"local|x"},
 "undeletable":false,"unexportable":false,"sha1Fingerprint":"..","sha256Fingerprint":"..","labels":{}}`
	tokenRecord = `{"id":"5654a61f","uri":"kylo:kylo:auth:tokens:5654a61f","account":"kylo:kylo:admin:accounts:kylo",
 "createdAt":"2024-06-18T09:17:06.117919Z","user_id":"local|x","client_id":"c1","labels":["hostagent"],"refreshedAt":"2024-06-18T09:47:06Z",
 "expiresAt":"2024-07-18T09:17:06Z","revoked":false,"expired":false,"revoke_unused_in":60}`
	propertyRecord = `{"name":"MAXIMUM_REFRESH_TOKEN_LIFETIME","value":"","description":"d"}`
)

func ptr[T any](v T) *T { return &v }

// Each call as the server wants it, and each record as it comes.
func TestCalls(t *testing.T) {
	ctx := context.Background()
	hidden := func(s string) secret.Value { return secret.New([]byte(s)) }
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		call   func(c *Client) (any, error)
		reply  string
		method string
		uri    string
		body   string
		check  func(v any) bool
	}{
		{"user", func(c *Client) (any, error) { return c.User(ctx, "local|c07e") }, userRecord, "GET", "/usermgmt/users/local%7Cc07e", "",
			func(v any) bool {
				u := v.(*User)
				return u.Username == "maya" && u.Email == "m@example.com" && u.LastLogin.IsZero() && u.Groups[0] == "admin" && len(u.JSON) > 0
			}},
		{"create user", func(c *Client) (any, error) {
			return c.CreateUser(ctx, UserSettings{Username: "maya", Password: hidden("Aa1!aaaa"), Email: ptr("m@example.com"),
				CertificateDN: ptr("CN=maya"), AllowedAuthMethods: &[]string{"user_certificate"}, UserMetadata: json.RawMessage(`{"team":"ops"}`)})
		}, userRecord, "POST", "/usermgmt/users/",
			`{"username":"maya","password":"Aa1!aaaa","email":"m@example.com","certificate_subject_dn":"CN=maya","allowed_auth_methods":["user_certificate"],"user_metadata":{"team":"ops"}}`, nil},
		{"no auth method at all", func(c *Client) (any, error) {
			return c.UpdateUser(ctx, "self", UserSettings{AllowedAuthMethods: &[]string{}, FailedLoginsCount: ptr(0), ExpiresAt: ptr("")})
		}, userRecord, "PATCH", "/usermgmt/users/self", `{"allowed_auth_methods":[],"failed_logins_count":0,"expires_at":""}`, nil},
		{"delete user", func(c *Client) (any, error) { return nil, c.DeleteUser(ctx, "local|1") }, "", "DELETE", "/usermgmt/users/local%7C1", "", nil},
		{"change password", func(c *Client) (any, error) {
			return nil, c.ChangePassword(ctx, "maya", "root", hidden("old"), hidden("new"))
		}, "", "PATCH", "/auth/changepw", `{"username":"maya","password":"old","new_password":"new","auth_domain":"root"}`, nil},
		{"self", func(c *Client) (any, error) { return c.Self(ctx) }, userRecord, "GET", "/auth/self/user", "", nil},

		{"create group", func(c *Client) (any, error) {
			return c.CreateGroup(ctx, GroupSettings{Name: "Ops", Description: ptr("d")})
		},
			groupRecord, "POST", "/usermgmt/groups/", `{"name":"Ops","description":"d"}`, func(v any) bool { return v.(*Group).System() && v.(*Group).UsersCount == 1 }},
		{"rename group", func(c *Client) (any, error) { return c.UpdateGroup(ctx, "All Clients", GroupSettings{Name: "X"}) },
			groupRecord, "PATCH", "/usermgmt/groups/All%20Clients", `{"name":"X"}`, nil},
		{"delete group", func(c *Client) (any, error) { return nil, c.DeleteGroup(ctx, "Ops", true) }, "", "DELETE", "/usermgmt/groups/Ops?force=true", "", nil},
		{"add member", func(c *Client) (any, error) { return c.AddUser(ctx, "Ops", "local|1") }, groupRecord, "POST", "/usermgmt/groups/Ops/users/local%7C1", "", nil},
		{"remove member", func(c *Client) (any, error) { return nil, c.RemoveUser(ctx, "Ops", "local|1") }, "", "DELETE", "/usermgmt/groups/Ops/users/local%7C1", "", nil},
		{"add client", func(c *Client) (any, error) { return c.AddClient(ctx, "Ops", "c") }, groupRecord, "POST", "/usermgmt/groups/Ops/clients/c", "", nil},
		{"remove client", func(c *Client) (any, error) { return nil, c.RemoveClient(ctx, "Ops", "c") }, "", "DELETE", "/usermgmt/groups/Ops/clients/c", "", nil},

		{"create CA", func(c *Client) (any, error) {
			return c.CreateCA(ctx, CARequest{CommonName: "root.example", Algorithm: "RSA", Size: 2048, Names: []SubjectName{{C: "US", ST: "MD", L: "Belcamp", O: "Acme"}}})
		}, pendingCA, "POST", "/ca/local-cas", `{"cn":"root.example","algorithm":"RSA","size":2048,"names":[{"C":"US","ST":"MD","L":"Belcamp","O":"Acme"}]}`,
			func(v any) bool {
				ca := v.(*CA)
				return ca.State == "pending" && strings.HasPrefix(ca.CSR, "-----BEGIN CERTIFICATE REQUEST") && ca.NotAfter.IsZero()
			}},
		{"self-sign", func(c *Client) (any, error) { return c.SelfSign(ctx, "5e2f3d27", Validity{Duration: 3650}) }, activeCA, "POST", "/ca/local-cas/5e2f3d27/self-sign", `{"duration":3650}`,
			func(v any) bool {
				return v.(*CA).State == "active" && v.(*CA).SerialNumber == "168033943462" && v.(*CA).Purpose.UserAuthentication == "Enabled"
			}},
		{"install", func(c *Client) (any, error) { return c.InstallCA(ctx, "x", "PEM", "p") }, activeCA, "POST", "/ca/local-cas/x/install", `{"cert":"PEM","parent_id":"p"}`, nil},
		{"CA with chain", func(c *Client) (any, error) { return c.CA(ctx, "x", true) }, activeCA, "GET", "/ca/local-cas/x?chained=true", "", nil},
		{"update CA", func(c *Client) (any, error) {
			return c.UpdateCA(ctx, "x", CASettings{ClientAuthentication: ptr(false)})
		}, activeCA, "PATCH", "/ca/local-cas/x", `{"allow_client_authentication":false}`, nil},
		{"delete CA", func(c *Client) (any, error) { return nil, c.DeleteCA(ctx, "x") }, "", "DELETE", "/ca/local-cas/x", "", nil},
		{"upload external CA", func(c *Client) (any, error) { return c.UploadExternalCA(ctx, "PEM", "n", "") }, activeCA, "POST", "/ca/external-cas", `{"cert":"PEM","name":"n"}`, nil},
		{"update external CA", func(c *Client) (any, error) {
			return c.UpdateExternalCA(ctx, "x", CASettings{UserAuthentication: ptr(true)})
		}, activeCA, "PATCH", "/ca/external-cas/x", `{"allow_user_authentication":true}`, nil},
		{"external CA", func(c *Client) (any, error) { return c.ExternalCA(ctx, "x") }, activeCA, "GET", "/ca/external-cas/x", "", nil},
		{"delete external CA", func(c *Client) (any, error) { return nil, c.DeleteExternalCA(ctx, "x") }, "", "DELETE", "/ca/external-cas/x", "", nil},
		{"CSR helper", func(c *Client) (any, error) {
			return c.CSR(ctx, CSRRequest{CommonName: "a", DNSNames: []string{"a.example"}, Encryption: "AES256", Password: hidden("pw")})
		}, `{"csr":"C","key":"K"}`, "POST", "/ca/csr", `{"cn":"a","dnsNames":["a.example"],"encryptionAlgo":"AES256","password":"pw"}`,
			func(v any) bool { return v.(*CSR).CSR == "C" && string(v.(*CSR).Key.Reveal()) == "K" }},

		{"issue", func(c *Client) (any, error) {
			return c.IssueCertificate(ctx, "root ca", IssueRequest{CSR: "P", Purpose: "server", Validity: Validity{NotAfter: &until}})
		}, certRecord, "POST", "/ca/local-cas/root%20ca/certs", `{"csr":"P","purpose":"server","notAfter":"2030-01-02T03:04:05Z"}`,
			func(v any) bool {
				return v.(*Certificate).SerialNumber == "320948" && v.(*Certificate).RevokedAt.IsZero()
			}},
		{"certificate", func(c *Client) (any, error) { return c.Certificate(ctx, "x", "7a1b") }, certRecord, "GET", "/ca/local-cas/x/certs/7a1b", "", nil},
		{"revoke", func(c *Client) (any, error) { return c.RevokeCertificate(ctx, "x", "7a1b", "aACompromise") }, certRecord, "POST", "/ca/local-cas/x/certs/7a1b/revoke", `{"reason":"aACompromise"}`, nil},
		{"resume", func(c *Client) (any, error) { return c.ResumeCertificate(ctx, "x", "7a1b") }, certRecord, "POST", "/ca/local-cas/x/certs/7a1b/resume", "", nil},
		{"delete certificate", func(c *Client) (any, error) { return nil, c.DeleteCertificate(ctx, "x", "7a1b") }, "", "DELETE", "/ca/local-cas/x/certs/7a1b", "", nil},

		{"create secret", func(c *Client) (any, error) {
			return c.CreateSecret(ctx, NewSecret{Name: "mypass", DataType: "password", Value: hidden("123456")})
		}, secretRecord, "POST", "/vault/secrets", `{"name":"mypass","dataType":"password","material":"123456"}`, func(v any) bool { return v.(*Secret).State == "Active" }},
		{"create blob", func(c *Client) (any, error) {
			return c.CreateSecret(ctx, NewSecret{Name: "b", DataType: "blob", Value: hidden("\xff\xfe?")})
		}, secretRecord, "POST", "/vault/secrets", `{"name":"b","dataType":"blob","material":"__4_"}`, nil},
		{"secret", func(c *Client) (any, error) { return c.Secret(ctx, "mypass") }, secretRecord, "GET", "/vault/secrets/mypass?type=name", "", nil},
		{"export", func(c *Client) (any, error) { return c.Fetch(ctx, "mypass") }, strings.TrimSuffix(secretRecord, "}") + `,"material":"123456"}`,
			"POST", "/vault/secrets/mypass/export?type=name", "", func(v any) bool {
				s := v.(upstream.Secret)
				return string(s.Fields["value"].Reveal()) == "123456" && s.Version == "0" && s.Expires.IsZero()
			}},

		{"token", func(c *Client) (any, error) { return c.Token(ctx, "5654a61f") }, tokenRecord, "GET", "/auth/tokens/5654a61f", "",
			func(v any) bool { return v.(*Token).RevokeUnused == 60 && v.(*Token).labelled("hostagent") }},
		{"delete token", func(c *Client) (any, error) { return nil, c.DeleteToken(ctx, "5654a61f") }, "", "DELETE", "/auth/tokens/5654a61f", "", nil},
		{"revoke refresh token", func(c *Client) (any, error) {
			return nil, c.revoke(ctx, refreshToken{Token: hidden("RT"), ClientID: "c1"})
		}, "", "POST", "/auth/revoke", `{"token":"RT","client_id":"c1"}`, nil},

		{"property", func(c *Client) (any, error) { return c.Property(ctx, propertyCap) }, propertyRecord, "GET", "/configs/properties/MAXIMUM_REFRESH_TOKEN_LIFETIME", "", nil},
		{"set property", func(c *Client) (any, error) { return c.SetProperty(ctx, propertyCap, "10d") }, propertyRecord, "PATCH", "/configs/properties/MAXIMUM_REFRESH_TOKEN_LIFETIME", `{"value":"10d"}`, nil},
		{"reset property", func(c *Client) (any, error) { return nil, c.ResetProperty(ctx, propertyCap) }, "", "POST", "/configs/properties/MAXIMUM_REFRESH_TOKEN_LIFETIME/reset", "", nil},
		{"register client", func(c *Client) (any, error) { return c.RegisterClient(ctx, hidden("rt"), "a", "P") }, clientRecord, "POST", "/client-management/clients", `{"reg_token":"rt","name":"a","csr":"P"}`,
			func(v any) bool {
				x := v.(*RegisteredClient)
				return x.ID == "73b520df" && x.Subject == "/CN=agent-7" && x.NotAfter.Year() == 2026
			}},
		{"delete client", func(c *Client) (any, error) { return nil, c.DeleteClient(ctx, "73b520df") }, "", "DELETE", "/client-management/clients/73b520df", "", nil},
		{"registration token", func(c *Client) (any, error) {
			return c.CreateRegistrationToken(ctx, RegistrationTokenRequest{Lifetime: "10h", MaxClients: 1})
		}, `{"id":"i","token":"t"}`, "POST", "/client-management/regtokens/", `{"lifetime":"10h","max_clients":1}`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status := 200
			if tt.reply == "" {
				status = 204
			}
			c, saw := golden(t, status, nil, tt.reply)
			got, err := tt.call(c)
			if err != nil {
				t.Fatal(err)
			}
			if saw.Method != tt.method || saw.URI != "/api/v1"+tt.uri || saw.Accept != "application/json" {
				t.Errorf("%s %s, want %s %s", saw.Method, saw.URI, tt.method, tt.uri)
			}
			same(t, saw.Body, tt.body)
			if tt.check != nil && !tt.check(got) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Every refusal that is known becomes a code, with the server's own words.
func TestErrors(t *testing.T) {
	const id = `"requestID":"8e1c6a0e-6a0f-4b41-9d5e-1f3d6a0c9b52"`
	for _, tt := range []struct {
		status       int
		body         string
		code         upstream.Code
		symbol, text string
		sent         bool
	}{
		{400, `{"code":9,"codeDesc":"NCERRInvalidParamValue: bad value",` + id + `}`, upstream.Invalid, "NCERRInvalidParamValue", "bad value", false},
		{400, `{"code":15,"codeDesc":"NCERRBadRequest: malformed",` + id + `}`, upstream.Invalid, "NCERRBadRequest", "malformed", false},
		{400, `{"code":106,"codeDesc":"NCERRCryptoOperationFailed: no",` + id + `}`, upstream.Invalid, "NCERRCryptoOperationFailed", "no", false},
		{401, `{"code":1,"codeDesc":"NCERRUnauthorized: token expired",` + id + `}`, upstream.Unavailable, "NCERRUnauthorized", "token expired", false},
		{401, `{"code":5,"codeDesc":"NCERRUnauthorizedAccess","message":"Wrong username or password.",` + id + `}`, upstream.Unavailable, "NCERRUnauthorizedAccess", "Wrong username or password.", false},
		{401, `{"code":5,"codeDesc":"NCERRUnauthorizedAccess","message":"Invalid Client",` + id + `}`, upstream.Unavailable, "NCERRUnauthorizedAccess", "Invalid Client", false},
		{403, `{"code":6,"codeDesc":"NCERRForbidden: no permission",` + id + `}`, upstream.Denied, "NCERRForbidden", "no permission", false},
		{404, `{"code":16,"codeDesc":"NCERRResourceNotFound: Resource not found",` + id + `}`, upstream.NotFound, "NCERRResourceNotFound", "Resource not found", false},
		{405, `{"code":7,"codeDesc":"NCERRMethod: no",` + id + `}`, upstream.Invalid, "NCERRMethod", "no", false},
		{409, `{"code":11,"codeDesc":"NCERRConflict: name taken",` + id + `}`, upstream.Invalid, "NCERRConflict", "name taken", false},
		{409, `{"code":11,"codeDesc":"NCERRKeyAlreadyExists: key",` + id + `}`, upstream.Invalid, "NCERRKeyAlreadyExists", "key", false},
		{429, `{"code":29,"codeDesc":"NCERRTooManyRequests: slow down",` + id + `}`, upstream.Busy, "NCERRTooManyRequests", "slow down", false},
		{500, `{"code":2,"codeDesc":"NCERRInternal: oops",` + id + `}`, upstream.Unavailable, "NCERRInternal", "oops", true},
		{503, `{"code":2,"codeDesc":"NCERRInternal: starting",` + id + `}`, upstream.Unavailable, "NCERRInternal", "starting", true},
	} {
		t.Run(tt.symbol+" "+tt.text, func(t *testing.T) {
			c, _ := golden(t, tt.status, http.Header{"Retry-After": {"7"}}, tt.body)
			_, err := c.CreateGroup(t.Context(), GroupSettings{Name: "x"}) // not to be repeated
			e, ok := asError(err)
			if !ok {
				t.Fatal(err)
			}
			if e.Code != tt.code || e.Symbol != tt.symbol || e.Text != tt.text || e.Status != tt.status || e.Sent != tt.sent ||
				e.RequestID != "8e1c6a0e-6a0f-4b41-9d5e-1f3d6a0c9b52" {
				t.Errorf("%+v", e)
			}
			if (tt.status == 429) != (e.RetryAfter == 7*time.Second) && tt.status != 503 {
				t.Errorf("to be tried again in %v", e.RetryAfter)
			}
			if (tt.status == 401 || tt.status == 403) && e.Remedy == "" {
				t.Error("nobody is told what to do")
			}
		})
	}
}

// A front end that answers in the server's place must not be taken for it.
func TestAnswerOfSomethingElse(t *testing.T) {
	c, _ := golden(t, 200, nil, "<html>s3cret</html>")
	_, err := c.User(t.Context(), "self")
	if e, ok := asError(err); !ok || e.Code != upstream.Unavailable || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	c, _ = golden(t, 404, nil, "not here")
	if _, err = c.User(t.Context(), "self"); upstream.CodeOf(err) != upstream.NotFound {
		t.Error(err)
	}
}

// No name may make another call of the one that is meant.
func TestNamesThatAreNone(t *testing.T) {
	c, saw := golden(t, 204, nil, "")
	for _, id := range []string{"", ".", "..", "a/../b"} {
		if err := c.DeleteUser(t.Context(), id); upstream.CodeOf(err) != upstream.Invalid {
			t.Errorf("%q: %v", id, err)
		}
		for _, err := range c.Certificates(t.Context(), id, nil) {
			if upstream.CodeOf(err) != upstream.Invalid {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	if saw.Method != "" {
		t.Errorf("%+v", saw)
	}
}

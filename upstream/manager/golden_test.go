package manager_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/manager"
)

const (
	renewed = `{"responseStatus":"ok","responseHeader":{"status":"ok","now":1453652282000,"requestId":"UzGX8cCoDkMAABiqF4kAAABJ"},` +
		`"responseData":{"certificate":"%s"}}`
	csrInvalid = `{"responseStatus": "fail",
 "responseHeader": {"status": "fail", "now": 1413407294000, "requestId": "UzGX8cCoDkMAABiqF4kAAABJ"},
 "responseData": {"errors": [{"field": "csr", "message": "The given csr is invalid", "code": "invalid"}]}}`
)

// canned is a Manager that gives one answer and keeps what it was asked.
type canned struct {
	status int
	media  string // application/json if ""
	body   string

	asked http.Header
	path  string
	form  string
	calls int
}

func (c *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.asked, c.path, c.form = r.Header, r.Method+" "+r.URL.RequestURI(), string(body)
	c.calls++
	if c.media == "" {
		c.media = "application/json"
	}
	w.Header().Set("Content-Type", c.media)
	w.WriteHeader(c.status)
	_, _ = io.WriteString(w, c.body)
}

func (c *canned) client(t *testing.T) *manager.Client {
	t.Helper()
	srv := httptest.NewTLSServer(c)
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "vaults", URL: srv.URL, CAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Reset)
	return manager.New(manager.Config{HTTP: h, AccountID: 4})
}

func anyCertificate(t *testing.T) (*tls.Certificate, string) {
	t.Helper()
	cert, err := ca().Client("host1.example")
	if err != nil {
		t.Fatal(err)
	}
	der := cert.Certificate[0]
	return cert, strings.ReplaceAll(pemOf("CERTIFICATE", der), "\n", `\n`)
}

func TestRenewalOnTheWire(t *testing.T) {
	cert, text := anyCertificate(t)
	c := &canned{status: 200, media: "application/json;charset=UTF-8", body: fmt.Sprintf(renewed, text)}
	issued, err := c.client(t).Issue(t.Context(), upstream.CertificateRequest{
		Kind: upstream.Renew, Current: cert, NotAfter: time.UnixMilli(1474199793453),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(issued.Chain) != 1 || string(issued.Chain[0]) != string(cert.Certificate[0]) {
		t.Error("not the certificate of the answer")
	}
	if want := "POST /manager/api/json/1.0/clientCertificateRenewer.adm"; c.path != want {
		t.Errorf("asked %q, want %q", c.path, want)
	}
	if want := "accountId=4&expirationDate=1474199793453"; c.form != want {
		t.Errorf("body %q, want %q", c.form, want)
	}
	if got := c.asked.Get("Content-Type"); got != "application/x-www-form-urlencoded" {
		t.Errorf("content type %q", got)
	}
	if c.asked.Get("Authorization") != "" {
		t.Error("a password is shown beside the certificate")
	}
}

func TestRegistrationOnTheWire(t *testing.T) {
	_, text := anyCertificate(t)
	c := &canned{status: 200, body: fmt.Sprintf(renewed, text)}
	_, err := c.client(t).Issue(t.Context(), upstream.CertificateRequest{
		CSR: []byte{1, 2, 3}, Username: "temp", Password: secret.New([]byte("pässword")),
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "POST /manager/api/json/1.0/clientRegistration.adm"; c.path != want {
		t.Errorf("asked %q, want %q", c.path, want)
	}
	if want := "csr=-----BEGIN+CERTIFICATE+REQUEST-----%0AAQID%0A-----END+CERTIFICATE+REQUEST-----%0A"; c.form != want {
		t.Errorf("body %q, want %q: no expirationDate unless asked for", c.form, want)
	}
	if got := c.asked.Get("Authorization"); got != "Basic dGVtcDpww6Rzc3dvcmQ=" {
		t.Errorf("authorization %q", got)
	}
}

func TestAnswersThatRefuse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer canned
		code   upstream.Code
		sent   bool
		text   string // of the error
	}{
		{"validation", canned{status: 422, body: csrInvalid}, upstream.Invalid, false,
			`upstream "vaults": rotate client key "4": HTTP 422: invalid: csr: The given csr is invalid (request UzGX8cCoDkMAABiqF4kAAABJ)`},
		{"fail with 200", canned{status: 200, body: csrInvalid}, upstream.Invalid, false, "HTTP 200: invalid"},
		{"field is null", canned{status: 422, body: strings.Replace(csrInvalid, `"csr"`, "null", 1)}, upstream.Invalid, false,
			"invalid: The given csr is invalid ("},
		{"forbidden", canned{status: 403, body: csrInvalid}, upstream.Denied, false, "HTTP 403"},
		{"forbidden by something else", canned{status: 403, media: "text/html", body: "<p>no secret"}, upstream.Unavailable, false, "not the Manager's"},
		{"unauthorized, HTML", canned{status: 401, media: "text/html", body: "<p>no"}, upstream.Unavailable, false, "HTTP 401"},
		{"unauthorized, empty", canned{status: 401}, upstream.Unavailable, false, "HTTP 401"},
		{"not found, HTML", canned{status: 404, media: "text/html"}, upstream.Unavailable, false, "HTTP 404"},
		{"internal", canned{status: 500, body: csrInvalid}, upstream.Unavailable, true, "HTTP 500"},
		{"gateway", canned{status: 502, media: "text/html"}, upstream.Unavailable, true, "HTTP 502"},
		{"too many", canned{status: 429}, upstream.Busy, false, "HTTP 429"},
		{"log-in page", canned{status: 200, media: "text/html", body: "<p>log in"}, upstream.Unavailable, true, "not the Manager's"},
		{"cut off", canned{status: 200, body: `{"responseStatus":"ok"`}, upstream.Unavailable, true, "not the Manager's"},
		{"no certificate", canned{status: 200, body: fmt.Sprintf(renewed, "")}, upstream.Unavailable, true, "without a certificate"},
		{"no data", canned{status: 200, body: `{"responseStatus":"ok"}`}, upstream.Unavailable, true, "without the expected data"},
		{"redirect", canned{status: 302}, upstream.Unavailable, false, "redirect refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert, _ := anyCertificate(t)
			_, err := tt.answer.client(t).Issue(t.Context(), upstream.CertificateRequest{Kind: upstream.Rotate, Current: cert})
			e, ok := err.(*upstream.Error)
			if !ok {
				t.Fatalf("error %v", err)
			}
			if e.Code != tt.code {
				t.Errorf("code %q, want %q", e.Code, tt.code)
			}
			if e.Sent != tt.sent {
				t.Errorf("may have been carried out: %v, want %v", e.Sent, tt.sent)
			}
			if !strings.Contains(e.Error(), tt.text) {
				t.Errorf("error %q, want %q in it", e, tt.text)
			}
			if strings.Contains(e.Error(), "<p>") {
				t.Errorf("error %q tells the body", e)
			}
			if tt.answer.calls != 1 {
				t.Errorf("a single-use call was made %d times", tt.answer.calls)
			}
		})
	}
}

func TestRefusedCallStillProvesTheCertificate(t *testing.T) {
	for status, want := range map[int]bool{200: true, 403: true, 422: true, 401: false, 500: false} {
		cert, _ := anyCertificate(t)
		body := csrInvalid
		if status == 200 {
			body = fmt.Sprintf(renewed, "")
		}
		c := &canned{status: status, body: body}
		if err := c.client(t).Prove(t.Context(), *cert); (err == nil) != want {
			t.Errorf("HTTP %d: %v, want proof %v", status, err, want)
		}
	}
}

package ciphertrusttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// testCA is made once, and without the RSA key of the real one, which takes a
// while.
var testCA = sync.OnceValue(func() *upstreamtest.CA {
	cfg := caConfig()
	cfg.RSA = false
	ca, err := upstreamtest.NewCA(cfg)
	if err != nil {
		panic(err)
	}
	return ca
})

// A tester makes raw calls: what is on the wire is what the test says.
type tester struct {
	*testing.T
	sim  *Server
	url  string
	jwt  string
	cert *tls.Certificate
}

func start(t *testing.T, cfg Config) *tester {
	t.Helper()
	if cfg.CA == nil {
		cfg.CA = testCA()
	}
	sim, url := Start(t, cfg)
	return &tester{T: t, sim: sim, url: url}
}

// object is a JSON object.
type object map[string]any

func (o object) text(name string) string { s, _ := o[name].(string); return s }

func (o object) list() []any { l, _ := o["resources"].([]any); return l }

// send makes one call over a connection of its own.
func (c tester) send(method, path, media, body string, header ...string) (*http.Response, string) {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	req.Header.Set("Accept", "application/json")
	if c.jwt != "" {
		req.Header.Set("Authorization", "Bearer "+c.jwt)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Del(header[i])
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	cfg := &tls.Config{RootCAs: c.sim.CA.Pool()}
	if c.cert != nil {
		cfg.Certificates = []tls.Certificate{*c.cert}
	}
	resp, err := (&http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatal(err)
	}
	return resp, string(text)
}

// call sends a JSON body, if it is not "", and reads the answer.
func (c tester) call(method, path, body string) (int, object) {
	c.Helper()
	media := ""
	if body != "" {
		media = "application/json"
	}
	resp, text := c.send(method, base+path, media, body)
	out := object{}
	if resp.StatusCode == http.StatusNoContent {
		if text != "" {
			c.Errorf("%s %s: 204 with a body: %s", method, path, text)
		}
		return resp.StatusCode, out
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		c.Fatalf("%s %s: HTTP %d: %s: %v", method, path, resp.StatusCode, text, err)
	}
	return resp.StatusCode, out
}

// want makes a call that has to end with that status.
func (c tester) want(status int, method, path, body string) object {
	c.Helper()
	got, out := c.call(method, path, body)
	if got != status {
		c.Fatalf("%s %s %s: HTTP %d, want %d: %v", method, path, body, got, status, out)
	}
	return out
}

// refused makes a call that has to fail as a row of the error table says.
func (c tester) refused(status, code int, symbol, method, path, body string) object {
	c.Helper()
	got, out := c.call(method, path, body)
	desc, _, _ := strings.Cut(out.text("codeDesc"), ":")
	if got != status || out["code"] != float64(code) || desc != symbol || !uuidPattern.MatchString(out.text("requestID")) {
		c.Errorf("%s %s %s: HTTP %d %v, want %d code %d %s", method, path, body, got, out, status, code, symbol)
	}
	return out
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// login logs a user in and returns a tester with the JWT, and the answer.
func (c tester) login(username, password string) (tester, object) {
	c.Helper()
	c.jwt = ""
	out := c.want(200, "POST", "/auth/tokens/", js(object{"grant_type": "password", "username": username, "password": password}))
	c.jwt = out.text("jwt")
	return c, out
}

func (c tester) admin() tester {
	c.Helper()
	a, _ := c.login("admin", "admin")
	return a
}

func (c tester) with(cert *tls.Certificate) tester { c.cert = cert; return c }

// js writes JSON.
func js(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// request is a CSR in PEM.
func request(t *testing.T, key crypto.Signer, name pkix.Name, dns ...string) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: name, DNSNames: dns}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// parsed reads a certificate in PEM.
func parsed(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM: %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// rootCA is the id of the CA that was there at first.
func (c tester) rootCA() string {
	c.Helper()
	return c.want(200, "GET", "/ca/local-cas/?state=active", "").list()[0].(map[string]any)["id"].(string)
}

// clientCert has the CA certify a new key for clients.
func (c tester) clientCert(ca string, name pkix.Name) (*tls.Certificate, object) {
	c.Helper()
	key := newKey(c.T)
	out := c.want(201, "POST", "/ca/local-cas/"+ca+"/certs", js(object{"csr": request(c.T, key, name), "purpose": "client", "duration": 365}))
	cert := parsed(c.T, out.text("cert"))
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, out
}

// near reports whether two times are within a minute.
func near(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute }

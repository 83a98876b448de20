package managertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

var keyA, keyB = sync.OnceValue(newRSA), sync.OnceValue(newRSA)

func newRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

func csr(t *testing.T, kind, commonName string, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// caller makes raw calls: what is on the wire is what the test says.
type caller struct {
	*testing.T
	sim  *Server
	url  string
	cert *tls.Certificate
	user string // user:password of Basic, or ""
}

func start(t *testing.T, cfg Config) *caller {
	t.Helper()
	sim, url := Start(t, cfg)
	return &caller{T: t, sim: sim, url: url}
}

func (c caller) as(user string) caller { c.user, c.cert = user, nil; return c }

func (c caller) with(cert *tls.Certificate) caller { c.user, c.cert = "", cert; return c }

// send makes one call over a connection of its own.
func (c caller) send(method, path, media, body string) (*http.Response, string) {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	if user, password, ok := strings.Cut(c.user, ":"); ok {
		req.SetBasicAuth(user, password)
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

func (c caller) post(method string, form url.Values) (int, string) {
	c.Helper()
	resp, body := c.send("POST", base+method+".adm", "application/x-www-form-urlencoded", form.Encode())
	return resp.StatusCode, body
}

// certificate makes a call that has to answer a certificate for key.
func (c caller) certificate(method string, form url.Values, key crypto.Signer) *tls.Certificate {
	c.Helper()
	status, body := c.post(method, form)
	var answer struct{ ResponseData struct{ Certificate string } }
	if err := json.Unmarshal([]byte(body), &answer); status != 200 || err != nil {
		c.Fatalf("%s: HTTP %d: %s", method, status, body)
	}
	block, _ := pem.Decode([]byte(answer.ResponseData.Certificate))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key, Leaf: leaf}
}

// refused makes a call that has to be refused with these.
func (c caller) refused(method string, form url.Values, status int, field, code string) {
	c.Helper()
	got, body := c.post(method, form)
	var answer struct {
		ResponseStatus string
		ResponseData   struct {
			Errors []struct{ Field, Code, Message string }
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.ResponseData.Errors) != 1 {
		c.Errorf("%s: HTTP %d: %s", method, got, body)
		return
	}
	e := answer.ResponseData.Errors[0]
	if got != status || answer.ResponseStatus != "fail" || e.Field != field || e.Code != code || e.Message == "" {
		c.Errorf("%s: HTTP %d, field %q, code %q; want %d, %q, %q", method, got, e.Field, e.Code, status, field, code)
	}
}

func (c caller) unauthorized(what string) {
	c.Helper()
	if status, body := c.post("listVaults", nil); status != 401 || strings.Contains(body, "responseStatus") {
		c.Errorf("%s: HTTP %d: %s; want 401 without a reason", what, status, body)
	}
}

// enrolled is a Manager with an account that is registered with keyA.
func enrolled(t *testing.T) (*caller, *tls.Certificate) {
	t.Helper()
	c := start(t, Config{})
	if _, err := c.sim.CreatePrivateAccount("host1", "temp", "one-time-1"); err != nil {
		t.Fatal(err)
	}
	cert := c.as("temp:one-time-1").certificate("clientRegistration",
		url.Values{"csr": {csr(t, "CERTIFICATE REQUEST", "host1.example", keyA())}}, keyA())
	return c, cert
}

func TestEnvelope(t *testing.T) {
	c := start(t, Config{})
	c.sim.Clock.Set(time.UnixMilli(1413407294000))
	resp, body := c.as("admin:password").send("POST", base+"createPrivateAccount.adm", "application/x-www-form-urlencoded",
		"name=n&username=u&password=longenough&confirmPassword=longenough")
	want := regexp.MustCompile(`^\{"responseStatus":"ok","responseHeader":\{"status":"ok","now":14134072940\d\d,"requestId":"[A-Za-z0-9]{24}"\},"responseData":\{"id":124\}\}\n$`)
	if resp.StatusCode != 200 || !want.MatchString(body) || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		t.Errorf("HTTP %d: %s", resp.StatusCode, body)
	}
	_, body = c.as("admin:password").send("POST", base+"createPrivateAccount.adm", "application/x-www-form-urlencoded", "")
	want = regexp.MustCompile(`^\{"responseStatus":"fail","responseHeader":\{"status":"fail",.*\},"responseData":\{"errors":\[\{"field":"name","message":"The name is required","code":"required"\}\]\}\}\n$`)
	if !want.MatchString(body) {
		t.Errorf("%s", body)
	}
}

func TestIssuedCertificate(t *testing.T) {
	c := start(t, Config{})
	if _, err := c.sim.CreatePrivateAccount("host1", "temp", "one-time-1"); err != nil {
		t.Fatal(err)
	}
	now := c.sim.Clock.Now()
	// The manual's sample has the header with NEW.
	leaf := c.as("temp:one-time-1").certificate("clientRegistration",
		url.Values{"csr": {csr(t, "NEW CERTIFICATE REQUEST", "host1.example", keyA())}}, keyA()).Leaf
	issuer := regexp.MustCompile(`^SERIALNUMBER=[0-9a-f-]{36},CN=dsNet Manager CA,O=Cleversafe,L=Chicago,ST=Illinois,C=US$`)
	if !issuer.MatchString(leaf.Issuer.String()) || leaf.Subject.String() != "CN=host1.example" {
		t.Errorf("issuer %s, subject %s", leaf.Issuer, leaf.Subject)
	}
	if leaf.SignatureAlgorithm != x509.SHA512WithRSA || leaf.SerialNumber.BitLen() < 120 || leaf.SerialNumber.BitLen() > 128 {
		t.Errorf("%s, serial of %d bits", leaf.SignatureAlgorithm, leaf.SerialNumber.BitLen())
	}
	if d := leaf.NotBefore.Sub(now.AddDate(0, 0, -1)).Abs(); d > time.Minute {
		t.Errorf("not before %v, want one day back", leaf.NotBefore)
	}
	if d := leaf.NotAfter.Sub(now.AddDate(1, 0, 0)).Abs(); d > time.Minute {
		t.Errorf("not after %v, want one year ahead", leaf.NotAfter)
	}
}

func TestOneTimeCredentialsWorkOnce(t *testing.T) {
	c, cert := enrolled(t)
	c.as("temp:one-time-1").unauthorized("used credentials")
	if status, body := c.with(cert).post("listAccounts", nil); status != 200 || !strings.Contains(body, `"username":null`) {
		t.Errorf("HTTP %d: %s; want the user name erased", status, body)
	}
	c.as("admin:password").refused("changeAccountPassword",
		url.Values{"id": {"124"}, "password": {"again-again"}, "confirmPassword": {"again-again"}}, 422, "id", "locked")
	c.as("admin:password").refused("importAccountAccessKey", url.Values{"id": {"124"}}, 422, "id", "locked")
}

func TestOneTimeCredentialsRegisterOnly(t *testing.T) {
	c := start(t, Config{})
	if _, err := c.sim.CreatePrivateAccount("host1", "temp", "one-time-1"); err != nil {
		t.Fatal(err)
	}
	c.as("temp:one-time-1").refused("listVaults", nil, 403, "", "forbidden")
	c.as("admin:password").refused("clientRegistration", nil, 403, "", "forbidden")
	c.as("temp:wrong").unauthorized("wrong password")
	c.unauthorized("nobody")
}

func TestRegistrationRefusals(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := enrolled(t)
	if _, err := c.sim.CreatePrivateAccount("host2", "temp2", "one-time-2"); err != nil {
		t.Fatal(err)
	}
	one := c.as("temp2:one-time-2")
	good := csr(t, "CERTIFICATE REQUEST", "host2.example", keyB())
	for _, tt := range []struct {
		name        string
		form        url.Values
		field, code string
	}{
		{"no csr", nil, "csr", "required"},
		{"not PEM", url.Values{"csr": {"MIIC"}}, "csr", "invalid"},
		{"a certificate", url.Values{"csr": {string(c.sim.CA.PEM())}}, "csr", "invalid"},
		{"not RSA", url.Values{"csr": {csr(t, "CERTIFICATE REQUEST", "e", ec)}}, "csr", "invalid"},
		{"subject in use", url.Values{"csr": {csr(t, "CERTIFICATE REQUEST", "host1.example", keyB())}}, "csr", "duplicate"},
		{"past", url.Values{"csr": {good}, "expirationDate": {"1413407294000"}}, "expirationDate", "invalid"},
		{"not a number", url.Values{"csr": {good}, "expirationDate": {"tomorrow"}}, "expirationDate", "invalid"},
		{"unknown parameter", url.Values{"csr": {good}, "accountId": {"125"}}, "accountId", "invalid"},
		{"twice", url.Values{"csr": {good, good}}, "csr", "invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			one := one
			one.T = t
			one.refused("clientRegistration", tt.form, 422, tt.field, tt.code)
		})
	}
	one.certificate("clientRegistration", url.Values{"csr": {good}}, keyB()) // refusals used nothing up
}

func TestTransportIsStrict(t *testing.T) {
	c, cert := enrolled(t)
	mtls := c.with(cert)
	form := "application/x-www-form-urlencoded"
	for _, tt := range []struct {
		name, method, path, media, body string
		status                          int
	}{
		{"list by GET", "GET", base + "listVaults.adm", "", "", 200},
		{"list by POST", "POST", base + "listVaults.adm", form, "", 200},
		{"without .adm", "GET", base + "listVaults", "", "", 200},
		{"change by GET", "GET", base + "deleteVault.adm?id=1&password=", "", "", 405},
		{"PUT", "PUT", base + "listVaults.adm", "", "", 405},
		{"JSON body", "POST", base + "createVaultFromTemplate.adm", "application/json", `{"id":1}`, 422},
		{"query on a change", "POST", base + "createVaultFromTemplate.adm?id=1&name=x", form, "id=1&name=x", 422},
		{"unknown method", "POST", base + "makeVault.adm", form, "", 404},
		{"other version", "GET", "/manager/api/json/2.0/listVaults.adm", "", "", 404},
	} {
		if resp, body := mtls.send(tt.method, tt.path, tt.media, tt.body); resp.StatusCode != tt.status {
			t.Errorf("%s: HTTP %d: %s; want %d", tt.name, resp.StatusCode, body, tt.status)
		}
	}
}

func TestRenewal(t *testing.T) {
	c, first := enrolled(t)
	at := func(d time.Time) url.Values {
		return url.Values{"accountId": {"124"}, "expirationDate": {millis(d)}}
	}
	same := c.with(first).certificate("clientCertificateRenewer", at(first.Leaf.NotAfter.AddDate(0, 0, 30)), keyA())
	if same.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) != 0 {
		t.Error("renewed although not due")
	}
	c.sim.Clock.Advance(first.Leaf.NotAfter.Sub(c.sim.Clock.Now()) - window + time.Minute)
	until := c.sim.Clock.Now().AddDate(1, 0, 0)
	second := c.with(first).certificate("clientCertificateRenewer", at(until), keyA())
	if second.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 || !second.Leaf.NotAfter.Equal(until.Truncate(time.Second)) {
		t.Errorf("within a month: not renewed to the date asked for")
	}
	third := c.with(first).certificate("clientCertificateRenewer", at(until), keyA())
	if third.Leaf.SerialNumber.Cmp(second.Leaf.SerialNumber) != 0 {
		t.Error("asked again with the old certificate: not the new one")
	}
	for name, cert := range map[string]*tls.Certificate{"old": first, "new": second} {
		if status, body := c.with(cert).post("listVaults", nil); status != 200 {
			t.Errorf("%s certificate: HTTP %d: %s", name, status, body)
		}
	}
	c.sim.Clock.Set(first.Leaf.NotAfter.Add(time.Minute))
	c.with(first).unauthorized("expired certificate")
	states := c.sim.Accounts()[0].Certificates
	if len(states) != 2 || states[0].State != "expired" || states[1].State != "valid" {
		t.Errorf("certificates %+v", states)
	}
	c.with(second).refused("clientCertificateRenewer", at(time.UnixMilli(1413407294000)), 422, "expirationDate", "invalid")
	c.with(second).refused("clientCertificateRenewer", url.Values{"accountId": {"124"}}, 422, "expirationDate", "required")
	c.with(second).refused("clientCertificateRenewer", url.Values{"accountId": {"999"}, "expirationDate": {millis(until)}}, 422, "accountId", "notfound")
	if _, err := c.sim.CreatePrivateAccount("host2", "temp2", "one-time-2"); err != nil {
		t.Fatal(err)
	}
	c.with(second).refused("clientCertificateRenewer", url.Values{"accountId": {"125"}, "expirationDate": {millis(until)}}, 403, "accountId", "forbidden")
}

func millis(t time.Time) string {
	b, _ := json.Marshal(t.UnixMilli())
	return string(b)
}

func TestRotationRevokesAtOnce(t *testing.T) {
	c, first := enrolled(t)
	c.with(first).refused("rotateClientKey", url.Values{"csr": {csr(t, "CERTIFICATE REQUEST", "host1.example", keyA())}}, 422, "csr", "invalid")
	second := c.with(first).certificate("rotateClientKey",
		url.Values{"csr": {csr(t, "CERTIFICATE REQUEST", "host1.example", keyB())}}, keyB())
	c.with(first).unauthorized("revoked certificate")
	if status, body := c.with(second).post("listVaults", nil); status != 200 {
		t.Errorf("new certificate: HTTP %d: %s", status, body)
	}
	if states := c.sim.Accounts()[0].Certificates; states[0].State != "revoked" || states[1].State != "valid" {
		t.Errorf("certificates %+v", states)
	}
}

func TestDisabledAccountAndStrangersAreUnauthorized(t *testing.T) {
	c, cert := enrolled(t)
	admin := c.as("admin:password")
	for _, disabled := range []string{"true", "false"} {
		if status, body := admin.post("editAccount", url.Values{"id": {"124"}, "name": {"renamed"}, "disabled": {disabled}}); status != 200 {
			t.Fatalf("HTTP %d: %s", status, body)
		}
		if disabled == "true" {
			c.with(cert).unauthorized("disabled account")
		}
	}
	if status, _ := c.with(cert).post("listVaults", nil); status != 200 {
		t.Errorf("enabled again: HTTP %d", status)
	}
	other, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := other.Client("host1.example")
	if err != nil {
		t.Fatal(err)
	}
	c.with(stranger).unauthorized("certificate of another CA")
	if stranger, err = c.sim.CA.Client("host1.example"); err != nil {
		t.Fatal(err)
	}
	c.with(stranger).unauthorized("certificate that no account has")
}

func TestLockedVaultRules(t *testing.T) {
	c, cert := enrolled(t)
	mtls, admin := c.with(cert), c.as("admin:password")
	if status, body := mtls.post("createVaultFromTemplate", url.Values{"id": {"1"}, "name": {"v1"}}); status != 200 || !strings.Contains(body, `"responseData":{"id":57}`) {
		t.Fatalf("HTTP %d: %s", status, body)
	}
	mtls.refused("createVaultFromTemplate", url.Values{"id": {"1"}, "name": {"v1"}}, 422, "name", "duplicate")
	mtls.refused("createVaultFromTemplate", url.Values{"id": {"7"}, "name": {"v2"}}, 422, "id", "notfound")
	mtls.refused("createVaultFromTemplate", url.Values{"id": {"1"}, "name": {"v2"}, "mirrorId": {"7"}}, 422, "mirrorId", "invalid")
	admin.refused("editVaultAccessControl", url.Values{"id": {"57"}, "allowedIps": {"*"}}, 422, "id", "locked")
	if err := c.sim.SetUsed(57, true); err != nil {
		t.Fatal(err)
	}
	admin.refused("deleteVault", url.Values{"id": {"57"}, "password": {"password"}}, 422, "id", "notempty")
	mtls.refused("deleteVault", url.Values{"id": {"57"}, "password": {""}}, 422, "id", "notempty")
	if err := c.sim.SetUsed(57, false); err != nil {
		t.Fatal(err)
	}
	mtls.refused("deleteVault", url.Values{"id": {"57"}}, 422, "password", "required")
	mtls.refused("createAccount", nil, 403, "", "forbidden")
	if status, body := mtls.post("deleteVault", url.Values{"id": {"57"}, "password": {""}}); status != 200 || !strings.Contains(body, `"responseData":{}`) {
		t.Errorf("HTTP %d: %s", status, body)
	}
	if _, body := admin.post("createVaultFromTemplate", url.Values{"id": {"1"}, "name": {"admins"}}); !strings.Contains(body, `"id":58`) {
		t.Error(body)
	}
	mtls.refused("deleteVault", url.Values{"id": {"58"}, "password": {""}}, 403, "id", "forbidden")
}

func TestRestartForgetsNothing(t *testing.T) {
	dir := t.TempDir()
	ca, err := LoadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{CA: ca, StateFile: filepath.Join(dir, "manager.json")}
	c := start(t, cfg)
	if _, err := c.sim.CreatePrivateAccount("host1", "temp", "one-time-1"); err != nil {
		t.Fatal(err)
	}
	first := c.as("temp:one-time-1").certificate("clientRegistration",
		url.Values{"csr": {csr(t, "CERTIFICATE REQUEST", "host1.example", keyA())}}, keyA())

	if cfg.CA, err = LoadCA(dir); err != nil {
		t.Fatal(err)
	}
	c = start(t, cfg) // the first one might as well have been killed
	c.as("temp:one-time-1").unauthorized("credentials used before the restart")
	second := c.with(first).certificate("rotateClientKey",
		url.Values{"csr": {csr(t, "CERTIFICATE REQUEST", "host1.example", keyB())}}, keyB())
	c = start(t, cfg)
	c.with(first).unauthorized("certificate revoked before the restart")
	if status, body := c.with(second).post("listVaults", nil); status != 200 {
		t.Errorf("HTTP %d: %s", status, body)
	}
}

func TestDisownedCertificatesAreNotTaken(t *testing.T) {
	c, first := enrolled(t)
	form := url.Values{"accountId": {"124"}, "expirationDate": {millis(first.Leaf.NotAfter.AddDate(1, 0, 0))}}
	second := c.with(first).certificate("clientCertificateRenewer", form, keyA())
	serial := c.sim.Accounts()[0].Certificates[1].Serial
	if err := c.sim.Disown(serial); err != nil {
		t.Fatal(err)
	}
	c.with(second).unauthorized("disowned certificate")
	if status, _ := c.with(first).post("listVaults", nil); status != 200 {
		t.Errorf("the other certificate: HTTP %d", status)
	}
	if err := c.sim.Disown("4711"); err == nil {
		t.Error("a certificate that does not exist was disowned")
	}
	if err := c.sim.Disown(); err != nil {
		t.Fatal(err)
	}
	if status, _ := c.with(second).post("listVaults", nil); status != 200 {
		t.Errorf("taken again: HTTP %d", status)
	}
}

func TestMistakes(t *testing.T) {
	for mistake, wrong := range map[Mistake]func(*x509.Certificate, *Server) bool{
		OtherKey: func(c *x509.Certificate, _ *Server) bool { return c.PublicKeyAlgorithm != x509.RSA },
		OtherCA: func(c *x509.Certificate, s *Server) bool {
			return c.CheckSignatureFrom(s.CA.Certificate) != nil && c.Issuer.CommonName == "dsNet Manager CA"
		},
		Expired:      func(c *x509.Certificate, _ *Server) bool { return time.Now().After(c.NotAfter) },
		NotYetValid:  func(c *x509.Certificate, _ *Server) bool { return time.Now().Before(c.NotBefore) },
		NoClientAuth: func(c *x509.Certificate, _ *Server) bool { return c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth },
		Longer:       func(c *x509.Certificate, _ *Server) bool { return time.Until(c.NotAfter) > 9*365*24*time.Hour },
	} {
		t.Run(string(mistake), func(t *testing.T) {
			c, first := enrolled(t)
			if err := c.sim.Mistake(mistake); err != nil {
				t.Fatal(err)
			}
			form := url.Values{"accountId": {"124"}, "expirationDate": {millis(first.Leaf.NotAfter.AddDate(1, 0, 0))}}
			bad := c.with(first).certificate("clientCertificateRenewer", form, keyA())
			if !wrong(bad.Leaf, c.sim) {
				t.Error("nothing is wrong with the certificate")
			}
			if status, _ := c.with(first).post("listVaults", nil); status != 200 {
				t.Errorf("the old certificate: HTTP %d", status)
			}
		})
	}
}

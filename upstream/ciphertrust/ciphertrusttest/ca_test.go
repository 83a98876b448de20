package ciphertrusttest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

const (
	upperHex = `^[0-9A-F]+$`
	decimal  = `^[0-9]+$`
)

func matches(text any, pattern string) bool {
	s, _ := text.(string)
	return regexp.MustCompile(pattern).MatchString(s)
}

// pendingCA makes a pending CA and returns its record.
func (c tester) pendingCA(cn string) object {
	c.Helper()
	return c.want(201, "POST", "/ca/local-cas/", js(object{
		"cn": cn, "names": []object{{"C": "US", "ST": "MD", "L": "Belcamp", "O": "Acme"}},
	}))
}

func TestLocalCAFromPendingToActive(t *testing.T) {
	a := start(t, Config{}).admin()
	p := a.pendingCA("root.example")
	id := p.text("id")
	if !p.has("id", "uri", "account", "createdAt", "updatedAt", "name", "state", "csr", "subject", "notBefore", "notAfter",
		"sha1Fingerprint", "sha256Fingerprint", "sha512Fingerprint") {
		t.Errorf("pending: %v", p)
	}
	for name, want := range map[string]any{
		"uri": "kylo:kylo:naboo:localca:" + id, "account": accountURI, "name": "localca-" + id, "state": "pending",
		"subject": "/C=US/ST=MD/L=Belcamp/O=Acme/CN=root.example", "notBefore": "0001-01-01T00:00:00Z", "notAfter": "0001-01-01T00:00:00Z",
	} {
		if p[name] != want {
			t.Errorf("pending: %s is %v, want %v", name, p[name], want)
		}
	}
	csr := request(t, newKey(t), pkix.Name{CommonName: "x"})
	a.refused(409, 11, "NCERRConflict", "POST", "/ca/local-cas/"+id+"/certs", js(object{"csr": csr, "purpose": "server", "duration": 1}))
	a.refused(400, 9, badValue, "POST", "/ca/local-cas/"+id+"/self-sign", `{}`)
	a.refused(400, 9, badValue, "POST", "/ca/local-cas/"+id+"/self-sign", `{"notAfter":"2001-01-01T00:00:00Z"}`)

	x := a.want(200, "POST", "/ca/local-cas/"+id+"/self-sign", `{"duration":5,"notAfter":"2040-06-18T09:17:06Z"}`)
	cert := parsed(t, x.text("cert"))
	if x["state"] != "active" || x["csr"] != "" || x["notAfter"] != "2040-06-18T09:17:06Z" || x["issuer"] != x["subject"] ||
		js(x["purpose"]) != `{"client_authentication":"Enabled","user_authentication":"Enabled"}` {
		t.Errorf("active: %v", x)
	}
	if !matches(x["serialNumber"], decimal) || !matches(x["sha1Fingerprint"], upperHex) || x["sha256Fingerprint"] == p["sha256Fingerprint"] {
		t.Errorf("serial %v, fingerprint %v", x["serialNumber"], x["sha1Fingerprint"])
	}
	if !cert.IsCA || cert.CheckSignatureFrom(cert) != nil || !near(cert.NotBefore, time.Now().Add(-24*time.Hour)) {
		t.Errorf("certificate %+v", cert)
	}
	a.refused(409, 11, "NCERRConflict", "POST", "/ca/local-cas/"+id+"/self-sign", `{"duration":5}`)
	for _, ref := range []string{id, x.text("name"), x.text("uri"), x.text("name") + "?type=name", x.text("uri") + "?type=uri", id + "?type=id"} {
		a.want(200, "GET", "/ca/local-cas/"+ref, "")
	}
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/ca/local-cas/"+id+"?type=name", "")
	a.refused(400, 9, badValue, "GET", "/ca/local-cas/"+id+"?type=colour", "")
	got := a.want(200, "PATCH", "/ca/local-cas/"+id, `{"allow_client_authentication":false}`)
	if js(got["purpose"]) != `{"client_authentication":"Disabled","user_authentication":"Enabled"}` {
		t.Errorf("barred: %v", got["purpose"])
	}
	for query, want := range map[string]int{"": 2, "state=active": 2, "state=pending": 0, "subject=*CN=root.example": 1, "issuer=/C=US/ST=*": 2} {
		if got := a.want(200, "GET", "/ca/local-cas?"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}

	// The same key and subject once more.
	copied := a.want(201, "POST", "/ca/local-cas", js(object{"copy_from_ca": id, "name": "again"}))
	again := a.want(200, "POST", "/ca/local-cas/again/self-sign", `{"duration":10}`)
	if copied["subject"] != x["subject"] || string(parsed(t, again.text("cert")).RawSubjectPublicKeyInfo) != string(cert.RawSubjectPublicKeyInfo) {
		t.Errorf("copy: %v", again)
	}
	a.refused(409, 11, "NCERRConflict", "POST", "/ca/local-cas", `{"cn":"x","name":"again"}`)
	a.want(204, "DELETE", "/ca/local-cas/"+id, "")
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/ca/local-cas/"+id, "")
	a.refused(409, 11, "NCERRConflict", "DELETE", "/ca/local-cas/"+a.rootCA(), "")
}

func TestCAKeysAreOfTheKindAskedFor(t *testing.T) {
	a := start(t, Config{}).admin()
	for body, want := range map[string]int{
		`{"cn":"x","algorithm":"RSA"}`: 201, `{"cn":"x","algorithm":"RSA","size":1024}`: 201, `{"cn":"x","algorithm":"ECDSA","size":521}`: 201,
		`{"cn":"x","algorithm":"RSA","size":512}`: 400, `{"cn":"x","algorithm":"ECDSA","size":2048}`: 400, `{"cn":"x","algorithm":"DSA"}`: 400,
		`{"algorithm":"RSA"}`: 400, `{"cn":"x","ipAddresses":["x"]}`: 400, `{"cn":"x","duration":5}`: 400, `{"copy_from_ca":"nothing"}`: 400,
		`{"cn":"x","names":[{"CN":"y"}]}`: 400, `{"cn":"x","dnsNames":["a.example"],"emailAddresses":["a@b.example"],"ipAddresses":["10.0.0.1"]}`: 201,
	} {
		if got, out := a.call("POST", "/ca/local-cas", body); got != want {
			t.Errorf("%s: HTTP %d, want %d: %v", body, got, want, out)
		}
	}
}

func TestSubCAIsInstalled(t *testing.T) {
	a := start(t, Config{}).admin()
	root := a.rootCA()
	p := a.pendingCA("sub.example")
	path := "/ca/local-cas/" + p.text("id")
	issue := func(csr, purpose string) string {
		return a.want(201, "POST", "/ca/local-cas/"+root+"/certs", js(object{"csr": csr, "purpose": purpose, "duration": 400})).text("cert")
	}
	good := issue(p.text("csr"), "ca")
	install := func(cert, parent string) string { return js(object{"cert": cert, "parent_id": parent}) }
	a.refused(400, 9, badValue, "POST", path+"/install", install(issue(request(t, newKey(t), pkix.Name{CommonName: "sub.example"}), "ca"), root))
	a.refused(400, 9, badValue, "POST", path+"/install", install(issue(p.text("csr"), "server"), root)) // no CA
	a.refused(400, 9, badValue, "POST", path+"/install", install(good, "nothing"))
	a.refused(400, 9, badValue, "POST", path+"/install", install(good, ""))
	a.refused(400, 9, badValue, "POST", path+"/install", install("", root))
	a.refused(400, 9, badValue, "POST", path+"/install", install("-----BEGIN CERTIFICATE-----\n", root))
	other := a.pendingCA("other root")
	a.want(200, "POST", "/ca/local-cas/"+other.text("id")+"/self-sign", `{"duration":100}`)
	a.refused(400, 9, badValue, "POST", path+"/install", install(good, other.text("id"))) // not its parent

	x := a.want(200, "POST", path+"/install", install(good, root))
	if x["state"] != "active" || x["issuer"] == x["subject"] || x["cert"] != good {
		t.Errorf("installed: %v", x)
	}
	a.refused(409, 11, "NCERRConflict", "POST", path+"/install", install(good, root))
	chain := a.want(200, "GET", path+"?chained=true", "").text("cert")
	if strings.Count(chain, "BEGIN CERTIFICATE") != 2 || !strings.HasPrefix(chain, good) {
		t.Errorf("chain:\n%s", chain)
	}
	// A certificate of the sub CA logs in by the root that is trusted, and a
	// sub CA cannot outlive its end.
	a.want(200, "PATCH", "/usermgmt/users/admin", `{"certificate_subject_dn":"/CN=x"}`)
	cert, _ := a.clientCert(p.text("id"), pkix.Name{CommonName: "x"})
	a.with(cert).want(200, "POST", "/auth/tokens", `{"grant_type":"user_certificate"}`)
	a.want(200, "PATCH", path, `{"allow_user_authentication":false}`)
	a.with(cert).refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"grant_type":"user_certificate"}`)
	a.refused(400, 9, badValue, "POST", path+"/certs", js(object{"csr": request(t, newKey(t), pkix.Name{CommonName: "x"}), "purpose": "client", "duration": 401}))
}

func TestExternalCAs(t *testing.T) {
	a := start(t, Config{}).admin()
	outside, err := upstreamtest.NewCA(upstreamtest.CAConfig{Subject: pkix.Name{CommonName: "outside"}})
	if err != nil {
		t.Fatal(err)
	}
	text := string(outside.PEM())
	x := a.want(201, "POST", "/ca/external-cas/", js(object{"cert": text}))
	id := x.text("id")
	if x["uri"] != "kylo:kylo:naboo:external_ca:"+id || x["name"] != "externalca-"+id || x["subject"] != "/CN=outside" || x["csr"] != nil ||
		!matches(x["serialNumber"], decimal) || js(x["purpose"]) != `{"client_authentication":"Enabled","user_authentication":"Enabled"}` {
		t.Errorf("external CA %v", x)
	}
	a.refused(409, 11, "NCERRConflict", "POST", "/ca/external-cas", js(object{"cert": text}))
	leaf, err := outside.Client("leaf")
	if err != nil {
		t.Fatal(err)
	}
	a.refused(400, 9, badValue, "POST", "/ca/external-cas", js(object{"cert": certPEM(leaf.Certificate[0])}))
	a.refused(400, 9, badValue, "POST", "/ca/external-cas", `{}`)
	for query, want := range map[string]int{"subject=/CN=out*": 1, "serialNumber=" + x.text("serialNumber"): 1, "issuer=x": 0} {
		if got := a.want(200, "GET", "/ca/external-cas?"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	// A local CA installed from it.
	p := a.pendingCA("sub")
	block, _ := pem.Decode([]byte(p.text("csr")))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := outside.Issue(caTemplate(csr, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)), csr.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	got := a.want(200, "POST", "/ca/local-cas/"+p.text("id")+"/install", js(object{"cert": certPEM(der), "parent_id": id}))
	if got["issuer"] != "/CN=outside" {
		t.Errorf("installed: %v", got)
	}
	// A certificate of its logs in once the web interface trusts it.
	login := a.with(leaf)
	a.want(200, "PATCH", "/usermgmt/users/admin", `{"certificate_subject_dn":"CN=leaf"}`)
	login.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"grant_type":"user_certificate"}`)
	a.want(200, "PATCH", "/configs/interfaces/web", js(object{"trusted_cas": object{"local": []string{a.rootCA()}, "external": []string{id}}}))
	login.want(200, "POST", "/auth/tokens", `{"grant_type":"user_certificate"}`)
	a.want(200, "PATCH", "/ca/external-cas/"+id, `{"allow_user_authentication":false}`)
	login.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"grant_type":"user_certificate"}`)
	a.refused(409, 11, "NCERRConflict", "DELETE", "/ca/external-cas/"+id, "")
	a.want(200, "PATCH", "/configs/interfaces/web", js(object{"trusted_cas": object{"local": []string{a.rootCA()}}}))
	a.want(204, "DELETE", "/ca/external-cas/"+id, "")
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/ca/external-cas/"+id, "")
}

func TestCertificatesAreIssuedAsAsked(t *testing.T) {
	a := start(t, Config{}).admin()
	root := a.rootCA()
	path := "/ca/local-cas/" + root + "/certs"
	csr := request(t, newKey(t), pkix.Name{CommonName: "host1"}, "host1.example")
	x := a.want(201, "POST", path, js(object{"csr": csr, "purpose": "server", "duration": 5, "notAfter": "2035-01-02T03:04:05Z", "notBefore": "2020-01-01T00:00:00Z"}))
	id := x.text("id")
	if !x.has("id", "uri", "account", "createdAt", "updatedAt", "name", "ca", "state", "revoked_at", "revoked_reason", "cert",
		"sha1Fingerprint", "sha256Fingerprint", "sha512Fingerprint", "serialNumber", "subject", "issuer", "notBefore", "notAfter") {
		t.Errorf("fields of %v", x)
	}
	for name, want := range map[string]any{
		"uri": "kylo:kylo:naboo:certs:" + id, "name": "cert-" + id, "ca": "kylo:kylo:naboo:localca:" + root, "state": "active",
		"revoked_at": "0001-01-01T00:00:00Z", "revoked_reason": "", "notBefore": "2020-01-01T00:00:00Z", "notAfter": "2035-01-02T03:04:05Z",
		"subject": "/CN=host1", "issuer": "/C=US/ST=TX/L=Austin/O=Thales/CN=CipherTrust Root CA",
	} {
		if x[name] != want {
			t.Errorf("%s is %v, want %v", name, x[name], want)
		}
	}
	for purpose, want := range map[string][]x509.ExtKeyUsage{
		"server": {x509.ExtKeyUsageServerAuth}, "client": {x509.ExtKeyUsageClientAuth}, "ca": nil,
	} {
		cert := parsed(t, a.want(201, "POST", path, js(object{"csr": csr, "purpose": purpose, "duration": 1})).text("cert"))
		if len(cert.ExtKeyUsage) != len(want) || len(want) > 0 && cert.ExtKeyUsage[0] != want[0] || cert.IsCA != (purpose == "ca") {
			t.Errorf("%s: usages %v, CA %v", purpose, cert.ExtKeyUsage, cert.IsCA)
		}
	}
	for name, body := range map[string]object{
		"no csr": {"purpose": "server", "duration": 1}, "no purpose": {"csr": csr, "duration": 1}, "purpose": {"csr": csr, "purpose": "vpn", "duration": 1},
		"no duration": {"csr": csr, "purpose": "server"}, "duration": {"csr": csr, "purpose": "server", "duration": -1},
		"outlives": {"csr": csr, "purpose": "server", "duration": 100_000}, "csr": {"csr": "x", "purpose": "server", "duration": 1},
		"unknown": {"csr": csr, "purpose": "server", "duration": 1, "days": 5}, "over": {"csr": csr, "purpose": "server", "notAfter": "2001-01-01T00:00:00Z"},
		"broken": {"csr": csr[:80] + "AAAA" + csr[84:], "purpose": "server", "duration": 1},
	} {
		if out := a.refused(400, 9, badValue, "POST", path, js(body)); out == nil {
			t.Errorf("%s", name)
		}
	}
	a.refused(404, 16, "NCERRResourceNotFound", "POST", "/ca/local-cas/nothing/certs", js(object{"csr": csr, "purpose": "server", "duration": 1}))
	for query, want := range map[string]int{"": 4, "id=" + id: 1, "subject=/CN=host?": 4, "issuer=*Root*": 4, "subject=x": 0} {
		if got := a.want(200, "GET", path+"?limit=1&"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	a.want(200, "GET", path+"/"+id, "")
	a.want(204, "DELETE", path+"/"+id, "")
	a.refused(404, 16, "NCERRResourceNotFound", "GET", path+"/"+id, "")
}

func TestRevocationWithEveryReason(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	root := a.rootCA()
	for reason := range reasons {
		_, rec := a.clientCert(root, pkix.Name{CommonName: "host1"})
		path := "/ca/local-cas/" + root + "/certs/" + rec.text("id")
		a.refused(400, 9, badValue, "POST", path+"/resume", "")
		a.refused(400, 9, badValue, "POST", path+"/revoke", `{"reason":"KeyCompromise"}`)
		a.refused(400, 9, badValue, "POST", path+"/revoke", `{}`)
		x := a.want(200, "POST", path+"/revoke", js(object{"reason": reason}))
		at, err := time.Parse(time.RFC3339Nano, x.text("revoked_at"))
		if x["state"] != "revoked" || x["revoked_reason"] != reason || err != nil || !near(at, time.Now()) {
			t.Errorf("%s: %v", reason, x)
		}
		a.refused(409, 11, "NCERRConflict", "POST", path+"/revoke", js(object{"reason": reason}))
		if reason != "certificateHold" {
			a.refused(400, 9, badValue, "POST", path+"/resume", "")
			continue
		}
		x = a.want(200, "POST", path+"/resume", "")
		if x["state"] != "active" || x["revoked_reason"] != "" || x["revoked_at"] != "0001-01-01T00:00:00Z" {
			t.Errorf("resumed: %v", x)
		}
	}
}

func TestOpenSSLBelievesTheRevocationList(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	c := start(t, Config{})
	a := c.admin()
	root := a.rootCA()
	_, rec := a.clientCert(root, pkix.Name{CommonName: "host1"})
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, leaf := put("ca.pem", string(c.sim.CA.PEM())), put("leaf.pem", rec.text("cert"))
	verify := func() string {
		crl, err := c.sim.CRL(root)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command(openssl, "verify", "-crl_check", "-CAfile", ca, "-CRLfile", put("crl.pem", string(crl)), leaf).CombinedOutput()
		return string(out)
	}
	path := "/ca/local-cas/" + root + "/certs/" + rec.text("id")
	if out := verify(); !strings.HasSuffix(out, ": OK\n") {
		t.Errorf("not revoked: %s", out)
	}
	a.want(200, "POST", path+"/revoke", `{"reason":"certificateHold"}`)
	if out := verify(); !strings.Contains(out, "certificate revoked") {
		t.Errorf("on hold: %s", out)
	}
	a.want(200, "POST", path+"/resume", "")
	if out := verify(); !strings.HasSuffix(out, ": OK\n") {
		t.Errorf("resumed: %s", out)
	}
	a.want(200, "POST", path+"/revoke", `{"reason":"keyCompromise"}`)
	if out := verify(); !strings.Contains(out, "certificate revoked") {
		t.Errorf("revoked: %s", out)
	}
}

func TestMistakesAreMade(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	root := a.rootCA()
	verify := func(x *x509.Certificate) error {
		_, err := x.Verify(x509.VerifyOptions{Roots: c.sim.CA.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err
	}
	for m, wrong := range map[Mistake]func(*x509.Certificate) bool{
		OtherCA:      func(x *x509.Certificate) bool { return verify(x) != nil },
		OtherName:    func(x *x509.Certificate) bool { return x.Subject.CommonName != "host1" },
		Expired:      func(x *x509.Certificate) bool { return time.Now().After(x.NotAfter) },
		NotYetValid:  func(x *x509.Certificate) bool { return time.Now().Before(x.NotBefore) },
		OtherPurpose: func(x *x509.Certificate) bool { return verify(x) != nil },
		Longer:       func(x *x509.Certificate) bool { return x.NotAfter.After(time.Now().AddDate(9, 0, 0)) },
	} {
		if err := c.sim.Mistake(m); err != nil {
			t.Fatal(err)
		}
		if cert, _ := a.clientCert(root, pkix.Name{CommonName: "host1"}); !wrong(cert.Leaf) {
			t.Errorf("%s: nothing is wrong", m)
		}
		if cert, _ := a.clientCert(root, pkix.Name{CommonName: "host1"}); wrong(cert.Leaf) || verify(cert.Leaf) != nil {
			t.Errorf("%s: the next one is wrong too", m)
		}
	}
	if err := c.sim.Mistake(OtherKey); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	out := a.want(201, "POST", "/ca/local-cas/"+root+"/certs", js(object{"csr": request(t, key, pkix.Name{CommonName: "x"}), "purpose": "client", "duration": 1}))
	if pub, ok := parsed(t, out.text("cert")).PublicKey.(interface{ Equal(any) bool }); ok && pub.Equal(key.Public()) {
		t.Error("other-key: it is the key")
	}
}

func TestCSRHelper(t *testing.T) {
	a := start(t, Config{}).admin()
	out := a.want(200, "POST", "/ca/csr", `{"cn":"host1","names":[{"O":"Acme"}],"dnsNames":["host1.example"],"algorithm":"ECDSA","size":384}`)
	csr, no := parseCSR(out.text("csr"))
	if no != nil || slashName(csr.RawSubject) != "/O=Acme/CN=host1" || len(csr.DNSNames) != 1 || !strings.Contains(out.text("key"), "BEGIN PRIVATE KEY") {
		t.Errorf("CSR %v, %v", no, out)
	}
	again := a.want(200, "POST", "/ca/csr", js(object{"cn": "host1", "privateKeyBytes": out["key"]}))
	if second, no := parseCSR(again.text("csr")); no != nil || string(second.RawSubjectPublicKeyInfo) != string(csr.RawSubjectPublicKeyInfo) {
		t.Errorf("not for the key that was given: %v", no)
	}
	a.refused(400, 106, "NCERRCryptoOperationFailed", "POST", "/ca/csr", `{"cn":"x","privateKeyBytes":"x"}`)
	a.refused(400, 9, badValue, "POST", "/ca/csr", `{"cn":"x","encryptionAlgo":"AES256"}`)
	a.refused(400, 9, badValue, "POST", "/ca/csr", `{"cn":"x","encryptionAlgo":"ROT13","password":"x"}`)
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	for algo := range encryptions {
		text := a.want(200, "POST", "/ca/csr", js(object{"cn": "x", "encryptionAlgo": algo, "password": "pw"})).text("key")
		cmd := exec.Command(openssl, "pkey", "-passin", "pass:pw", "-noout", "-check")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", algo, err, out)
		}
	}
}

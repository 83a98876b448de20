package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/signet-agent/signet/client"
)

// keyFileConfig is an agent with a server's certificate of an appliance's own CA
// and its key, delivered as a set of files. An operator logs in.
var keyFileConfig = template.Must(template.New("").Parse(`
state_dir: {{.State}}
runtime_dir: {{.Dir}}
hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {file: {{.Dir}}/pin}}
{{with .E.CipherTrust}}
upstreams:
  cm: {type: ciphertrust, url: "{{.URL}}", ca_file: {{.CAFile}}, auth: {grant: password, username: {{.AdminUsername}}}}
certificates:
  web: {issuer: cm, ca: {{.CA}}, duration: 20d, dns_names: [web.example], key: {type: ecdsa-p256, store: file}}
{{end}}
files:
  - dir: {{.Dir}}/web
    entries:
      cert.pem: {certificate: web, format: pem-chain}
      key.pem: {certificate: web, format: pem-key}
socket: {path: {{.Dir}}/signet.sock, mode: "0600"}
policy:
  - callers: {users: [{{.User}}]}
    allow: {certificates: ["*"], proxy: {cm: ["GET /api/v1/**"]}, admin: true}
`))

// localCA is the appliance's CA as the agent reads it.
func (r *identityRig) localCA() *x509.Certificate {
	r.Helper()
	resp, err := (&http.Client{Transport: r.client.Transport("cm")}).Get("https://x/api/v1/ca/local-cas/" + r.vars.E.CipherTrust.CA)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	var ca struct{ Cert string }
	if err := json.NewDecoder(resp.Body).Decode(&ca); err != nil {
		r.Fatal(err)
	}
	return r.parse([]byte(ca.Cert))
}

// parse is the first certificate of a PEM text.
func (r *identityRig) parse(text []byte) *x509.Certificate {
	r.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		r.Fatalf("no PEM: %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		r.Fatal(err)
	}
	return cert
}

// delivered is the certificate in the set of files, whose key belongs to it.
func (r *identityRig) delivered() (*x509.Certificate, bool) {
	r.Helper()
	dir, err := filepath.EvalSymlinks(r.path("web")) // both of one generation
	if err != nil {
		return nil, false
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		r.Fatal(err)
	}
	return pair.Leaf, true
}

// revoked are the serial numbers on the CA's revocation list.
func (r *identityRig) revoked() (serials []*big.Int) {
	r.Helper()
	_, text, stderr := operate(r.T, r.path("sim"), "", "ciphertrust", "crl", r.vars.E.CipherTrust.CA)
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		r.Fatal(stderr)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range list.RevokedCertificateEntries {
		serials = append(serials, e.SerialNumber)
	}
	return serials
}

// A certificate of a CipherTrust Manager's CA with its key in a file goes the
// same way as an identity with its key in the HSM: issued after a log-in,
// delivered as a pair, rotated, revoked when compromised, and kept over a kill
// without another log-in. At rest the key is sealed.
func TestKeyInAFileWithACertificateOfTheAppliance(t *testing.T) {
	r := newIdentityRig(t)
	r.config = keyFileConfig
	password, err := os.ReadFile(r.vars.E.CipherTrust.AdminPasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	r.until("log-in", 30*time.Second, func() bool {
		return r.client.Login(t.Context(), "cm", &client.Credentials{Username: r.vars.E.CipherTrust.AdminUsername, Password: strings.TrimSpace(string(password))}) == nil
	})
	var first *x509.Certificate
	r.until("files", 30*time.Second, func() (ok bool) { first, ok = r.delivered(); return ok })
	ca := r.localCA()
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := first.Verify(x509.VerifyOptions{Roots: roots, DNSName: "web.example"}); err != nil || ca.CheckSignatureFrom(ca) != nil {
		t.Errorf("the certificate is not of the appliance's self-signed CA: %v", err)
	}
	text, err := os.ReadFile(r.path("web/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, _ := pem.Decode(text)
	for _, file := range []string{"signet.db", "signet.db-wal"} {
		if at, err := os.ReadFile(filepath.Join(r.state, file)); err != nil || bytes.Contains(at, key.Bytes[len(key.Bytes)-32:]) {
			t.Errorf("%s: %v, or it holds the key in clear", file, err)
		}
	}

	if out, err := r.command("signet", "rotate", "web", "--compromised").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	second, _ := r.delivered()
	if first.PublicKey.(*ecdsa.PublicKey).Equal(second.PublicKey) || second.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("no new key and certificate")
	}
	if serials := r.revoked(); !slices.ContainsFunc(serials, func(n *big.Int) bool { return n.Cmp(first.SerialNumber) == 0 }) || len(serials) != 1 {
		t.Errorf("revoked: %v, want that of the key which is compromised", serials)
	}

	r.kill()
	r.start()
	r.until("rotation without another log-in", 30*time.Second, func() bool { return r.client.Rotate(t.Context(), "web", false) == nil })
	if third, _ := r.delivered(); third.SerialNumber.Cmp(second.SerialNumber) == 0 {
		t.Error("no new certificate after the restart")
	}
	r.stop()
}

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/signet-agent/signet/client"
)

// openssl runs openssl and reports whether it succeeded.
func (h *trustHost) openssl(args ...string) (string, bool) {
	out, err := exec.Command("openssl", args...).CombinedOutput()
	return string(out), err == nil
}

// testCSR is a certificate request in PEM of a key made for it.
func testCSR(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// listen takes an address for a server that starts later: it is handed the socket
// itself, so nobody else can have got the port meanwhile.
func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// needServers skips a test where a program that it needs is not installed.
func needServers(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		_, err := exec.LookPath(program)
		switch {
		case err != nil && os.Getenv("SIGNET_NEED_SERVERS") != "":
			t.Fatal(err)
		case err != nil:
			t.Skip(err)
		}
	}
}

// A trustCA is a root and a CA below it at the appliance.
type trustCA struct {
	*trustHost
	root, sub string // ids
}

// newTrustCA makes both by command line: the root pending and self-signed, the
// other pending and installed with the certificate that the root has issued.
func newTrustCA(h *trustHost) trustCA {
	h.Helper()
	root := h.ct("ca", "create", "root.example", "--name", "root", "--organization", "Acme")
	if root.State != "pending" || root.CSR == "" {
		h.Fatalf("%+v", root)
	}
	if root = h.ct("ca", "self-sign", root.ID, "--days", "3650"); root.State != "active" {
		h.Fatalf("%+v", root)
	}
	sub := h.ct("ca", "create", "sub.example", "--name", "sub")
	signed := h.ct("certs", "--ca", root.ID, "issue", "--csr-file", h.write("sub.csr", sub.CSR), "--purpose", "ca", "--days", "365")
	if sub = h.ct("ca", "install", sub.ID, "--cert-file", h.write("sub.pem", signed.Cert), "--parent", root.ID); sub.State != "active" {
		h.Fatalf("%+v", sub)
	}
	h.write("root.pem", h.do("ciphertrust", "ca", "get", root.ID, "--cert"))
	return trustCA{h, root.ID, sub.ID}
}

// good holds what openssl says of a server certificate in PEM with the revocation
// lists of both CAs.
func (c trustCA) good(want bool, cert, when string) {
	c.Helper()
	crls := ""
	for _, id := range []string{c.root, c.sub} {
		crl, err := c.server.CRL(id)
		if err != nil {
			c.Fatal(err)
		}
		crls += string(crl)
	}
	out, ok := c.openssl("verify", "-CAfile", c.path("root.pem"), "-untrusted", c.path("sub.pem"), "-purpose", "sslserver",
		"-CRLfile", c.write("crls.pem", crls), "-crl_check_all", c.write("leaf.pem", cert))
	if ok != want || !ok && !strings.Contains(out, "certificate revoked") {
		c.Errorf("%s: openssl says %s", when, out)
	}
}

// The whole story of a CA, by command line.
func TestCipherTrustCAByCommandLine(t *testing.T) {
	needServers(t, "openssl", "/usr/sbin/nginx")
	l := listen(t)
	h := newTrustHost(t, `certificates:
  nginx: {issuer: cm, ca: sub, purpose: server, duration: 20d, key: {type: ecdsa-p256, store: file}, dns_names: [nginx.example], subject: {common_name: nginx.example}}
  own: {issuer: cm, ca: sub, purpose: ca, duration: 20d, key: {type: ecdsa-p256}, subject: {common_name: own-ca.example}}
files:
  - dir: %[1]s/tls
    entries: {cert.pem: {certificate: nginx, format: pem-chain}, key.pem: {certificate: nginx, format: pem-key}}
    reload: {signal: {pid_file: %[1]s/nginx.pid, signal: HUP, program: /usr/sbin/nginx}}
    prove: {tls: "`+l.Addr().String()+`", server_name: nginx.example, within: 20s, connections: 4}
`)
	ca := newTrustCA(h)
	leaf := h.ct("certs", "--ca", ca.sub, "issue", "--csr-file", h.write("web.csr", testCSR(t, "web.example")), "--purpose", "server", "--days", "30")
	ca.good(true, leaf.Cert, "issued")
	ca.holdAndResume(leaf.ID, leaf.Cert)
	if got := h.ct("certs", "--ca", ca.sub, "revoke", leaf.ID, "--reason", "keyCompromise"); got.State != "revoked" {
		t.Errorf("%+v", got)
	}
	ca.good(false, leaf.Cert, "revoked")
	if status, _, errs := h.try("ciphertrust", "certs", "--ca", ca.sub, "resume", leaf.ID); status != exitFailed || !strings.Contains(errs, "NCERR") {
		t.Errorf("resumed after keyCompromise: exit status %d, %s", status, errs)
	}
	for _, reason := range []string{"unspecified", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn", "aACompromise"} {
		c := h.ct("certs", "--ca", ca.sub, "issue", "--csr-file", h.write("x.csr", testCSR(t, "x.example")), "--purpose", "client", "--days", "1")
		h.ct("certs", "--ca", ca.sub, "revoke", c.ID, "--reason", reason)
	}
	if out := h.do("ciphertrust", "certs", "--ca", ca.sub, "list"); !strings.Contains(out, "keyCompromise") || !strings.Contains(out, "aACompromise") {
		t.Error(out)
	}

	ca.servedByNginx(l)

	// A key in the HSM is certified as a CA's too.
	h.until("the CA certificate of an HSM key is there", func() bool {
		_, out, _ := h.try("status", "--json")
		var s client.Status
		if json.Unmarshal([]byte(out), &s) != nil {
			return false
		}
		return slices.ContainsFunc(s.Items, func(it client.Item) bool { return it.Name == "own" && it.State == "valid" })
	})
}

// holdAndResume puts a certificate on hold and takes it back.
func (c trustCA) holdAndResume(id, cert string) {
	c.Helper()
	if got := c.ct("certs", "--ca", c.sub, "revoke", id, "--reason", "certificateHold"); got.State != "revoked" {
		c.Errorf("%+v", got)
	}
	c.good(false, cert, "on hold")
	if got := c.ct("certs", "--ca", c.sub, "resume", id); got.State != "active" {
		c.Errorf("%+v", got)
	}
	c.good(true, cert, "resumed")
}

// servedByNginx holds that the agent has got a certificate of the CA and delivered
// it with its key to a server, which shows it; and that another is served and
// that one revoked when its key is compromised.
func (c trustCA) servedByNginx(l *net.TCPListener) {
	c.Helper()
	address, dir := l.Addr().String(), c.path("tls")
	c.until("the certificate is delivered", func() bool { _, err := os.Stat(filepath.Join(dir, "cert.pem")); return err == nil })
	c.startNginx(l)
	var leaf *x509.Certificate
	c.until("nginx serves", func() (ok bool) { leaf, ok = c.served(address); return ok })
	text := func(leaf *x509.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	}
	c.good(true, text(leaf), "served")
	var list []struct {
		ID, SerialNumber, State string
		Reason                  string `json:"revoked_reason"`
	}
	read := func() {
		c.Helper()
		if err := json.Unmarshal([]byte(c.do("ciphertrust", "--json", "certs", "--ca", c.sub, "list", "--subject", "*nginx.example*")), &list); err != nil {
			c.Fatal(err)
		}
	}
	if read(); len(list) != 1 || list[0].SerialNumber != leaf.SerialNumber.String() {
		c.Fatalf("nginx serves %d, issued are %+v", leaf.SerialNumber, list)
	}
	first := list[0].ID
	c.holdAndResume(first, text(leaf))

	c.do("rotate", "nginx", "--compromised")
	var next *x509.Certificate
	c.until("nginx serves the new one", func() (ok bool) {
		next, ok = c.served(address)
		return ok && next.SerialNumber.Cmp(leaf.SerialNumber) != 0
	})
	c.good(true, text(next), "served after the rotation")
	c.good(false, text(leaf), "served before the rotation")
	if leaf.PublicKey.(*ecdsa.PublicKey).Equal(next.PublicKey) {
		c.Error("the new certificate is for the compromised key")
	}
	for read(); len(list) > 0; list = list[1:] {
		want := "active"
		if list[0].ID == first {
			want = "revoked keyCompromise"
		}
		if got := strings.TrimSpace(list[0].State + " " + list[0].Reason); got != want {
			c.Errorf("certificate %s is %s, want %s", list[0].ID, got, want)
		}
	}
}

// startNginx starts a server with the set that is delivered, until the test ends.
func (c trustCA) startNginx(l *net.TCPListener) {
	c.Helper()
	socket, err := l.File()
	if err != nil {
		c.Fatal(err)
	}
	defer socket.Close()
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s;\n", kind, c.path(kind))
	}
	config := c.write("nginx.conf", fmt.Sprintf(`daemon off;
pid %[1]s/nginx.pid;
events {}
http {
access_log off;
%[2]sserver { listen %[3]s ssl; ssl_certificate %[1]s/tls/cert.pem; ssl_certificate_key %[1]s/tls/key.pem; }
}
`, c.dir, temp, l.Addr()))
	nginx := exec.Command("/usr/sbin/nginx", "-c", config, "-e", c.path("nginx.log"))
	nginx.Env = append(os.Environ(), "NGINX=3;") // the sockets that it has got from another nginx, as when it is upgraded
	nginx.ExtraFiles = []*os.File{socket}        // which is descriptor 3
	if err := nginx.Start(); err != nil {
		c.Fatal(err)
	}
	// Handing it over has made it a blocking one, in which a worker could be stuck
	// whose connection another one has taken.
	if err := syscall.SetNonblock(int(socket.Fd()), true); err != nil {
		c.Error(err)
	}
	l.Close() // what connects from now on is nginx's
	c.Cleanup(func() {
		_ = nginx.Process.Signal(syscall.SIGTERM)
		_ = nginx.Wait()
	})
}

// served is the leaf that a client of the root is shown, if it is shown one.
func (c trustCA) served(address string) (*x509.Certificate, bool) {
	c.Helper()
	roots := x509.NewCertPool()
	text, err := os.ReadFile(c.path("root.pem"))
	if err != nil || !roots.AppendCertsFromPEM(text) {
		c.Fatal("root.pem: ", err)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: "nginx.example"})
	if err != nil {
		return nil, false
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], true
}

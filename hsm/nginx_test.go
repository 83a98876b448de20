package hsm_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// opensslConfig lets OpenSSL find the module and the PIN. init is needed: an
// engine that is not initialised loads no keys.
const opensslConfig = `openssl_conf = openssl_init
[openssl_init]
engines = engine_section
[engine_section]
pkcs11 = pkcs11_section
[pkcs11_section]
engine_id = pkcs11
dynamic_path = %s
MODULE_PATH = %s
PIN = %s
init = 1
`

// nginxConfig serves with a key on the token. What a client showed is told in
// the answer.
const nginxConfig = `daemon off;
%[1]s
pid %[2]s/nginx.pid;
error_log %[2]s/error.log;
worker_processes 1;
env SOFTHSM2_CONF;
env OPENSSL_CONF;
events {}
http {
	access_log off;
	client_body_temp_path %[2]s/t1; proxy_temp_path %[2]s/t2; fastcgi_temp_path %[2]s/t3; uwsgi_temp_path %[2]s/t4; scgi_temp_path %[2]s/t5;
	server {
		listen 127.0.0.1:%[3]d ssl;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_certificate %[2]s/server.crt;
		ssl_certificate_key "engine:pkcs11:%[4]s";
		ssl_client_certificate %[2]s/client.crt;
		ssl_verify_client optional;
		location / { return 200 "client $ssl_client_verify\n"; }
	}
}
`

// A webServer is an nginx whose key is on the token.
type webServer struct {
	t    *testing.T
	s    *hsmtest.SoftHSM
	port int
	cmd  *exec.Cmd
}

// TestNginxServesFromTheToken holds that another program finds a key of ours and
// the certificate beside it by URI: nginx serves with one, before and after a
// rotation and after the old key was destroyed, and curl shows one as a client.
func TestNginxServesFromTheToken(t *testing.T) {
	t.Parallel()
	engine := hsmtest.Need(t, "/usr/lib/*/engines-3/pkcs11.so", "nginx", "curl")[0]
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	conf := filepath.Join(s.Dir, "openssl.cnf")
	write(t, conf, fmt.Sprintf(opensslConfig, engine, s.Module, hsmtest.PIN))
	s.Env = append(s.Env, "OPENSSL_CONF="+conf)

	client, clientCert := certified(t, token, "client")
	first, firstCert := certified(t, token, "web")
	w := &webServer{t: t, s: s, port: freePort(t)}
	w.configure(first)
	write(t, filepath.Join(s.Dir, "client.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: clientCert.Raw})))
	w.start()
	w.serves(firstCert)

	out := s.Run("curl", "-sS", "--cacert", filepath.Join(s.Dir, "server.crt"), "--resolve", fmt.Sprintf("hsm.test:%d:127.0.0.1", w.port),
		"--engine", "pkcs11", "--cert-type", "ENG", "--cert", uri(s, client, "cert"), "--key-type", "ENG", "--key", uri(s, client, "private"),
		fmt.Sprintf("https://hsm.test:%d/", w.port))
	if out != "client SUCCESS\n" {
		t.Errorf("with a client certificate of the token: %q", out)
	}

	second, secondCert := certified(t, token, "web")
	w.configure(second)
	w.reload()
	w.serves(secondCert)
	id := first.Info().ID
	if err := token.SetState(id, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	if err := token.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	w.serves(secondCert)
}

// certified makes the next generation of a key with a certificate beside it.
func certified(t *testing.T, token *hsm.Token, name string) (*hsm.Key, *x509.Certificate) {
	t.Helper()
	key := newKey(t, token, name, hsm.ECDSAP256)
	cert := selfSigned(t, key)
	if err := token.StoreCertificate(t.Context(), key.Info().ID, cert.Raw); err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// uri names an object of a key by its CKA_ID.
func uri(s *hsmtest.SoftHSM, key *hsm.Key, kind string) string {
	id := key.Info().ID
	var b strings.Builder
	for i := 0; i < len(id); i += 2 {
		b.WriteString("%" + id[i:i+2])
	}
	return fmt.Sprintf("pkcs11:token=%s;id=%s;type=%s", s.Label, b.String(), kind)
}

// configure points nginx at a key by URI. It wants the certificate in a file,
// which is read from the token.
func (w *webServer) configure(key *hsm.Key) {
	w.t.Helper()
	der := filepath.Join(w.s.Dir, "server.der")
	w.s.Tool("--read-object", "--type", "cert", "--id", key.Info().ID, "--output-file", der)
	raw, err := os.ReadFile(der)
	if err != nil {
		w.t.Fatal(err)
	}
	write(w.t, filepath.Join(w.s.Dir, "server.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})))
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // its workers open the token's files themselves
	}
	write(w.t, filepath.Join(w.s.Dir, "nginx.conf"), fmt.Sprintf(nginxConfig, user, w.s.Dir, w.port, uri(w.s, key, "private")))
}

func (w *webServer) start() {
	w.t.Helper()
	var out bytes.Buffer
	w.cmd = exec.Command("nginx", "-c", filepath.Join(w.s.Dir, "nginx.conf"), "-e", filepath.Join(w.s.Dir, "error.log"))
	w.cmd.Env = append(os.Environ(), w.s.Env...)
	w.cmd.Stdout, w.cmd.Stderr = &out, &out
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
		_ = w.cmd.Wait()
		if w.t.Failed() {
			log, _ := os.ReadFile(filepath.Join(w.s.Dir, "error.log"))
			w.t.Logf("nginx said:\n%s%s", out.String(), log)
		}
	})
}

func (w *webServer) reload() {
	w.t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		w.t.Fatal(err)
	}
}

// serves waits until nginx proves to have the key of a certificate, in both
// versions of TLS.
func (w *webServer) serves(cert *x509.Certificate) {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		tick, timeout := time.NewTicker(20*time.Millisecond), time.After(patience)
		for {
			conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port), &tls.Config{
				RootCAs: pool, ServerName: "hsm.test", MinVersion: version, MaxVersion: version,
			})
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-tick.C:
			case <-timeout:
				w.t.Fatalf("TLS %x: %v", version, err)
			}
		}
		tick.Stop()
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

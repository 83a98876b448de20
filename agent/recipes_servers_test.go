package agent

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// recipes are the pages of docs/recipes.
var recipes = []recipe{
	{
		page: "nginx", program: "/usr/sbin/nginx", port: "443", dirs: []string{"/etc/nginx/tls", "/run/nginx"},
		config: func(s *server, block string) string {
			temp := ""
			for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				temp += kind + "_temp_path " + s.dir + "/" + kind + ";\n"
			}
			return "daemon off;\npid " + s.dir + "/run/nginx.pid;\nworker_processes 2;\nevents {}\nhttp {\naccess_log off;\n" + temp + block + "}\n"
		},
		start:   func(s *server) []string { return []string{s.program, "-c", s.file, "-e", s.dir + "/error.log"} },
		after:   exchange(httpRequest, "HTTP/1.1 200"),
		refusal: "serves serial",
		owner:   [2]string{`    mode: "0600"`, `    owner: nobody`}, unreadable: "serves serial", fenced: true,
	},
	{
		page: "apache", program: "/usr/sbin/apache2", port: "443", dirs: []string{"/etc/apache2", "/run/apache2"},
		config: func(s *server, block string) string {
			text := "ServerName web.example\nServerRoot " + s.dir + "\nPidFile " + s.dir + "/run/apache2/apache2.pid\nErrorLog " + s.dir + "/log\n" +
				"DefaultRuntimeDir " + s.dir + "/run/apache2\nMutex default\nUser www-data\nGroup www-data\nDocumentRoot " + s.dir + "\nListen 127.0.0.1:" + s.port + "\n"
			for _, m := range []string{"mpm_event", "authz_core", "socache_shmcb", "ssl"} {
				text += "LoadModule " + m + "_module /usr/lib/apache2/modules/mod_" + m + ".so\n"
			}
			return text + block
		},
		start:   func(s *server) []string { return []string{s.program, "-DFOREGROUND", "-f", s.file} },
		after:   exchange(httpRequest, "HTTP/1.1 "),
		refusal: "127.0.0.1:",
		owner:   [2]string{`    mode: "0600"`, `    owner: nobody`}, unreadable: "127.0.0.1:", fenced: true,
	},
	{
		page: "haproxy", program: "/usr/sbin/haproxy", port: "443", dirs: []string{"/etc/haproxy/tls", "/run/haproxy"},
		config:  func(_ *server, block string) string { return block },
		start:   func(s *server) []string { return []string{s.program, "-db", "-f", s.file} },
		after:   exchange(httpRequest, "HTTP/1.1 200"),
		refusal: "commit ssl cert",
		owner:   [2]string{`    mode: "0640"`, `    owner: nobody`}, unreadable: `web.pem": read: permission denied`, fencedAgent: true,
	},
	{
		page: "postgresql", program: "/usr/lib/postgresql/15/bin/postgres", port: "5432", dirs: []string{"/etc/postgresql", "/var/lib/postgresql/15"},
		config:  func(_ *server, block string) string { return block },
		start:   startPostgres,
		before:  askPostgres,
		after:   loginPostgres,
		refusal: "serves serial",
		owner:   [2]string{"owner: postgres, group: postgres", "owner: nobody, group: nogroup"}, unreadable: "serves serial",
	},
	{
		page: "redis", program: "/usr/bin/redis-server", port: "6379", dirs: []string{"/etc/redis", "/run/redis"},
		config: func(s *server, block string) string { return block + "save \"\"\ndir " + s.dir + "/run/redis\n" },
		start: func(s *server) []string {
			give(s, "redis", "/run/redis")
			return []string{"setpriv", "--reuid=redis", "--regid=redis", "--clear-groups", s.program, s.file}
		},
		after:   exchange("PING\r\n", "+PONG"),
		refusal: "Unable to update TLS configuration",
		owner:   [2]string{"group: redis", "group: nogroup"}, unreadable: "Unable to update TLS configuration",
	},
	{
		page: "dovecot", program: "/usr/sbin/dovecot", port: "993", dirs: []string{"/etc/dovecot", "/run/dovecot"},
		config: func(s *server, block string) string {
			return "base_dir = " + s.dir + "/run/dovecot\nstate_dir = " + s.dir + "/run\nlog_path = " + s.dir + "/log\nprotocols = imap\n" +
				"passdb {\n  driver = static\n  args = nopassword=y\n}\nuserdb {\n  driver = static\n  args = uid=mail gid=mail home=/nowhere\n}\n" +
				"service imap-login {\n  inet_listener imap {\n    port = 0\n  }\n}\n" + block
		},
		start: func(s *server) []string {
			give(s, "root", "/run/dovecot")
			if err := os.RemoveAll(s.dir + "/run/dovecot/login"); err != nil { // of one that was killed
				s.t.Fatal(err)
			}
			return []string{s.program, "-F", "-c", s.file}
		},
		after:   exchange("", "* OK"),
		refusal: "127.0.0.1:",
		owner:   [2]string{`    mode: "0600"`, `    owner: nobody`}, unreadable: "serves serial", fenced: true,
	},
	{
		page: "postfix", program: "/usr/sbin/postfix", port: "25", dirs: []string{"/etc/postfix/tls", "/var/spool/postfix"},
		pidFile: "/var/spool/postfix/pid/master.pid",
		config: func(s *server, block string) string {
			return "compatibility_level = 3.6\nqueue_directory = " + s.dir + "/var/spool/postfix\ndata_directory = " + s.dir + "/data\n" +
				"maillog_file = " + s.dir + "/log\nmaillog_file_prefixes = " + s.dir + "\nmyhostname = web.example\nmydestination =\n" +
				"inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nalias_maps =\nlocal_recipient_maps =\nsmtpd_peername_lookup = no\n" + block
		},
		start: startPostfix,
		before: func(c net.Conn) error {
			for _, step := range [][2]string{{"", "220 "}, {"EHLO me\r\n", "250 "}, {"STARTTLS\r\n", "220 "}} {
				if err := exchange(step[0], step[1])(c); err != nil {
					return err
				}
			}
			return nil
		},
		after:   exchange("EHLO me\r\n", "250 "),
		refusal: "starttls smtp",
		owner:   [2]string{`    mode: "0600"`, `    owner: nobody`},
	},
}

const httpRequest = "GET / HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n"

// give makes a directory somebody's.
func give(s *server, user, dir string) {
	s.t.Helper()
	if out, err := exec.Command("chown", "-R", user+":"+user, s.dir+dir).CombinedOutput(); err != nil {
		s.t.Fatalf("chown: %v: %s", err, out)
	}
}

func startPostgres(s *server) []string {
	data := s.dir + "/var/lib/postgresql/15/main"
	as := []string{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"}
	if _, err := os.Stat(data); err != nil {
		give(s, "postgres", "/var/lib/postgresql/15")
		initdb := append(as, "/usr/lib/postgresql/15/bin/initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-D", data)
		if out, err := exec.Command(initdb[0], initdb[1:]...).CombinedOutput(); err != nil {
			s.t.Fatalf("initdb: %v: %s", err, out)
		}
		conf, err := os.ReadFile(s.file)
		if err != nil {
			s.t.Fatal(err)
		}
		more := "\nfsync = off\nmax_connections = 50\nlisten_addresses = '127.0.0.1'\nport = " + s.port + "\nunix_socket_directories = '" + data + "'\n" + string(conf)
		f, err := os.OpenFile(data+"/postgresql.conf", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(more); err != nil {
			s.t.Fatal(err)
		}
	}
	return append(as, s.program, "-D", data)
}

// askPostgres asks for TLS.
func askPostgres(c net.Conn) error {
	if _, err := c.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil || answer[0] != 'S' {
		return fmt.Errorf("it answers %q, %v", answer, err)
	}
	return nil
}

// loginPostgres logs in.
func loginPostgres(c net.Conn) error {
	m := "\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00"
	if _, err := io.WriteString(c, string([]byte{0, 0, 0, byte(len(m) + 4)})+m); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil || answer[0] != 'R' {
		return fmt.Errorf("it answers %q, %v", answer, err)
	}
	return nil
}

// masterCF is what Postfix needs beside the service of the page.
const masterCF = `postlog unix-dgram n - n - 1 postlogd
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
rewrite unix - - n - - trivial-rewrite
cleanup unix n - n - 0 cleanup
`

func startPostfix(s *server) []string {
	conf := s.dir + "/postfix"
	main, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, dir := range []string{conf, s.dir + "/data"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	give(s, "postfix", "/data")
	for name, text := range map[string]string{"main.cf": string(main), "master.cf": s.smtpd() + masterCF} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	return []string{s.program, "-c", conf, "start-fg"}
}

// smtpd is the service of the page, on the port of this test and where its
// libraries are.
func (s *server) smtpd() string {
	const page, here = "smtp      inet  n       -       y ", "127.0.0.1:%s inet n - n "
	text := blocks(s.t, s.page)["postfix"][1]
	if !strings.Contains(text, page) {
		s.t.Fatalf("the page has no %q", page)
	}
	if text = strings.Replace(text, page, fmt.Sprintf(here, s.port), 1); s.plain {
		text, _, _ = strings.Cut(text, "\n")
	}
	return text + "\n"
}

// A recipeCA issues the certificates called web.
type recipeCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	pool *x509.CertPool
	next int64
}

func newRecipeCA(t testing.TB) *recipeCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Recipe CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := &recipeCA{t: t, key: key, pool: x509.NewCertPool(), next: 0x2000}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.pool.AddCert(ca.cert)
	return ca
}

func (ca *recipeCA) issue() *sinks.Certificate {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	ca.next++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(ca.next), Subject: pkix.Name{CommonName: "web.example"}, DNSNames: []string{"web.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return &sinks.Certificate{Name: "web", Chain: [][]byte{der, ca.cert.Raw}, Serial: strconv.FormatInt(ca.next, 16),
		Key:       secret.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter}
}

// fencedEnv says that the process is fenced already.
const fencedEnv = "SIGNET_TEST_FENCED"

// TestRecipes runs what the pages of docs/recipes say against the real servers.
func TestRecipes(t *testing.T) {
	for _, r := range recipes {
		t.Run(r.page, func(t *testing.T) {
			t.Parallel() // they wait for their servers most of the time
			if r.fencedAgent && os.Getenv(fencedEnv) == "" {
				testFenced(t)
				return
			}
			testRecipe(t, r)
		})
	}
}

// testFenced runs a test again, in a process that is fenced.
func testFenced(t *testing.T) {
	t.Helper()
	name := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.CommandContext(t.Context(), fence[0], append(slices.Clone(fence[1:]), os.Args[0], "-test.v", "-test.run="+name)...)
	cmd.Env = append(os.Environ(), fencedEnv+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("fenced: %v\n%s", err, out)
	switch {
	case err != nil:
		t.Fail()
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.SkipNow() // and says why
	}
}

// mismatched is a configuration that has the key of another certificate
// delivered. Templates say what is in a file, so the agent cannot refuse it.
func mismatched(yaml string) string {
	const key = `{{ (certificate "other").key }}`
	yaml = strings.Replace(yaml, "certificate: web, format: pem-key", "template: '"+key+"'", 1)
	return regexp.MustCompile(`(?m)^    certificate: web\n(    format: .*\n)?`).ReplaceAllString(yaml, "    certificate: web\n    template: '"+key+"{{ .chain }}'\n")
}

// Where Postfix keeps its processes, for a busy server, it has to be told. New
// connections then wait, for a second or as long as a session lasts, and none fails.
func TestPostfixByReload(t *testing.T) {
	t.Parallel()
	r := recipes[slices.IndexFunc(recipes, func(r recipe) bool { return r.page == "postfix" })]
	r.plain = true
	r.edit = func(s *server, yaml string) string {
		return strings.Replace(yaml, "    prove: {", "    "+s.moved(blocks(s.t, s.page)["yaml"][1])+"    prove: {", 1)
	}
	ca, s := newRecipeCA(t), newServer(t, r)
	if !strings.Contains(s.yaml, "reload: {signal:") {
		t.Fatalf("the page has no reload: %s", s.yaml)
	}
	d := s.deliverer(s.yaml)
	d.deliver(t, ca.issue())
	s.up(ca.pool)
	d.start(t)
	d.settled(t, s, stateProven)
	t.Logf("new serial served %v after its delivery", rotate(t, s, d, ca, 3))
}

func testRecipe(t *testing.T, r recipe) {
	ca, s := newRecipeCA(t), newServer(t, r)
	d := s.deliverer(s.yaml)
	d.deliver(t, ca.issue()) // a server does not start without its files
	s.up(ca.pool)
	d.start(t)
	d.settled(t, s, stateProven)

	took := rotate(t, s, d, ca, 3)
	t.Logf("%s: new serial served %v after its delivery", r.page, took)

	current := ca.issue()
	d.deliver(t, current)
	d.settled(t, s, stateProven)
	wrong := ca.issue()
	wrong.Key = ca.issue().Key
	if err := d.files.PublishCertificate(wrong); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("the wrong pair: %v", err)
	}
	s.serves(ca, current, "after the wrong pair")

	d = s.hasty(d, mismatched(s.yaml))
	other := ca.issue()
	other.Name = "other"
	d.deliver(t, other)
	d.deliver(t, ca.issue())
	check(t, "the wrong pair, by a template", d.settled(t, s, stateRolledBack), s.refusal)
	s.revive(ca)
	s.serves(ca, current, "after the wrong pair by a template")
	d = s.hasty(d, s.yaml)

	s.down()
	d.deliver(t, ca.issue())
	check(t, "a dead server", d.settled(t, s, stateRolledBack), "")
	s.wary = s.fenced
	s.up(ca.pool)
	d, current = s.again(d, ca)

	foreign := strings.Replace(s.yaml, r.owner[0], r.owner[1], 1)
	if foreign == s.yaml {
		t.Fatalf("the page has no %q", r.owner[0])
	}
	d = s.hasty(d, foreign)
	next := ca.issue()
	d.deliver(t, next)
	if r.unreadable == "" {
		d.settled(t, s, stateProven)
		s.serves(ca, next, "with files of somebody else's")
		return
	}
	check(t, "files of somebody else's", d.settled(t, s, stateRolledBack), r.unreadable)
	s.revive(ca)
	s.serves(ca, current, "with files of somebody else's")
	s.again(d, ca)
}

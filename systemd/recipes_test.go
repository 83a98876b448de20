package systemd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestRecipeUnits holds that the units that the recipes of the documentation
// name are ones that can be reloaded, and, with the first of them, that systemd
// tells when a server does not take its new certificate.
func TestRecipeUnits(t *testing.T) {
	if _, err := os.Stat("/usr/sbin/nginx"); err != nil {
		if os.Getenv("SIGNET_NEED_SERVERS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	b := newBed(t)
	pages, err := filepath.Glob("../docs/recipes/*.md")
	if err != nil || len(pages) < 8 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	seen := 0
	var server string
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(page) == "nginx.md" {
			server = string(regexp.MustCompile("(?ms)^```nginx\n(.*?)^```$").FindSubmatch(text)[1])
		}
		for _, m := range regexp.MustCompile(`reload: \{unit: (\S+)\}`).FindAllStringSubmatch(string(text), -1) {
			seen++
			if got := b.try("systemctl", "show", "--value", "-p", "LoadState,CanReload", m[1]); got != "yes\nloaded" && got != "loaded\nyes" {
				t.Errorf("%s: unit %s: %q", page, m[1], got)
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d units found", seen)
	}

	b.build("./testdata/service", "/usr/bin/reloader", "0")
	b.write("/etc/nginx/conf.d/recipe.conf", server, 0o644)
	good := selfSigned(t, nil)
	b.write("/etc/nginx/tls/web.pem", good, 0o600)
	b.run("systemctl", "start", "nginx.service")
	reload := func() string { return b.try("/usr/bin/reloader", "consumer", "nginx.service") }
	if got := reload(); got != "" {
		t.Errorf("a good pair: %q", got)
	}
	b.write("/etc/nginx/tls/web.pem", selfSigned(t, newTestKey(t)), 0o600)
	if got := reload(); !strings.Contains(got, "the job is failed") || !strings.Contains(got, "journalctl -u nginx.service") {
		t.Errorf("the wrong pair: %q", got)
	}
	b.write("/etc/nginx/tls/web.pem", good, 0o600)
	if got := reload(); got != "" {
		t.Errorf("a good pair again: %q", got)
	}
	b.run("systemctl", "kill", "-s", "KILL", "nginx.service")
	b.awaitUnit("nginx.service", "failed")
	if got := reload(); !strings.Contains(got, "has failed and does not run") {
		t.Errorf("a dead server: %q", got)
	}
	b.run("systemctl", "start", "nginx.service")
	b.run("systemctl", "stop", "nginx.service")
	if got := reload(); got != "it does not run" {
		t.Errorf("a stopped server: %q", got)
	}
}

// awaitUnit waits until a unit is in a state.
func (b *bed) awaitUnit(unit, want string) {
	b.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); b.try("systemctl", "is-active", unit) != want; {
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("%s is not %s", unit, want)
		}
	}
}

func newTestKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// selfSigned is a PEM of a certificate and its key, or another one.
func selfSigned(t *testing.T, other *ecdsa.PrivateKey) string {
	t.Helper()
	key := newTestKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web.example"}, DNSNames: []string{"web.example"},
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if other != nil {
		key = other
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

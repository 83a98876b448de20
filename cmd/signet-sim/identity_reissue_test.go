package main

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
)

// everyKeyConfig is an agent with a certificate of an appliance's CA for each
// algorithm, with the key in the HSM and in a file.
var everyKeyConfig = template.Must(template.New("").Parse(`
state_dir: {{.State}}
runtime_dir: {{.Dir}}
hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {file: {{.Dir}}/pin}}
{{with .E.CipherTrust}}
upstreams:
  cm: {type: ciphertrust, url: "{{.URL}}", ca_file: {{.CAFile}}, auth: {grant: password, username: {{.Username}}, password: {file: {{.PasswordFile}}}}}
identities:
  host: {issuer: cm, ca: {{.CA}}, duration: 20d, subject: {common_name: host1.example}, key: {type: rsa-2048}}
certificates:
  ecdsa: {issuer: cm, ca: {{.CA}}, duration: 20d, dns_names: [web.example], key: {type: ecdsa-p256}}
  ed: {issuer: cm, ca: {{.CA}}, duration: 20d, dns_names: [web.example], key: {type: ed25519}}
  file-rsa: {issuer: cm, ca: {{.CA}}, duration: 20d, dns_names: [web.example], key: {type: rsa-2048, store: file}}
  file-ecdsa: {issuer: cm, ca: {{.CA}}, duration: 20d, dns_names: [web.example], key: {type: ecdsa-p256, store: file}}
  file-ed: {issuer: cm, ca: {{.CA}}, duration: 20d, dns_names: [web.example], key: {type: ed25519, store: file}}
{{end}}
socket: {path: {{.Dir}}/signet.sock, mode: "0600"}
policy:
  - callers: {users: [{{.User}}]}
    allow: {certificates: ["*"], admin: true}
`))

var everyKey = []string{"host", "ecdsa", "ed", "file-rsa", "file-ecdsa", "file-ed"}

// item is a line of the status.
func (r *identityRig) item(name string) (client.Item, bool) {
	s, err := r.client.Status(r.Context())
	if err != nil {
		return client.Item{}, false
	}
	i := slices.IndexFunc(s.Items, func(i client.Item) bool {
		return i.Name == name && (i.Kind == "identity" || i.Kind == "certificate") && i.Serial != ""
	})
	if i < 0 {
		return client.Item{}, false
	}
	return s.Items[i], true
}

// leaf is a certificate as apps get it.
func (r *identityRig) leaf(name string) *x509.Certificate {
	r.Helper()
	c, err := r.client.Certificate(r.Context(), name)
	if err != nil {
		r.Fatal(err)
	}
	return r.parse([]byte(c.Certificate))
}

// says runs a command and holds what it prints against want.
func (r *identityRig) says(want string, args ...string) {
	r.Helper()
	if out, err := r.command("signet", args...).CombinedOutput(); err != nil || string(out) != want+"\n" {
		r.Errorf("signet %v: %v, %q; want %q", args, err, out, want)
	}
}

// mistake makes the next certificates of the appliance wrong.
func (r *identityRig) mistake(list ...ciphertrusttest.Mistake) {
	r.Helper()
	if err := (controller{r.path("sim")}).call(r.Context(), "PUT", "/ciphertrust/mistakes", list, nil); err != nil {
		r.Fatal(err)
	}
}

// Wherever its key is, and of whatever kind: a certificate of an appliance is
// renewed and rotated when that is said, and a bad one is in nobody's way, also
// over a kill.
func TestCertificatesOfTheApplianceForEveryKindOfKey(t *testing.T) {
	r := newIdentityRig(t)
	r.config = everyKeyConfig
	r.start()
	for _, name := range everyKey {
		r.until("certificate "+name, 60*time.Second, func() bool { _, ok := r.item(name); return ok })
	}
	var compromised []*big.Int
	for _, name := range everyKey {
		first := r.leaf(name)
		r.says(name+": renewed", "renew", name)
		second := r.leaf(name)
		if second.SerialNumber.Cmp(first.SerialNumber) == 0 || !bytes.Equal(first.RawSubjectPublicKeyInfo, second.RawSubjectPublicKeyInfo) {
			t.Errorf("%s: not another certificate for the same key after a renewal", name)
		}
		r.mistake(ciphertrusttest.OtherKey)
		out, err := r.command("signet", "renew", name).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "for another key") {
			t.Errorf("%s: renewed with a bad certificate: %v, %s", name, err, out)
		}
	}
	r.kill()
	r.start()
	for _, name := range everyKey {
		r.until("status of "+name, 30*time.Second, func() bool { i, ok := r.item(name); return ok && i.LastError == "" && i.Making == "" })
		before := r.leaf(name)
		r.mistake(ciphertrusttest.OtherKey)
		if err := r.client.Renew(t.Context(), name); err == nil {
			t.Errorf("%s: renewed with a bad certificate", name)
		}
		r.says(name+": rotated", "rotate", name, "--compromised")
		after := r.leaf(name)
		if bytes.Equal(before.RawSubjectPublicKeyInfo, after.RawSubjectPublicKeyInfo) {
			t.Errorf("%s: no new key", name)
		}
		compromised = append(compromised, before.SerialNumber)
		if i, ok := r.item(name); !ok || i.State != "valid" || i.LastError != "" || i.Serial != whole(after.SerialNumber) {
			t.Errorf("%s: serial %s, status %+v", name, whole(after.SerialNumber), i)
		}
	}
	for _, serial := range compromised {
		if !slices.ContainsFunc(r.revoked(), func(n *big.Int) bool { return n.Cmp(serial) == 0 }) {
			t.Errorf("the certificate %s of a compromised key is not revoked", whole(serial))
		}
	}
	r.stop()
}

// whole is a serial number as openssl prints it, in small letters.
func whole(n *big.Int) string {
	text := n.Text(16)
	return strings.Repeat("0", len(text)%2) + text
}

// A Manager that sees no need for another certificate is no failure, and no
// renewal either.
func TestARenewalThatChangesNothingSaysSo(t *testing.T) {
	r := newIdentityRig(t)
	r.enrolled() // for a year: it is not near its end
	before, _ := r.host()
	r.says("host: unchanged; the issuer sees no need for another certificate yet", "renew", "host")
	if after, ok := r.host(); !ok || after.Serial != before.Serial || after.LastError != "" {
		t.Errorf("from %s to %+v", before.Serial, after)
	}
	r.says("host: rotated", "rotate", "host")
	if log, err := os.ReadFile(r.path("signet.log")); err != nil || bytes.Contains(log, []byte("certificate.renewed")) {
		t.Errorf("%v, or the log tells of a renewal", err)
	}
	r.stop()
	r.vars.Duration = "20d" // so near its end the Manager renews whenever it is asked
	r.start()
	r.until("usable identity", 30*time.Second, r.works)
	r.says("host: rotated", "rotate", "host")
	r.says("host: renewed", "renew", "host")
	r.stop()
}

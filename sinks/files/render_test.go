package files

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

func rendered(t *testing.T, f File, its ...item) (string, error) {
	t.Helper()
	f.Path = "/x"
	e, err := compileEntry(f)
	if err != nil {
		t.Fatal(err)
	}
	all := items{}
	for _, it := range its {
		if it.secret != nil {
			all[secretRef(it.secret.Name)] = it
		} else {
			all[certificateRef(it.cert.Name)] = it
		}
	}
	b, err := e.render(all)
	return string(b), err
}

func TestRenderSecret(t *testing.T) {
	it := item{secret: &sinks.Secret{Name: "my-db", Version: "7", RotatesAt: time.Unix(0, 0), Fields: sinks.FieldsOf(map[string]secret.Value{
		"username": secret.New([]byte("robot")), "password": secret.New([]byte("a\"$`\\<\n"))})}}
	for _, tt := range []struct {
		name string
		f    File
		want string
	}{
		{"raw", File{Secret: "my-db", Field: "password"}, "a\"$`\\<\n"},
		{"json", File{Secret: "my-db", Format: "json"}, `{"password":"a\"$` + "`" + `\\<\n","username":"robot"}` + "\n"},
		{"json of one field", File{Secret: "my-db", Format: "json", Field: "username"}, `{"username":"robot"}` + "\n"},
		{"env", File{Secret: "my-db", Format: "env"}, "MY_DB_PASSWORD=\"a\\\"\\$\\`\\\\<\n\"\nMY_DB_USERNAME=robot\n"},
		{"template", File{Secret: "my-db", Template: "{{ .name }} {{ .version }} {{ .fields.username }} {{ .fields.username | base64 }} {{ .rotates_at }}"},
			"my-db 7 robot cm9ib3Q= 1970-01-01T00:00:00Z"},
	} {
		if got, err := rendered(t, tt.f, it); got != tt.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

// What cannot be delivered right is not delivered, and the error has no value.
func TestRenderSecretRefuses(t *testing.T) {
	it := item{secret: &sinks.Secret{Name: "db", Fields: sinks.FieldsOf(map[string]secret.Value{
		"empty": {}, "binary": secret.New([]byte("hunter2\xff")), "nul": secret.New([]byte("hunter2\x00"))})}}
	for name, f := range map[string]File{
		"empty":          {Secret: "db", Field: "empty"},
		"several":        {Secret: "db"},
		"unknown":        {Secret: "db", Field: "nope"},
		"binary json":    {Secret: "db", Field: "binary", Format: "json"},
		"binary env":     {Secret: "db", Field: "binary", Format: "env"},
		"nul env":        {Secret: "db", Field: "nul", Format: "env"},
		"template field": {Secret: "db", Template: "{{ .fields.nope }}"},
		"template fails": {Secret: "db", Template: "{{ env .fields.nul }}"},
		"template empty": {Secret: "db", Template: "{{ .fields.empty }}"},
	} {
		if got, err := rendered(t, f, it); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// A shell reads a value back as it was.
func TestEnvQuoting(t *testing.T) {
	for _, v := range []string{"plain", "", " a b ", `"'\$HOME`, "`id`", "a\nb", "ü#;&|", "$(id)"} {
		q, err := quoteEnv(v)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", "V="+q+"\nprintf %s \"$V\"").Output()
		if err != nil || string(out) != v {
			t.Errorf("%q as %s is read as %q, %v", v, q, out, err)
		}
	}
}

// A shell that reads the file finds each field, whatever it and the secret are
// called, and two that would have the same name are none.
func TestEnvNames(t *testing.T) {
	of := func(name string, fields ...string) item {
		values := map[string]secret.Value{}
		for _, f := range fields {
			values[f] = secret.New([]byte("of " + f))
		}
		return item{secret: &sinks.Secret{Name: name, Fields: sinks.FieldsOf(values)}}
	}
	for variable, it := range map[string]item{"_1MY_VALUE": of("1my", "value"), "DB_2_X": of("db", "2-x"), "A_B_C": of("a.b", "c")} {
		text, err := rendered(t, File{Secret: it.secret.Name, Format: "env"}, it)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", text+"printf %s \"$"+variable+"\"").CombinedOutput()
		if err != nil || string(out) != "of "+it.secret.Fields[0].Name {
			t.Errorf("%s: read as %q, %v", text, out, err)
		}
	}
	if text, err := rendered(t, File{Secret: "db", Format: "env"}, of("db", "a-b", "a_b")); err == nil || !strings.Contains(err.Error(), "would both be DB_A_B") {
		t.Errorf("%q, %v", text, err)
	}
}

func pair(t *testing.T) (der, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return der, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

func TestRenderCertificate(t *testing.T) {
	der, key := pair(t)
	other, _ := pair(t)
	c := &sinks.Certificate{Name: "web", Chain: [][]byte{der, other}, Key: secret.New(key), Serial: "01"}
	chain := string(sinks.PEM(c.Chain))
	for _, tt := range []struct {
		f    File
		want string
	}{
		{File{}, chain + string(key)},
		{File{Format: "pem-bundle"}, chain + string(key)},
		{File{Format: "pem-bundle-key-first"}, string(key) + chain},
		{File{Format: "pem-chain"}, chain},
		{File{Format: "pem-key"}, string(key)},
		{File{Template: "{{ .certificate }}{{ .key }}"}, string(sinks.PEM(c.Chain[:1])) + string(key)},
	} {
		tt.f.Certificate = "web"
		if got, err := rendered(t, tt.f, item{cert: c}); got != tt.want || err != nil {
			t.Errorf("%s: %v\n%s", tt.f.Format, err, got)
		}
	}
	mixed := *c
	mixed.Chain = [][]byte{other}
	if _, err := rendered(t, File{Certificate: "web"}, item{cert: &mixed}); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("key and certificate of different pairs: %v", err)
	}
	hsm := *c
	hsm.Key, hsm.KeyURI = secret.Value{}, "pkcs11:object=web"
	if _, err := rendered(t, File{Certificate: "web"}, item{cert: &hsm}); err == nil || !strings.Contains(err.Error(), "HSM") {
		t.Errorf("key in the HSM: %v", err)
	}
	if got, err := rendered(t, File{Certificate: "web", Template: "key {{ .key_uri }}"}, item{cert: &hsm}); got != "key pkcs11:object=web" || err != nil {
		t.Errorf("URI of a key in the HSM: %q, %v", got, err)
	}
}

// A PKCS#12 file is read by others, and is the same each time, so that what did
// not change is not written again.
func TestPKCS12(t *testing.T) {
	der, key := pair(t)
	other, _ := pair(t)
	c := &sinks.Certificate{Name: "web", Chain: [][]byte{der, other}, Key: secret.New(key), Serial: "01"}
	f := File{Certificate: "web", Format: "pkcs12", Password: func() (secret.Value, error) { return secret.New([]byte("store-pass")), nil }}
	p12, err := rendered(t, f, item{cert: c})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := rendered(t, f, item{cert: c}); again != p12 || err != nil {
		t.Errorf("not the same bytes: %v", err)
	}
	f.Password = func() (secret.Value, error) { return secret.New([]byte("another")), nil }
	if again, err := rendered(t, f, item{cert: c}); again == p12 || err != nil {
		t.Errorf("the same for another password: %v", err)
	}
	path := filepath.Join(t.TempDir(), "web.p12")
	if err := os.WriteFile(path, []byte(p12), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "openssl", "pkcs12", "-in", path, "-passin", "pass:store-pass", "-nodes").CombinedOutput()
	if err != nil || strings.Count(string(out), "BEGIN CERTIFICATE") != 2 || !strings.Contains(string(out), "BEGIN PRIVATE KEY") {
		t.Errorf("openssl reads: %v\n%s", err, out)
	}
	if keytool, err := exec.LookPath("keytool"); err == nil {
		out, err := exec.CommandContext(t.Context(), keytool, "-list", "-keystore", path, "-storepass", "store-pass").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "PrivateKeyEntry") {
			t.Errorf("Java reads: %v\n%s", err, out)
		}
	}
}

// Templates may name any items, and wait for all of them.
func TestTemplateFunctions(t *testing.T) {
	der, key := pair(t)
	chain := string(sinks.PEM([][]byte{der}))
	db := item{secret: &sinks.Secret{Name: "db", Version: "3", Fields: sinks.FieldsOf(map[string]secret.Value{"user": secret.New([]byte("a b")), "pw": secret.New([]byte("p@:/é\n"))})}}
	web := item{cert: &sinks.Certificate{Name: "web", Chain: [][]byte{der}, Key: secret.New(key), Serial: "0a", Generation: 2}}
	hsm := item{cert: &sinks.Certificate{Name: "hsm", Chain: [][]byte{der}, KeyURI: "pkcs11:token=t;id=%01;type=private"}}
	for text, want := range map[string]string{
		`{{ secret "db" "user" }}`:    "a b",
		`{{ (secret "db").version }}`: "3",
		`postgres://{{ url (secret "db" "user") }}:{{ secret "db" "pw" | url }}@h`: "postgres://a%20b:p%40%3A%2F%C3%A9%0A@h",
		`PW={{ secret "db" "user" | env }}`:                                        `PW="a b"`,
		`{{ secret "db" "user" | json }}`:                                          `"a b"`,
		`{{ secret "db" "user" | base64 }}`:                                        "YSBi",
		"x: |\n  {{ indent 2 \"a\\nb\" }}{{ with secret \"db\" }}{{ end }}":        "x: |\n  a\n  b",
		`{{ (certificate "web").chain }}{{ (certificate "web").key }}`:             chain + string(key),
		`{{ with certificate "web" }}{{ .serial }} {{ .generation }}{{ end }}`:     "0a 2",
		`ssl_certificate_key "engine:pkcs11:{{ (certificate "hsm").key_uri }}";`:   `ssl_certificate_key "engine:pkcs11:pkcs11:token=t;id=%01;type=private";`,
	} {
		if got, err := rendered(t, File{Template: text}, db, web, hsm); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{`{{ secret "db" "nope" }}`, `{{ secret "other" }}`, `{{ (certificate "nope").key }}`} {
		if got, err := rendered(t, File{Template: text}, db, web); err == nil || strings.Contains(err.Error(), "p@") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"nothing", `{{ secret .name }}`, `{{ nope }}`} {
		if _, err := compileEntry(File{Path: "/x", Template: text}); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/socket"
)

// twoTokens is a configuration with an identity on each of two tokens. Nobody
// answers at the issuer: keys are made all the same.
func twoTokens(t *testing.T, s *hsmtest.SoftHSM) *config.Config {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "signet.yaml")
	text := fmt.Sprintf(`
state_dir: %[1]s/state
runtime_dir: %[1]s
hsm:
  - {name: main, module: %[2]s, token: %[3]s, pin: {file: %[4]s}, worker: %[5]s}
  - {name: spare, module: %[2]s, uri: "pkcs11:token=spare;manufacturer=SoftHSM%%20project", pin: {file: %[4]s}, worker: %[5]s, network: true}
upstreams:
  vaults: {type: manager, url: "https://127.0.0.1:1", account_id: 1, register_method: clientRegistration}
  others: {type: manager, url: "https://127.0.0.1:1", account_id: 2}
identities:
  host: {key: {type: ecdsa-p256}, issuer: vaults, subject: {common_name: host.example}, on_token: true}
  other: {key: {type: ecdsa-p384, token: spare}, issuer: others, subject: {common_name: other.example}}
`, dir, s.Module, s.Label, s.PINFile, s.Worker)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range s.Env { // the worker inherits it
		name, value, _ := strings.Cut(env, "=")
		t.Setenv(name, value)
	}
	return cfg
}

// running is an agent as it runs, without its socket and its upstreams.
func running(t *testing.T, cfg *config.Config) *Agent {
	t.Helper()
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	a, err := newAgent(cfg, Options{Log: log}, st)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// eventually waits for what other goroutines bring about.
func eventually(t *testing.T, what string, good func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for {
		err := good()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func all(string) bool { return true }

// TestIdentitiesOnTwoTokens holds that an identity's key is on the token that it
// names, that a token which is closed makes its own keys unavailable and no
// others, and that the certificate is put beside the key where that is wanted.
func TestIdentitiesOnTwoTokens(t *testing.T) {
	s := hsmtest.New(t)
	s.InitToken("spare")
	b := backend{running(t, twoTokens(t, s))}
	eventually(t, "keys", func() error {
		keys, err := b.Keys(all)
		if err == nil && len(keys) != 2 {
			err = fmt.Errorf("%d keys", len(keys))
		}
		return err
	})
	for name, token := range map[string]string{"host": s.Label, "other": "spare"} {
		objects := s.Run("pkcs11-tool", "--module", s.Module, "--token-label", token, "--login", "--pin", hsmtest.PIN, "-O", "--type", "privkey")
		if theirs := map[string]string{"host": "other#1", "other": "host#1"}[name]; !strings.Contains(objects, name+"#1") || strings.Contains(objects, theirs) {
			t.Errorf("token %s has:\n%s", token, objects)
		}
		signs(t, b, name)
	}
	storesCertificate(t, b, s)

	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "0a0b", "--label", "theirs")
	scraped := httptest.NewRecorder()
	b.metrics.handler().ServeHTTP(scraped, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`signet_hsm_open{hsm="spare"} 1`, `signet_hsm_sessions{hsm="main"} 5`} {
		if !strings.Contains(scraped.Body.String(), want+"\n") {
			t.Errorf("metrics have no %s", want)
		}
	}
	found, err := b.Objects(t.Context())
	if text := fmt.Sprintf("%+v", found); err != nil || !strings.Contains(text, "{Token:main ID:0a0b Label:theirs What:private key, public key}") {
		t.Errorf("objects: %s, %v", text, err)
	}
	if text := fmt.Sprintf("%+v", b.Doctor(t.Context())); !strings.Contains(text, `"theirs" id 0a0b`) {
		t.Errorf("doctor: %s", text)
	}
}

// TestSealingKeyRotates holds that the data key is the same under a new sealing
// key, that the old one is gone, and that a rotation that was cut short is
// finished by the next.
func TestSealingKeyRotates(t *testing.T) {
	s := hsmtest.New(t)
	s.InitToken("spare")
	a := running(t, twoTokens(t, s))
	b := backend{a}
	eventually(t, "open", func() error { return closedError(b) })
	sealed := b.store
	before, err := openSealer(t.Context(), b.tokens["main"], sealed)
	if err != nil {
		t.Fatal(err)
	}
	blob := before.seal("x", []byte("state"))
	if err := b.tokens["main"].RotateKEK(t.Context()); err != nil { // and then a crash
		t.Fatal(err)
	}
	if err := b.RotateSealingKey(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	after, err := openSealer(t.Context(), b.tokens["main"], sealed)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := after.open("x", blob); err != nil || string(got) != "state" {
		t.Errorf("%q, %v", got, err)
	}
	if n := strings.Count(s.Tool("-O", "--type", "secrkey"), "Secret Key Object"); n != 1 {
		t.Errorf("%d sealing keys on the token, want 1", n)
	}
}

// closedError is nil when the agent's state is readable.
func closedError(b backend) error {
	if !b.isOpen() {
		return errors.New("the state is sealed yet")
	}
	return nil
}

// signs checks a key as the socket shows it, with its audit.
func signs(t *testing.T, b backend, name string) {
	t.Helper()
	info, err := b.Key(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	audit, _ := info.Attributes["audit"].(keyAudit)
	if !audit.Passed || audit.Read != "refused" || audit.Wrap != "refused" || audit.WrapBy == "" || info.Attributes["CKA_EXTRACTABLE"] != false {
		t.Errorf("attributes of %s: %v", name, info.Attributes)
	}
	block, _ := pem.Decode([]byte(info.PublicKey))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	sig, generation, err := b.Sign(t.Context(), name, socket.SignRequest{Hash: "SHA-256", Digest: digest[:]})
	if err != nil || generation != 1 || !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig) {
		t.Errorf("signature of %s: %d, %v", name, generation, err)
	}
}

func storesCertificate(t *testing.T, b backend, s *hsmtest.SoftHSM) {
	t.Helper()
	v, err := b.keyOf("host")
	if err != nil {
		t.Fatal(err)
	}
	key, err := b.tokens["main"].Key(t.Context(), v.KeyID)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "host.example"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	v.Chain, v.NotBefore, v.NotAfter = [][]byte{der}, template.NotBefore, template.NotAfter
	if err := b.rotators["host"].publish(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if out := s.Tool("-O", "--type", "cert"); !strings.Contains(out, v.KeyID) {
		t.Errorf("certificates on the token:\n%s", out)
	}
}

// TestTokenGone holds that everything that was published goes on being served while
// the token is away, that the status and `signet doctor` say so, and that keys
// are there again when it is back.
func TestTokenGone(t *testing.T) {
	s := hsmtest.New(t)
	s.InitToken("spare")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	cfg := twoTokens(t, s)
	cfg.Policy = []config.Rule{{Callers: config.Callers{Users: []string{me.Username}}, Allow: config.Allow{Secrets: []string{"*"}, Certificates: []string{"*"}}}}
	b := backend{running(t, cfg)}
	eventually(t, "keys", func() error {
		keys, err := b.Keys(all)
		if err == nil && len(keys) != 2 {
			err = fmt.Errorf("%d keys", len(keys))
		}
		return err
	})
	storesCertificate(t, b, s)
	now := time.Now()
	b.publishSecret(&sinks.Secret{Name: "db", Version: "1", Fields: sinks.FieldsOf(value("one")), FetchedAt: now, FreshUntil: now.Add(time.Hour), UsableUntil: now.Add(time.Hour)})
	caller := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", cfg.SocketPath())
	}}}
	served := func(when string) {
		t.Helper()
		for path, want := range map[string]string{"secrets/db": `"password":"one"`, "certificates/host": "BEGIN CERTIFICATE"} {
			resp, err := caller.Get("http://signet/v1/" + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%s, %s: %s %s, %v", path, when, resp.Status, body, err)
			}
		}
	}
	served("with the token")

	away := filepath.Join(s.Dir, "away")
	if err := errors.Join(os.Rename(s.Tokens, away), os.Mkdir(s.Tokens, 0o700)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the status says that the token is gone", func() error {
		if text := fmt.Sprintf("%+v", b.status(time.Now())); !strings.Contains(text, "CKR_TOKEN_NOT_PRESENT") {
			return errors.New(text)
		}
		return nil
	})
	if text := fmt.Sprintf("%+v", b.Doctor(t.Context())); !strings.Contains(text, "Name:hsm main Status:failed") {
		t.Errorf("doctor: %s", text)
	}
	served("without the token")

	if err := errors.Join(os.Remove(s.Tokens), os.Rename(away, s.Tokens)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token is back", func() error {
		_, _, err := b.Sign(t.Context(), "host", socket.SignRequest{Hash: "SHA-256", Digest: make([]byte, 32)})
		return err
	})
	served("with the token again")
}

// TestKeysAreFoundBeforeTheyAreUsed holds that the keys of our certificates, and
// no others, are found and checked when the token opens, so that even the first
// signature with one is one call on the token.
func TestKeysAreFoundBeforeTheyAreUsed(t *testing.T) {
	s := hsmtest.New(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	calls := make(chan string, 100)
	cfg.Observe = func(operation string, _ time.Duration, _ error) { calls <- operation }
	var host hsm.LedgerKey
	opened(t, cfg, func(token *hsm.Token) {
		for _, name := range []string{"other", "host"} {
			k, err := token.Reserve(name, hsm.ECDSAP256)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = token.Ensure(t.Context(), k.ID); err != nil {
				t.Fatal(err)
			}
			host = k
		}
	})
	for len(calls) > 0 {
		<-calls
	}

	opened(t, cfg, func(token *hsm.Token) {
		keys := &tokenKeys{token: token, limit: time.Minute}
		a := &Agent{opened: make(chan struct{}), rotators: map[string]*rotator{"host": {keys: keys, wake: make(chan struct{}, 1)}}}
		close(a.opened)
		ctx, stop := context.WithCancel(t.Context())
		watched := make(chan error, 1)
		go func() { watched <- a.watchToken(ctx, token) }()
		for _, want := range []string{"find", "audit", "sign"} {
			select {
			case got := <-calls:
				if got != want {
					t.Fatalf("%s on the token, want %s", got, want)
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("no %s on the token", want)
			}
		}
		stop()
		if err := <-watched; err != nil {
			t.Error(err)
		}
		if _, err := keys.Signer(host.ID, nil).Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
			t.Error(err)
		}
		if got := <-calls; got != "sign" || len(calls) > 0 {
			t.Errorf("the first signature took %s and %d more calls, want sign alone", got, len(calls))
		}
	})
}

// opened runs a token while it is used.
func opened(t *testing.T, cfg hsm.Config, use func(*hsm.Token)) {
	t.Helper()
	token := hsm.New(cfg)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- token.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-token.Ready()
	use(token)
}

// TestPublishedWhenTheTokenComes holds that a certificate which could not be
// stored on its token at the start is stored when the token comes, once, and
// without anything else happening to it.
func TestPublishedWhenTheTokenComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*24*time.Hour), newMemKeys()
		before := newBench(t, ca, keys, nil)
		if err := before.during(t, time.Hour); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, ca, keys, before.disk)
		var open atomic.Bool
		publish := b.publish
		b.publish = func(ctx context.Context, v version) error {
			if !open.Load() {
				return errors.New("token is not open")
			}
			return publish(ctx, v)
		}
		time.AfterFunc(time.Hour, func() {
			open.Store(true)
			b.poke()
			synctest.Wait()
			if b.last().Generation != 1 {
				t.Error("not stored when the token came")
			}
		})
		if err := b.during(t, 2*time.Hour); err != nil {
			t.Fatal(err)
		}
		if n := len(ca.asked()); len(b.served) != 1 || n != 1 {
			t.Errorf("stored %d times, %d certificates asked for; want one of each", len(b.served), n)
		}
	})
}

// TestClosedTokenIsUnavailable holds that keys are unavailable, not missing,
// while the PIN is refused; that doctor says so with a hint; and that an
// administrator's word has the PIN tried once more.
func TestClosedTokenIsUnavailable(t *testing.T) {
	s := hsmtest.NewShim(t)
	s.InitToken("spare")
	s.WritePIN("9999")
	cfg := twoTokens(t, s.SoftHSM)
	cfg.HSM = cfg.HSM[:1]
	delete(cfg.Identities, "other")
	cfg.HSM[0].Module = s.Path
	for _, env := range s.Env {
		name, value, _ := strings.Cut(env, "=")
		t.Setenv(name, value)
	}
	b := backend{running(t, cfg)}
	eventually(t, "refusal", func() error {
		if err := b.tokens["main"].Status().Err; err == nil || !strings.Contains(err.Error(), "CKR_PIN_INCORRECT") {
			return fmt.Errorf("status: %w", err)
		}
		return nil
	})
	unavailable := func(what string, err error) {
		t.Helper()
		p, ok := errors.AsType[*socket.Problem](err)
		if !ok || p.Code != socket.CodeUnavailable || !strings.Contains(p.Detail, "CKR_PIN_INCORRECT") || p.Hint == "" {
			t.Errorf("%s: %+v", what, err)
		}
	}
	_, err := b.Keys(all)
	unavailable("keys", err)
	if keys, err := b.Keys(func(string) bool { return false }); err != nil || len(keys) != 0 {
		t.Errorf("for a caller who may see none: %v, %v", keys, err)
	}
	_, err = b.Key(t.Context(), "host")
	unavailable("key", err)
	_, err = b.Objects(t.Context())
	unavailable("objects", err)
	if text := fmt.Sprintf("%+v", b.Doctor(t.Context())); !strings.Contains(text, "clear-pin-guard") {
		t.Errorf("doctor: %s", text)
	}

	if err := b.ClearPINGuard(t.Context(), "main"); err != nil {
		t.Error(err)
	}
	if n := len(s.Logins()); n != 2 || b.tokens["main"].Status().Open {
		t.Errorf("%d logins, want one more, and refused", n)
	}
	s.WritePIN(hsmtest.PIN)
	if err := b.ClearPINGuard(t.Context(), "main"); err != nil || !b.tokens["main"].Status().Open {
		t.Errorf("with the right PIN: %v", err)
	}
	if err := b.ClearPINGuard(t.Context(), "nosuch"); err == nil {
		t.Error("a token that is not configured has no guard")
	}
}

package hsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestUnknownObjectsAreLeftAlone holds that what the ledger does not know is
// reported and survives everything that Signet does, even the cleaning up after a
// generation that may have been cut short, and even without a name.
func TestUnknownObjectsAreLeftAlone(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "0a0b", "--label", "theirs")
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1")
	token, stop := open(t, s.Config(ledger, guard))
	newKey(t, token, "host", hsm.ECDSAP256)
	if _, err := token.Reserve("late", hsm.ECDSAP256); err != nil {
		t.Fatal(err)
	}
	stop()
	token, _ = open(t, s.Config(ledger, guard))
	settle(t, token)
	unknown, err := token.Unknown(t.Context())
	want := []hsm.Object{
		{ID: "0a0b", Label: "theirs", What: "private key, public key"},
		{What: "private key without ID"}, {What: "public key without ID"},
	}
	if diff := cmp.Diff(want, unknown); err != nil || diff != "" {
		t.Errorf("unknown objects (-want +got): %v\n%s", err, diff)
	}
}

// TestIntentBeforeGeneration holds that nothing is made on the token that is not
// written down before, and that a reserved key that is no longer wanted can go.
func TestIntentBeforeGeneration(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	broken := errors.New("disk full")
	sick := s.Config(&hsmtest.Ledger{OnSave: func(hsm.LedgerKey) error { return broken }}, nil)
	other, stop := open(t, sick)
	if _, err := other.Reserve("host", hsm.ECDSAP256); !errors.Is(err, broken) {
		t.Errorf("Reserve with a broken ledger: %v", err)
	}
	if _, err := other.Wrap(t.Context(), []byte("x")); !errors.Is(err, broken) {
		t.Errorf("Wrap with a broken ledger: %v", err)
	}
	stop()
	if unknown, err := token.Unknown(t.Context()); err != nil || len(unknown) > 0 {
		t.Errorf("on the token: %v, %v", unknown, err)
	}

	k, err := token.Reserve("host", hsm.ECDSAP256)
	if err != nil || k.State != hsm.Intended || len(k.ID) != 32 {
		t.Fatalf("%+v, %v", k, err)
	}
	if err := token.SetState(k.ID, hsm.Retired); err != nil {
		t.Error(err)
	}
	if _, err := token.Ensure(t.Context(), k.ID); !errors.Is(err, hsm.ErrState) {
		t.Errorf("Ensure of a retired key: %v", err)
	}
	if err := token.Destroy(t.Context(), k.ID); err != nil {
		t.Error(err)
	}
}

// TestDestroyOnlyRetired holds that only a key that the ledger calls retired can
// be destroyed, and that states only move on.
func TestDestroyOnlyRetired(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	id := key.Info().ID
	for _, state := range []hsm.State{hsm.Live, hsm.Retiring} {
		if err := token.SetState(id, state); err != nil {
			t.Fatal(err)
		}
		if err := token.Destroy(t.Context(), id); !errors.Is(err, hsm.ErrState) {
			t.Errorf("Destroy of a key that is %s: %v, want ErrState", state, err)
		}
		if err := signOnce(key); err != nil {
			t.Error(err)
		}
	}
	for _, back := range []hsm.State{hsm.Live, hsm.Intended, hsm.Destroyed} {
		if err := token.SetState(id, back); !errors.Is(err, hsm.ErrState) {
			t.Errorf("from retiring to %s: %v, want ErrState", back, err)
		}
	}
	if err := token.SetState(id, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it may be repeated
		if err := token.Destroy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if out := s.Tool("-O"); strings.Contains(out, "host#1") {
		t.Errorf("still on the token:\n%s", out)
	}
	if err := signOnce(key); !errors.Is(err, hsm.ErrKeyLost) {
		t.Errorf("signing with a destroyed key: %v", err)
	}
	if err := token.Destroy(t.Context(), "00"); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("destroying what is not known: %v", err)
	}
}

// TestLostKeyIsNeverMadeAnew holds that a live key that is not on the token is an
// error, not a reason to generate; other keys go on working.
func TestLostKeyIsNeverMadeAnew(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, stop := open(t, s.Config(ledger, guard))
	lost, kept := newKey(t, token, "lost", hsm.ECDSAP256), newKey(t, token, "kept", hsm.ECDSAP256)
	stop()
	for _, typ := range []string{"privkey", "pubkey"} {
		s.Tool("--delete-object", "--type", typ, "--id", lost.Info().ID)
	}
	token, _ = open(t, s.Config(ledger, guard))
	_, err := token.Ensure(t.Context(), lost.Info().ID)
	var e *hsm.Error
	if !errors.Is(err, hsm.ErrKeyLost) || !errors.As(err, &e) || e.Code() != "unavailable" || e.Hint() == "" {
		t.Errorf("got %v, want ErrKeyLost", err)
	}
	if got := token.Status().Lost; !slices.Equal(got, []string{"lost#1"}) {
		t.Errorf("status says %v are lost", got)
	}
	if _, err := token.Key(t.Context(), kept.Info().ID); err != nil {
		t.Error(err)
	}
}

// TestLostKeyIsForgiven holds that a key is called lost only as long as it is
// missed: no more once the token has it again, or once it was given up.
func TestLostKeyIsForgiven(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	restored, replaced := newKey(t, token, "restored", hsm.ECDSAP256).Info(), newKey(t, token, "replaced", hsm.ECDSAP256).Info()
	for _, k := range []hsm.LedgerKey{restored, replaced} {
		for _, typ := range []string{"privkey", "pubkey"} {
			s.Tool("--delete-object", "--type", typ, "--id", k.ID)
		}
	}
	lost := func(want ...string) {
		t.Helper()
		if _, err := token.Unknown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := token.Status().Lost; !slices.Equal(got, want) {
			t.Errorf("lost are %q, want %q", got, want)
		}
	}
	lost("replaced#1", "restored#1")
	changed := token.Changed()
	lost("replaced#1", "restored#1")
	select {
	case <-changed:
		t.Error("that a key is still lost is told as a change")
	default:
	}
	if err := token.SetState(replaced.ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	lost("restored#1")
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", restored.ID, "--label", "restored#1")
	lost()
}

// TestAuditRefusesWeakKeys holds that a key that can leave the token is not used,
// even if the ledger calls it live; and that such an object under the ID of an
// intent is replaced by a good key.
func TestAuditRefusesWeakKeys(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	weak, err := token.Reserve("weak", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", weak.ID, "--label", "weak", "--extractable")
	info, err := token.Info(t.Context(), weak.ID)
	if err != nil || info.Audit.Passed || info.Audit.Wrap != "allowed" {
		t.Errorf("audit of an extractable key: %+v, %v", info.Audit, err)
	}
	live := weak
	live.State = hsm.Live
	if err := ledger.SaveKey(live); err != nil {
		t.Fatal(err)
	}
	if _, err := token.Key(t.Context(), weak.ID); !errors.Is(err, hsm.ErrUntrusted) {
		t.Errorf("use of an extractable key: %v, want ErrUntrusted", err)
	}
	if err := ledger.SaveKey(weak); err != nil {
		t.Fatal(err)
	}
	if _, err := token.Ensure(t.Context(), weak.ID); err != nil {
		t.Fatal(err)
	}
	info, err = token.Info(t.Context(), weak.ID)
	if err != nil || !info.Audit.Passed || info.Audit.Read != "refused" || info.Audit.Wrap != "refused" {
		t.Errorf("audit of a key made by us: %+v, %v", info.Audit, err)
	}
	for name, want := range map[string]any{"CKA_SENSITIVE": true, "CKA_ALWAYS_SENSITIVE": true, "CKA_EXTRACTABLE": false,
		"CKA_NEVER_EXTRACTABLE": true, "CKA_LOCAL": true, "CKA_KEY_GEN_MECHANISM": float64(0x1040)} {
		if info.Attributes[name] != want {
			t.Errorf("%s is %v, want %v", name, info.Attributes[name], want)
		}
	}
}

// TestReplacedKeyIsNotUsed holds that another key put under the ID of one in use
// is noticed when the token is opened again.
func TestReplacedKeyIsNotUsed(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	id := key.Info().ID
	for _, typ := range []string{"privkey", "pubkey"} {
		s.Tool("--delete-object", "--type", typ, "--id", id)
	}
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", id, "--label", "host#1")
	if err := signOnce(key); !errors.Is(err, hsm.ErrUntrusted) {
		t.Errorf("got %v, want ErrUntrusted", err)
	}
}

// TestVerdictIsOfTheKey holds that remains whose halves do not belong together
// are made anew, and that what was found of them is not held against the key that
// has their ID next.
func TestVerdictIsOfTheKey(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	k, err := token.Reserve("host", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&other.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(s.Dir, "other.der")
	if err := os.WriteFile(public, der, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", k.ID, "--label", "host#1")
	s.Tool("--delete-object", "--type", "pubkey", "--id", k.ID)
	s.Tool("--write-object", public, "--type", "pubkey", "--id", k.ID, "--label", "host#1")
	key, err := token.Ensure(t.Context(), k.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := signOnce(key); err != nil {
		t.Error(err)
	}
}

// TestBadConfigurations holds that what cannot be opened says why, and by which
// name.
func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	s, _, _ := fresh(t)
	s.InitToken("twin")
	s.InitToken("twin")
	text := filepath.Join(s.Dir, "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*hsm.Config)
		want   string
	}{
		{"no such label", func(c *hsm.Config) { c.Label = "other" }, "CKR_TOKEN_NOT_PRESENT"},
		{"no such serial", func(c *hsm.Config) { c.Serial = "0" }, "CKR_TOKEN_NOT_PRESENT"},
		{"two with one label", func(c *hsm.Config) { c.Label = "twin" }, "TOKEN_AMBIGUOUS"},
		{"no library", func(c *hsm.Config) { c.Module = text }, "NOT_A_PKCS11_MODULE"},
		{"a library of something else", func(c *hsm.Config) { c.Module = "libc.so.6" }, "NOT_A_PKCS11_MODULE"},
		{"no such file", func(c *hsm.Config) { c.Module = "/nowhere.so" }, "NOT_A_PKCS11_MODULE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := s.Config(&hsmtest.Ledger{}, nil)
			tt.change(&cfg)
			token, _ := start(t, cfg)
			if e := closedBy(t, token); e.Name != tt.want || e.Hint() == "" {
				t.Errorf("got %v (name %q, hint %q), want %s", e, e.Name, e.Hint(), tt.want)
			}
		})
	}
	t.Run("nothing says which token", func(t *testing.T) {
		cfg := s.Config(&hsmtest.Ledger{}, nil)
		cfg.Label = ""
		token, _ := start(t, cfg)
		if _, err := token.Wrap(t.Context(), []byte("x")); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("got %v, want ErrInvalid", err)
		}
	})
	t.Run("chosen by serial", func(t *testing.T) {
		cfg := s.Config(&hsmtest.Ledger{}, nil)
		cfg.Label = "twin"
		token, stop := start(t, cfg)
		serials := regexp.MustCompile(`serial ([0-9a-f]+)`).FindAllStringSubmatch(closedBy(t, token).Error(), -1)
		stop()
		for _, found := range serials { // the error has named both
			cfg.Serial = found[1]
			token, stop := open(t, cfg)
			if got := token.Status().Serial; got != cfg.Serial {
				t.Errorf("opened serial %s, want %s", got, cfg.Serial)
			}
			stop()
		}
		if len(serials) != 2 {
			t.Errorf("the error names serials %v, want both", serials)
		}
	})
	t.Run("chosen by URI", func(t *testing.T) {
		cfg := s.Config(&hsmtest.Ledger{}, nil)
		cfg.URI = "pkcs11:token=" + cfg.Label + ";model=SoftHSM%20v2?module-path=" + cfg.Module + "&pin-source=file:" + s.PINFile
		cfg.Label, cfg.Module, cfg.PIN = "", "", hsm.PINSource{}
		open(t, cfg)
	})
}

// TestCertificateBesideItsKey holds that a certificate can be kept on the token,
// replaced, found with its key, and goes with it; and that it must be its key's.
func TestCertificateBesideItsKey(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	key, other := newKey(t, token, "host", hsm.ECDSAP256), newKey(t, token, "other", hsm.ECDSAP256)
	id := key.Info().ID
	for range 2 {
		cert := selfSigned(t, key)
		for range 2 { // it may be repeated
			if err := token.StoreCertificate(t.Context(), id, cert.Raw); err != nil {
				t.Fatal(err)
			}
		}
		info, err := token.Info(t.Context(), id)
		if err != nil || !bytes.Equal(info.Certificate, cert.Raw) {
			t.Errorf("the token has another certificate; %v", err)
		}
	}
	if n := strings.Count(s.Tool("-O", "--type", "cert"), "Certificate Object"); n != 1 {
		t.Errorf("%d certificates on the token, want 1", n)
	}
	if err := token.StoreCertificate(t.Context(), id, selfSigned(t, other).Raw); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("the certificate of another key: %v, want ErrInvalid", err)
	}
	if err := token.SetState(id, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	if err := token.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if out := s.Tool("-O"); strings.Contains(out, id) {
		t.Errorf("still on the token:\n%s", out)
	}
}

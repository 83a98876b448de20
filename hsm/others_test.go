package hsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// A stranger is what another program could bring to the token: a public key and a
// certificate for it, as files in DER.
type stranger struct{ public, cert string }

func newStranger(t *testing.T) stranger {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "theirs"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s := stranger{filepath.Join(t.TempDir(), "public.der"), filepath.Join(t.TempDir(), "cert.der")}
	for name, content := range map[string][]byte{s.public: public, s.cert: cert} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// files are the objects on the tokens, as SoftHSM keeps them. That of the token itself
// counts logins.
func files(t *testing.T, s *hsmtest.SoftHSM) map[string][]byte {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(s.Tokens, "*", "*.object"))
	found := map[string][]byte{}
	for _, name := range names {
		if filepath.Base(name) == "token.object" {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = b
	}
	return found
}

// TestOthersObjectsAreLeftAlone holds that what other programs keep on the token is
// listed, stays as it is, and is in the way of nothing, though it has the names or
// even the IDs of our keys: data, which has no ID by the standard, and certificates and
// public keys without a private one.
func TestOthersObjectsAreLeftAlone(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, stop := open(t, s.Config(ledger, guard))
	host := newKey(t, token, "host", hsm.ECDSAP256).Info()
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	late, err := token.Reserve("late", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	stop()

	ours := files(t, s)
	other := newStranger(t)
	s.Tool("--write-object", other.cert, "--type", "data", "--label", "host#1", "--application-id", "1.2.3.4", "--application-label", "theirs")
	s.Tool("--write-object", other.cert, "--type", "data", "--label", "late#1", "--private")
	s.Tool("--write-object", other.cert, "--type", "data", "--application-id", "1.2.3.4") // without any name
	for _, k := range []hsm.LedgerKey{host, late} {
		id, err := hex.DecodeString(k.ID)
		if err != nil {
			t.Fatal(err)
		}
		s.WriteObject(map[uint]any{pkcs11.CKA_CLASS: uint(pkcs11.CKO_DATA), pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: false,
			pkcs11.CKA_ID: id, pkcs11.CKA_OBJECT_ID: id, pkcs11.CKA_LABEL: []byte(k.String()), pkcs11.CKA_VALUE: []byte("theirs"),
			// What follows, SoftHSM adds to the file when it reads it.
			pkcs11.CKA_APPLICATION: []byte{}, pkcs11.CKA_MODIFIABLE: true, pkcs11.CKA_COPYABLE: true, pkcs11.CKA_DESTROYABLE: true})
	}
	s.Tool("--write-object", other.cert, "--type", "cert", "--id", late.ID, "--label", "late#1")
	s.Tool("--write-object", other.cert, "--type", "cert", "--label", "host#1", "--id", "0b")
	s.Tool("--write-object", other.public, "--type", "pubkey", "--label", "host#1", "--id", "0a")
	theirs := files(t, s)
	for name := range ours {
		delete(theirs, name)
	}
	if len(theirs) != 8 {
		t.Fatalf("%d objects of others", len(theirs))
	}

	token, _ = open(t, s.Config(ledger, guard))
	listed := []string{"host#1 certificate", "host#1 public key", "data without ID", "host#1 data without ID",
		"host#1 data without ID", "late#1 data without ID", "late#1 data without ID"}
	if diff := cmp.Diff(listed, unknown(t, token)); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	settle(t, token)
	for _, k := range []hsm.LedgerKey{host, late} {
		key, err := token.Key(t.Context(), k.ID)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := token.Info(t.Context(), k.ID); err != nil || !info.Audit.Passed {
			t.Errorf("%v: %+v, %v", k, info.Audit, err)
		}
		if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := signOnce(key); err != nil {
			t.Error(err)
		}
	}
	if got, err := token.Unwrap(t.Context(), blob); err != nil || string(got) != "data key" {
		t.Errorf("Unwrap: %q, %v", got, err)
	}
	if lost := token.Status().Lost; len(lost) > 0 {
		t.Errorf("lost: %q", lost)
	}
	if err := token.SetState(host.ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	if err := token.Destroy(t.Context(), host.ID); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(listed, unknown(t, token)); diff != "" {
		t.Errorf("listed at the end (-want +got):\n%s", diff)
	}
	now := files(t, s)
	for name, content := range theirs {
		if !bytes.Equal(now[name], content) {
			t.Errorf("%s has changed", filepath.Base(name))
		}
	}
}

// TestOthersHalfUnderOurID holds that a certificate that somebody has put under the ID
// of our key is in the way of nothing, and that a public key there keeps the token
// neither closed nor from being listed: only which of two halves is ours is not guessed.
func TestOthersHalfUnderOurID(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, stop := open(t, s.Config(ledger, guard))
	held := newKey(t, token, "host", hsm.ECDSAP256)
	host, cert := held.Info(), selfSigned(t, held)
	other := newStranger(t)
	s.Tool("--write-object", other.cert, "--type", "cert", "--id", host.ID, "--label", "theirs")
	stop()
	token, stop = open(t, s.Config(ledger, guard))
	if key, err := token.Key(t.Context(), host.ID); err != nil || signOnce(key) != nil {
		t.Errorf("with their certificate: %v", err)
	}
	if info, err := token.Info(t.Context(), host.ID); err != nil || info.Certificate != nil {
		t.Errorf("their certificate is shown as that of our key; %v", err)
	}
	for range 2 {
		if err := token.StoreCertificate(t.Context(), host.ID, cert.Raw); err != nil {
			t.Error(err)
		}
	}
	if info, err := token.Info(t.Context(), host.ID); err != nil || !bytes.Equal(info.Certificate, cert.Raw) {
		t.Errorf("our certificate is not shown; %v", err)
	}
	nothingUnexplained(t, token)
	stop()

	s.Tool("--write-object", other.public, "--type", "pubkey", "--id", host.ID, "--label", "theirs")
	before := files(t, s)
	token, _ = open(t, s.Config(ledger, guard))
	if _, err := token.Key(t.Context(), host.ID); !errors.Is(err, hsm.ErrUntrusted) || !strings.Contains(err.Error(), "2 times public key") {
		t.Errorf("with their public key: %v, want ErrUntrusted", err)
	}
	nothingUnexplainedBut(t, token, "host#1 private key, 2 times public key, 2 times certificate with the ID of our key host#1")
	if _, err := token.Info(t.Context(), host.ID); err != nil {
		t.Errorf("it cannot be shown: %v", err)
	}
	if lost := token.Status().Lost; len(lost) > 0 {
		t.Errorf("lost: %q", lost)
	}
	if diff := cmp.Diff(before, files(t, s)); diff != "" {
		t.Errorf("on the token (-want +got):\n%s", diff)
	}
	s.Tool("--delete-object", "--type", "pubkey", "--label", "theirs")
	goesOn(t, token, "use", func() error {
		key, err := token.Key(t.Context(), host.ID)
		if err != nil {
			return err
		}
		return signOnce(key)
	})
	if err := token.SetState(host.ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	if err := token.Destroy(t.Context(), host.ID); err != nil {
		t.Fatal(err)
	}
	nothingUnexplainedBut(t, token, "theirs certificate")
}

// TestDestroyDoesNotGuess holds that of two keys with one ID none is destroyed when it
// is not known which is ours, and that ours is when the other is gone.
func TestDestroyDoesNotGuess(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	host := newKey(t, token, "host", hsm.ECDSAP256).Info()
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", host.ID, "--label", "theirs")
	before := files(t, s)
	if err := token.SetState(host.ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	var e *hsm.Error
	if err := token.Destroy(t.Context(), host.ID); !errors.As(err, &e) || e.Name != "KEY_AMBIGUOUS" || e.Hint() == "" {
		t.Errorf("got %v, want KEY_AMBIGUOUS with a hint", err)
	}
	if diff := cmp.Diff(before, files(t, s)); diff != "" {
		t.Errorf("on the token (-want +got):\n%s", diff)
	}
	for _, typ := range []string{"privkey", "pubkey"} {
		s.Tool("--delete-object", "--type", typ, "--label", "theirs")
	}
	if err := token.Destroy(t.Context(), host.ID); err != nil {
		t.Error(err)
	}
	nothingUnexplainedBut(t, token)
}

// TestCertificateIsStoredOnce holds that a token which does not let the old certificate
// go is not filled with copies of the new one by trying again.
func TestCertificateIsStoredOnce(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	store := func(der []byte) error { return token.StoreCertificate(t.Context(), key.Info().ID, der) }
	if err := store(selfSigned(t, key).Raw); err != nil {
		t.Fatal(err)
	}
	next := selfSigned(t, key).Raw
	s.Rules("C_DestroyObject 0 0x6")
	for range 3 {
		if err := store(next); err == nil {
			t.Error("the old one is gone")
		}
	}
	if n := strings.Count(s.Tool("-O", "--type", "cert"), "Certificate Object"); n != 2 {
		t.Errorf("%d certificates on the token, want the old and the new one", n)
	}
	s.Rules()
	if err := store(next); err != nil {
		t.Error(err)
	}
	if info, err := token.Info(t.Context(), key.Info().ID); err != nil || !bytes.Equal(info.Certificate, next) {
		t.Errorf("the token has another certificate; %v", err)
	}
	if n := strings.Count(s.Tool("-O", "--type", "cert"), "Certificate Object"); n != 1 {
		t.Errorf("%d certificates on the token, want 1", n)
	}
}

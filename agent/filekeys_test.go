package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// memDrawer is a drawer in memory.
type memDrawer map[string][]byte

func (m memDrawer) Record(kind, name string) ([]byte, error) { return m[kind+"/"+name], nil }
func (m memDrawer) SaveRecord(kind, name string, v []byte) error {
	m[kind+"/"+name] = v
	return nil
}
func (m memDrawer) DeleteRecord(kind, name string) error { delete(m, kind+"/"+name); return nil }
func (m memDrawer) Records(kind string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for k, v := range m {
		if name, ok := strings.CutPrefix(k, kind+"/"); ok {
			out[name] = v
		}
	}
	return out, nil
}

func newFileKeys(t *testing.T, typ hsm.KeyType, store drawer) *fileKeys {
	t.Helper()
	s, err := newSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &fileKeys{typ: typ, store: store, sealer: func() *sealer { return s }}
}

// A key in a file is at rest only sealed, the same after a restart, and in clear
// where it is delivered.
func TestKeysInFilesAreSealedAtRest(t *testing.T) {
	for _, typ := range []hsm.KeyType{hsm.RSA2048, hsm.ECDSAP256, hsm.ECDSAP384, hsm.ECDSAP521, hsm.Ed25519} {
		t.Run(string(typ), func(t *testing.T) {
			store := memDrawer{}
			keys := newFileKeys(t, typ, store)
			id, gen, err := keys.Reserve("web")
			if err != nil || gen != 1 {
				t.Fatal(id, gen, err)
			}
			if _, err := keys.pem(id); err == nil {
				t.Error("a key that is not made was delivered")
			}
			key, err := keys.Ensure(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			again, err := newFileKeys(t, typ, store).Ensure(t.Context(), id)
			if err != nil || !again.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				t.Fatalf("another key after a restart: %v", err)
			}
			value, err := keys.pem(id)
			if err != nil {
				t.Fatal(err)
			}
			block, rest := pem.Decode(value.Reveal())
			if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
				t.Fatal("not PKCS#8 in PEM")
			}
			if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
				t.Fatal(err)
			}
			for where, blob := range store {
				if bytes.Contains(blob, block.Bytes[len(block.Bytes)-16:]) {
					t.Errorf("the key is in clear in %s", where)
				}
			}
			digest := sha256.Sum256([]byte("x"))
			data, opts := digest[:], crypto.SignerOpts(crypto.SHA256)
			if typ == hsm.Ed25519 {
				data, opts = []byte("x"), crypto.Hash(0)
			}
			if _, err := keys.Signer(id, key.Public()).Sign(rand.Reader, data, opts); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeysInFilesOfOtherNamesAndHostsAreNotTaken(t *testing.T) {
	store := memDrawer{}
	keys := newFileKeys(t, hsm.ECDSAP256, store)
	for _, name := range []string{"web", "mail"} {
		id, _, err := keys.Reserve(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Ensure(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	f, err := keys.read("mail#1")
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.write("web#1", f); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Ensure(t.Context(), "web#1"); err == nil {
		t.Error("another certificate's key was taken for this one's")
	}
}

func TestOnlyReservedKeysInFilesAreForgotten(t *testing.T) {
	store := memDrawer{}
	keys := newFileKeys(t, hsm.ECDSAP256, store)
	for range 3 { // #1 made, #2 kept, #3 forgotten
		if _, _, err := keys.Reserve("web"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := keys.Ensure(t.Context(), "web#1"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keys.Reserve("other"); err != nil {
		t.Fatal(err)
	}
	if err := keys.Forget(t.Context(), "web", []string{"web#2"}); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for k := range maps.Keys(store) {
		got[k] = true
	}
	if len(got) != 3 || got[kindFileKey+"/web#3"] || !got[kindFileKey+"/other#1"] {
		t.Errorf("left: %v", got)
	}
	for range 2 { // retiring again does nothing
		if err := keys.Retire(t.Context(), "web#1"); err != nil {
			t.Error(err)
		}
	}
}

// A certificate with its key in a file goes the same way as one in the HSM: what
// is delivered belongs together, through renewals, rotations and restarts.
func TestCertificateWithItsKeyInAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, store := newTestCA(t, 30*day), memDrawer{}
		var disk []byte
		for range 2 {
			b := newBench(t, ca, newMemKeys(), disk)
			keys := newFileKeys(t, hsm.ECDSAP256, store)
			b.keys, b.spec.RotateEvery = keys, 50*day
			served := b.publish
			b.publish = func(ctx context.Context, v version) error {
				key, err := keys.pem(v.KeyID)
				if err != nil {
					return err
				}
				chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Chain[0]})
				if _, err := tls.X509KeyPair(chain, key.Reveal()); err != nil {
					t.Error(err)
				}
				return served(ctx, v)
			}
			if err := b.during(t, 70*day); err != nil {
				t.Fatal(err)
			}
			if left := time.Until(b.last().NotAfter); left < 9*day {
				t.Errorf("%v left", left)
			}
			disk = b.disk
		}
		if len(store) != 1 {
			t.Errorf("%d keys kept, want the one in use", len(store))
		}
		var rec record
		if err := json.Unmarshal(disk, &rec); err != nil || rec.Current.Generation < 3 {
			t.Errorf("generation %d, %v", rec.Current.Generation, err)
		}
	})
}

// A crash between ledger and record leaves a key that nobody remembers: at the
// next start it is gone, whether it was made or not, and no other is.
func TestForgottenKeysOfTheTokenAreTidiedAway(t *testing.T) {
	token := hsmtest.New(t)
	ledger := &hsmtest.Ledger{}
	tok := hsm.New(token.Config(ledger, &hsmtest.Guard{}))
	run(t, tok)
	keys := &tokenKeys{tok, hsm.ECDSAP256, 0, map[string]*hsm.Token{"default": tok}}
	var ids []string
	for range 4 { // #1 in use, #2 reserved and remembered, #3 and #4 forgotten
		id, _, err := keys.Reserve("host")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if _, err := keys.Ensure(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := keys.Forget(t.Context(), "host", ids[:2]); err != nil {
			t.Fatal(err)
		}
	}
	want := []hsm.State{hsm.Live, hsm.Intended, hsm.Destroyed, hsm.Destroyed}
	for i, k := range tok.Keys() {
		if k.Name == "host" && k.State != want[k.Generation-1] {
			t.Errorf("%d: %s is %s, want %s", i, k, k.State, want[k.Generation-1])
		}
	}
	for range 2 { // as after a crash between the destruction and its record
		if err := keys.Retire(t.Context(), ids[0]); err != nil {
			t.Error(err)
		}
	}
	if left, err := tok.Unknown(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left on the token: %v, %v", left, err)
	}
}

// run opens a token until the test ends.
func run(t *testing.T, tok *hsm.Token) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- tok.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-tok.Ready()
}

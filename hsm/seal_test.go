package hsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestSealing holds that what is sealed opens on this token only, unchanged only,
// and after the sealing key was replaced.
func TestSealing(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	secret := []byte("0123456789abcdef0123456789abcdef")
	blob, err := token.Wrap(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(blob, secret) {
		t.Error("the blob shows what it seals")
	}
	changed := func(what string, blob []byte, workers int) {
		t.Helper()
		before := token.Status().Restarts
		if _, err := token.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrSealed) {
			t.Errorf("%s: %v, want ErrSealed", what, err)
		}
		if n := token.Status().Restarts - before; n != workers {
			t.Errorf("%s: it cost %d workers, want %d", what, n, workers)
		}
	}
	head, nonce := 21, 33 // where they end: what the module is not asked about, and what it is
	for i := range head {
		for bit := range 8 {
			changed(fmt.Sprintf("byte %d, bit %d changed", i, bit), flipped(blob, i, 1<<bit), 0)
		}
	}
	for i := range nonce + 1 {
		changed(fmt.Sprintf("cut to %d bytes", i), blob[:i], 0)
	}
	for what, i := range map[string]int{"nonce": head, "ciphertext": nonce, "tag": len(blob) - 1} {
		changed(what+" changed", flipped(blob, i, 1), 2)
	}
	changed("cut by a byte", blob[:len(blob)-1], 2)
	if err := token.RotateKEK(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := token.Wrap(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{blob, second} {
		if got, err := token.Unwrap(t.Context(), b); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("Unwrap: %x, %v", got, err)
		}
	}
	if err := token.RetireKEKs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := token.Unwrap(t.Context(), second); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("Unwrap: %x, %v", got, err)
	}
	if _, err := token.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrSealed) {
		t.Errorf("sealed with a key that was destroyed: %v, want ErrSealed", err)
	}
	// Another host that shares the token has another ledger.
	neighbour, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	if _, err := neighbour.Unwrap(t.Context(), second); !errors.Is(err, hsm.ErrSealed) {
		t.Errorf("on another host: %v, want ErrSealed", err)
	}
}

// TestSealingWithoutAES holds that a token without AES seals by RSA-OAEP, with
// the hash that it knows.
func TestSealingWithoutAES(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	intent := hsm.LedgerKey{ID: "00112233445566778899aabbccddeeff", Token: "default", Name: "kek", Generation: 1, Type: "rsa-2048-oaep", State: hsm.Intended}
	if err := ledger.SaveKey(intent); err != nil {
		t.Fatal(err)
	}
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := token.Unwrap(t.Context(), blob); err != nil || string(got) != "data key" {
		t.Errorf("Unwrap: %q, %v", got, err)
	}
	const head = 21 // what the module is not asked about
	for i := range head {
		for _, change := range []byte{1, 2, 3, 0x80} {
			if _, err := token.Unwrap(t.Context(), flipped(blob, i, change)); !errors.Is(err, hsm.ErrSealed) {
				t.Errorf("byte %d changed by %#x: %v, want ErrSealed", i, change, err)
			}
		}
	}
	if token.Status().Restarts > 0 {
		t.Error("that cost a worker")
	}
	for _, i := range []int{head + 1, len(blob) - 1} {
		if _, err := token.Unwrap(t.Context(), flipped(blob, i, 1)); !errors.Is(err, hsm.ErrSealed) {
			t.Errorf("byte %d changed: %v, want ErrSealed", i, err)
		}
	}
}

func flipped(blob []byte, i int, by byte) []byte {
	changed := bytes.Clone(blob)
	changed[i] ^= by
	return changed
}

// TestBrokenTokenIsNoBrokenBlob holds that only what a module says of the blob is
// held against it: when it has lost the key, or something went wrong, the blob opens
// later, or the error has its name. What says nothing is held against the blob if two
// workers say it, and of this blob alone.
func TestBrokenTokenIsNoBrokenBlob(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule, name string // name is that of the error, empty if there is none
		workers    int
	}{
		{"C_Decrypt 0 0x82 once", "", 1},
		{"C_Decrypt 0 0x60 once", "", 1},
		{"C_Decrypt 0 0xb3 once", "", 1},
		{"C_Encrypt 0 0x60 once", "", 1},
		{"C_Encrypt 0 0x82 once", "", 1},
		{"C_Decrypt 0 0x6 once", "CKR_FUNCTION_FAILED", 0},
		{"C_Decrypt 0 0x40 once", "SEAL_BROKEN", 0},
		{"C_Decrypt 0 0x42 once", "SEAL_BROKEN", 0},
		{"C_Decrypt 0 0x5 once", "", 1},
		{"C_Decrypt 0 0x5", "CKR_GENERAL_ERROR", 4},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			t.Parallel()
			s := hsmtest.NewShim(t)
			token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
			blob, err := token.Wrap(t.Context(), []byte("data key"))
			if err != nil {
				t.Fatal(err)
			}
			s.Rules(tt.rule)
			if _, err := token.Wrap(t.Context(), []byte("x")); err != nil {
				t.Errorf("Wrap: %v", err)
			}
			_, err = token.Unwrap(t.Context(), blob)
			var e *hsm.Error
			if tt.name == "" && err != nil || tt.name != "" && (!errors.As(err, &e) || e.Name != tt.name) {
				t.Errorf("Unwrap: %v, want %q", err, tt.name)
			}
			s.Rules()
			if _, err := token.Unwrap(t.Context(), blob); err != nil {
				t.Errorf("the next one: %v", err)
			}
			if n := token.Status().Restarts; n != tt.workers {
				t.Errorf("%d workers were used up, want %d", n, tt.workers)
			}
		})
	}
}

// TestSealingKeyIsAudited holds that the sealing key is checked like any other
// before it is used by a process that did not make it, once; and that a key which the
// module may let out opens nothing.
func TestSealingKeyIsAudited(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	cfg := s.Config(&hsmtest.Ledger{}, nil)
	token, stop := open(t, cfg)
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	stop()

	s.Rules("C_WrapKey 0 0x6")
	token, stop = open(t, cfg)
	if _, err := token.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrUntrusted) {
		t.Errorf("a key that may be wrapped out: %v, want ErrUntrusted", err)
	}
	if _, err := token.Wrap(t.Context(), []byte("data key")); !errors.Is(err, hsm.ErrUntrusted) {
		t.Errorf("to seal with it: %v, want ErrUntrusted", err)
	}
	stop()

	s.Rules()
	calls := make(chan string, 100)
	cfg.Observe = func(operation string, _ time.Duration, _ error) { calls <- operation }
	token, _ = open(t, cfg)
	for range 2 {
		if got, err := token.Unwrap(t.Context(), blob); err != nil || string(got) != "data key" {
			t.Errorf("Unwrap: %q, %v", got, err)
		}
	}
	close(calls)
	var made []string
	for name := range calls {
		made = append(made, name)
	}
	if want := []string{"find", "audit", "seal", "unseal", "unseal", "unseal"}; !slices.Equal(made, want) {
		t.Errorf("calls on the token: %q, want %q", made, want)
	}
}

package hsm_test

import (
	"bytes"
	"errors"
	"testing"

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
	for i := range blob {
		for bit := range 8 {
			changed := bytes.Clone(blob)
			changed[i] ^= 1 << bit
			if _, err := token.Unwrap(t.Context(), changed); !errors.Is(err, hsm.ErrSealed) {
				t.Errorf("byte %d, bit %d changed: %v, want ErrSealed", i, bit, err)
			}
		}
		if _, err := token.Unwrap(t.Context(), blob[:i]); !errors.Is(err, hsm.ErrSealed) {
			t.Errorf("cut to %d bytes: %v, want ErrSealed", i, err)
		}
	}
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("changed blobs cost %d workers", n)
	}
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
	again, err := token.Rewrap(t.Context(), blob)
	if err != nil || bytes.Equal(again, blob) {
		t.Errorf("Rewrap of what an older key sealed: %v", err)
	}
	if same, err := token.Rewrap(t.Context(), second); err != nil || !bytes.Equal(same, second) {
		t.Errorf("Rewrap of what the newest key sealed: %v", err)
	}
	if err := token.RetireKEKs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := token.Unwrap(t.Context(), again); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("Unwrap: %x, %v", got, err)
	}
	if _, err := token.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrSealed) {
		t.Errorf("sealed with a key that was destroyed: %v, want ErrSealed", err)
	}
	blob = again
	// Another host that shares the token has another ledger.
	neighbour, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	if _, err := neighbour.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrSealed) {
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
	for i, b := range blob[:len(blob)-200] { // what is not ciphertext, and some of it
		for _, change := range []byte{1, 2, 3, 0x80} {
			blob[i] = b ^ change
			if _, err := token.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrSealed) {
				t.Errorf("byte %d changed by %#x: %v, want ErrSealed", i, change, err)
			}
		}
		blob[i] = b
	}
	if token.Status().Restarts > 0 {
		t.Error("that cost a worker")
	}
}

// TestBrokenTokenIsNoBrokenBlob holds that only what a module says of the blob is
// held against it: when it has lost the key, or something went wrong, the blob opens
// later, or the error has its name.
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
		{"C_Decrypt 0 0x5 once", "SEAL_BROKEN", 0},
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
			if _, err := token.Unwrap(t.Context(), blob); err != nil {
				t.Errorf("the next one: %v", err)
			}
			if n := token.Status().Restarts; n != tt.workers {
				t.Errorf("%d workers were used up, want %d", n, tt.workers)
			}
		})
	}
}

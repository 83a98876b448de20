package hsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// goesOn waits until something works again, without a new worker.
func goesOn(t *testing.T, token *hsm.Token, what string, try func() error) {
	t.Helper()
	before := token.Status().Restarts
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		err := try()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if n := token.Status().Restarts - before; n != 0 {
		t.Errorf("%s: it took %d workers", what, n)
	}
}

// TestShowChangesNothing holds that a key which signs goes on signing when it was
// looked at, even if half of it is gone.
func TestShowChangesNothing(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	s.Tool("--delete-object", "--type", "pubkey", "--id", key.Info().ID)
	for range 2 {
		if err := signOnce(key); err != nil {
			t.Fatal(err)
		}
		if info, err := token.Info(t.Context(), key.Info().ID); err != nil || !info.Audit.Passed {
			t.Errorf("%+v, %v", info.Audit, err)
		}
		if err := signOnce(key); err != nil {
			t.Errorf("after it was looked at: %v", err)
		}
		if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKeyThatIsBack holds that a key which was lost is used again when the token has
// it again, by those who hold it, and is no longer called lost.
func TestKeyThatIsBack(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	newKey(t, token, "other", hsm.ECDSAP256) // so that it is still our token
	key := newKey(t, token, "host", hsm.ECDSAP256)
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	saved := map[string][]byte{}
	all, _ := filepath.Glob(filepath.Join(s.Tokens, "*", "*"))
	for _, name := range all {
		if saved[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range token.Keys() {
		if k.Name == "other" {
			continue
		}
		for _, typ := range map[bool][]string{true: {"privkey", "pubkey"}, false: {"secrkey"}}[k.Type == hsm.ECDSAP256] {
			s.Tool("--delete-object", "--type", typ, "--id", k.ID)
		}
	}
	if err := signOnce(key); !errors.Is(err, hsm.ErrKeyLost) {
		t.Errorf("while it is gone: %v, want ErrKeyLost", err)
	}
	if _, err := token.Unwrap(t.Context(), blob); !errors.Is(err, hsm.ErrKeyLost) {
		t.Errorf("while the sealing key is gone: %v, want ErrKeyLost", err)
	}
	if got := token.Status().Lost; !slices.Equal(got, []string{"host#1", "kek#1"}) {
		t.Errorf("lost are %q", got)
	}
	for name, content := range saved {
		if filepath.Base(name) == "generation" {
			continue
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "0a") // other processes look when there is something new
	goesOn(t, token, "signing", func() error { return signOnce(key) })
	goesOn(t, token, "unsealing", func() error { _, err := token.Unwrap(t.Context(), blob); return err })
	if _, err := token.Wrap(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	if got := token.Status().Lost; len(got) > 0 {
		t.Errorf("lost are %q", got)
	}
}

// TestKeyThatIsBackIsProven holds that what is found under the ID of a lost key has
// to be that key.
func TestKeyThatIsBackIsProven(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, _ := open(t, s.Config(ledger, guard))
	newKey(t, token, "other", hsm.ECDSAP256)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	for _, typ := range []string{"privkey", "pubkey"} {
		s.Tool("--delete-object", "--type", typ, "--id", key.Info().ID)
	}
	if err := signOnce(key); !errors.Is(err, hsm.ErrKeyLost) {
		t.Errorf("while it is gone: %v, want ErrKeyLost", err)
	}
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", key.Info().ID, "--label", "host#1")
	goesOn(t, token, "a refusal", func() error {
		if err := signOnce(key); !errors.Is(err, hsm.ErrUntrusted) {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestTwoKeysUnderOneID holds that a second key under the ID of ours is told as what
// it is, by the signature and by what is listed, and that ours is used again when it
// is gone.
func TestTwoKeysUnderOneID(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	key := newKey(t, token, "host", hsm.ECDSAP256)
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", key.Info().ID, "--label", "evil")
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err := signOnce(key)
	var e *hsm.Error
	if !errors.As(err, &e) || e.Name != "KEY_AMBIGUOUS" || e.Hint() == "" || !errors.Is(err, hsm.ErrUntrusted) {
		t.Errorf("got %v, want KEY_AMBIGUOUS with a hint", err)
	}
	objects, err := token.Unknown(t.Context())
	want := "2 times private key, 2 times public key with the ID of our key host#1"
	if err != nil || len(objects) != 1 || objects[0].ID != key.Info().ID || objects[0].What != want {
		t.Errorf("listed: %+v, %v", objects, err)
	}
	if lost := token.Status().Lost; len(lost) > 0 {
		t.Errorf("lost: %q", lost)
	}
	for _, typ := range []string{"privkey", "pubkey"} {
		s.Tool("--delete-object", "--type", typ, "--label", "evil")
	}
	goesOn(t, token, "signing", func() error { return signOnce(key) })
	nothingUnexplained(t, token)
}

// A second public half under the ID of ours is told as what it is, not as a key that
// has to be made anew.
func TestTwoPublicHalvesUnderOneID(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	token, stop := open(t, s.Config(ledger, guard))
	host := newKey(t, token, "host", hsm.ECDSAP256).Info()
	stop()
	s.Tool("--write-object", newStranger(t).public, "--type", "pubkey", "--label", "theirs", "--id", host.ID)
	token, _ = open(t, s.Config(ledger, guard))
	_, err := token.Key(t.Context(), host.ID)
	var e *hsm.Error
	if !errors.As(err, &e) || e.Name != "KEY_AMBIGUOUS" || !strings.Contains(e.Hint(), "remove the one that is not ours") {
		t.Errorf("got %v, want KEY_AMBIGUOUS with its hint", err)
	}
}

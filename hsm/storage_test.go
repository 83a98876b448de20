package hsm_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// mounted puts the tokens into a file system of their own.
func mounted(t *testing.T, s *hsmtest.SoftHSM, options string) {
	t.Helper()
	away := filepath.Join(s.Dir, "away")
	if err := os.Rename(s.Tokens, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.Tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", s.Tokens, "tmpfs", 0, options); errors.Is(err, unix.EPERM) {
		t.Skip("only root may mount")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.Tokens, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(s.Tokens, os.DirFS(away)); err != nil {
		t.Fatal(err)
	}
}

// notMade tries to make a key, and checks that the refusal has a name and that
// nothing came of it.
func notMade(t *testing.T, token *hsm.Token, name, want string) {
	t.Helper()
	k, err := token.Reserve(name, hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	_, err = token.Ensure(t.Context(), k.ID)
	var e *hsm.Error
	if !errors.As(err, &e) || e.Name != want || e.CKR == 0 || e.Hint() == "" || e.Code() != "unavailable" {
		t.Fatalf("got %v, want %s with a hint", err, want)
	}
	if _, err := token.Key(t.Context(), k.ID); !errors.Is(err, hsm.ErrState) {
		t.Errorf("use of what was not made: %v, want ErrState", err)
	}
}

// TestFullToken holds that a token without room refuses a new key by a name,
// keeps what it has, is left without debris, and takes the key when there is
// room again.
func TestFullToken(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	mounted(t, s, "size=96k")
	token, _ := open(t, s.Config(ledger, guard))
	host := newKey(t, token, "host", hsm.ECDSAP256)
	for i := 0; ; i++ {
		k, err := token.Reserve(fmt.Sprintf("k%d", i), hsm.ECDSAP256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := token.Ensure(t.Context(), k.ID); err != nil {
			break
		}
		if i == 100 {
			t.Fatal("it is never full")
		}
	}
	notMade(t, token, "late", "CKR_FUNCTION_FAILED")
	if err := signOnce(host); err != nil {
		t.Errorf("a key that was there: %v", err)
	}
	if unknown, err := token.Unknown(t.Context()); err != nil || len(unknown) > 0 {
		t.Errorf("unexplained: %+v, %v", unknown, err)
	}
	if err := unix.Mount("", s.Tokens, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	settle(t, token)
	nothingUnexplained(t, token)
}

// TestReadOnlyToken holds that a token that cannot be written to serves the keys
// it has and refuses new ones by a name.
func TestReadOnlyToken(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	mounted(t, s, "size=1m")
	token, stop := open(t, s.Config(ledger, guard))
	host := newKey(t, token, "host", hsm.ECDSAP256)
	stop()
	if err := unix.Mount("", s.Tokens, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	token, _ = open(t, s.Config(ledger, guard))
	key, err := token.Key(t.Context(), host.Info().ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := signOnce(key); err != nil {
		t.Errorf("a key that was there: %v", err)
	}
	notMade(t, token, "late", "CKR_GENERAL_ERROR")
	if err := signOnce(key); err != nil {
		t.Errorf("after a key could not be made: %v", err)
	}
}

// TestWriteProtectedToken holds that a token on which no session may write, as PKCS#11
// has it of a token that is write-protected, is opened all the same, that what it
// has works, and that a new key is refused by a name until the token can be written to.
func TestWriteProtectedToken(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	ledger := &hsmtest.Ledger{}
	token, stop := open(t, s.Config(ledger, nil))
	host := newKey(t, token, "host", hsm.ECDSAP256)
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	stop()

	s.Rules("C_OpenSession/writing 0 0xe2")
	token, _ = open(t, s.Config(ledger, nil))
	if w := token.Status().Warnings; len(w) != 1 || !strings.Contains(w[0], "read-only") {
		t.Errorf("warnings %q", w)
	}
	key, err := token.Key(t.Context(), host.Info().ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := signOnce(key); err != nil {
		t.Error(err)
	}
	if plain, err := token.Unwrap(t.Context(), blob); err != nil || string(plain) != "data key" {
		t.Errorf("unsealed %q, %v", plain, err)
	}
	notMade(t, token, "late", "CKR_TOKEN_WRITE_PROTECTED")
	if err := token.SetState(host.Info().ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	var e *hsm.Error
	if err := token.Destroy(t.Context(), host.Info().ID); !errors.As(err, &e) || e.Name != "CKR_TOKEN_WRITE_PROTECTED" {
		t.Errorf("destroying a key: %v", err)
	}
	s.Rules()
	settle(t, token)
	if err := token.Destroy(t.Context(), host.Info().ID); err != nil {
		t.Error(err)
	}
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("that cost %d workers", n)
	}
}

// TestRefusedGeneration holds that the ways in which other modules say that they
// are full or read-only, or that they do not do this, reach the caller by name,
// cost no worker, and leave an intent that can be fulfilled later.
func TestRefusedGeneration(t *testing.T) {
	t.Parallel()
	s := hsmtest.NewShim(t)
	token, _ := open(t, s.Config(&hsmtest.Ledger{}, nil))
	for rv, name := range map[string]string{
		"0x31": "CKR_DEVICE_MEMORY", "0xe2": "CKR_TOKEN_WRITE_PROTECTED",
		"0x70": "CKR_MECHANISM_INVALID", "0x6": "CKR_FUNCTION_FAILED",
	} {
		s.Rules("C_GenerateKeyPair 0 " + rv)
		notMade(t, token, "k"+rv, name)
	}
	s.Rules()
	if n := token.Status().Restarts; n != 0 {
		t.Errorf("that cost %d workers", n)
	}
	settle(t, token)
	nothingUnexplained(t, token)
}

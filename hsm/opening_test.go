package hsm_test

import (
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestNoCallForEachKey holds that a token is opened by a few calls, however many
// keys it has, and its sealing key checked by a few more; that many keys that are used then take one pass; and that a worker
// which replaces another takes one read for each key in use, and none to sign.
func TestNoCallForEachKey(t *testing.T) {
	t.Parallel()
	const keys = 12
	s := hsmtest.NewShim(t)
	ledger := &hsmtest.Ledger{}
	token, stop := open(t, s.Config(ledger, nil))
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	for range keys {
		newKey(t, token, "host", hsm.ECDSAP256)
	}
	stop()

	s.CountCalls()
	_, stop = open(t, s.Config(ledger, nil))
	stop()
	opening := s.Calls()
	want := map[string]int{"C_FindObjectsInit": 1, "C_FindObjects": 2, "C_GetAttributeValue": 1}
	if diff := cmp.Diff(want, lookups(opening, opening)); diff != "" {
		t.Errorf("opening (-want +got):\n%s", diff)
	}
	if n := opening["C_Initialize"]; n != 1 {
		t.Errorf("the module was started %d times, and read all its objects each time", n)
	}

	s.CountCalls()
	token, stop = open(t, s.Config(ledger, nil))
	if _, err := token.Unwrap(t.Context(), blob); err != nil {
		t.Error(err)
	}
	stop()
	if n := lookups(s.Calls(), opening)["C_FindObjectsInit"]; n != 1+1 {
		t.Errorf("%d searches to open the token and unseal, want 2", n)
	}

	s.CountCalls()
	token, stop = open(t, s.Config(ledger, nil))
	keysOf(t, token)
	stop()
	// Opening and the first three keys take a search each, the others one for each
	// class of objects that a key may consist of.
	if n := lookups(s.Calls(), opening)["C_FindObjectsInit"]; n != 1+3+3 {
		t.Errorf("%d searches to use %d keys, want 7", n, keys)
	}

	token, stop = open(t, s.Config(ledger, nil))
	held := keysOf(t, token)
	s.CountCalls()
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, key := range held {
			if err := signOnce(key); err != nil {
				t.Error(err)
			}
		}
	}
	stop()
	want = map[string]int{"C_FindObjectsInit": 2, "C_FindObjects": 4, "C_GetAttributeValue": 1 + keys}
	if diff := cmp.Diff(want, lookups(s.Calls(), opening)); diff != "" {
		t.Errorf("a worker that replaces another, with %d keys in use (-want +got):\n%s", keys, diff)
	}
}

// lookups are the calls that look for objects, without those of the checks of the
// token's health that fell into the time: each looks for the one key that opening
// looks for.
func lookups(calls, opening map[string]int) map[string]int {
	checks := calls["C_GetTokenInfo"] - opening["C_GetTokenInfo"]
	got := map[string]int{}
	for _, name := range []string{"C_FindObjectsInit", "C_FindObjects", "C_GetAttributeValue"} {
		got[name] = calls[name] - checks*opening[name]
	}
	return got
}

// keysOf are all keys that sign, each used once.
func keysOf(t *testing.T, token *hsm.Token) (held []*hsm.Key) {
	t.Helper()
	for _, k := range token.Keys() {
		if k.Type != hsm.ECDSAP256 {
			continue
		}
		key, err := token.Key(t.Context(), k.ID)
		if err == nil {
			err = signOnce(key)
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, key)
	}
	return held
}

// TestChosenByModel holds that a token can be chosen by what crypto11 knows nothing
// of, and keys be made on it.
func TestChosenByModel(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Label, cfg.URI = "", "pkcs11:manufacturer=SoftHSM%20project;model=SoftHSM%20v2"
	token, _ := open(t, cfg)
	if err := signOnce(newKey(t, token, "host", hsm.ECDSAP256)); err != nil {
		t.Error(err)
	}
	if got := token.Status().Label; got != s.Label {
		t.Errorf("opened %q, want %q", got, s.Label)
	}
}

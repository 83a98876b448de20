package hsm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// called is the configuration of a token under a name.
func called(s *hsmtest.SoftHSM, name, label string, ledger hsm.Ledger) hsm.Config {
	cfg := s.Config(ledger, nil)
	cfg.Name, cfg.Label = name, label
	return cfg
}

// rows are the rows of a ledger by ID.
func rows(t *testing.T, ledger hsm.Ledger) map[string]hsm.LedgerKey {
	t.Helper()
	keys, err := ledger.Keys()
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]hsm.LedgerKey{}
	for _, k := range keys {
		byID[k.ID] = k
	}
	return byID
}

// TestATokenIsKnownByItsSerial holds that a token has its keys whatever it is called:
// those that sign, the one that seals, and those that are to be destroyed.
func TestATokenIsKnownByItsSerial(t *testing.T) {
	t.Parallel()
	s, ledger, _ := fresh(t)
	token, stop := open(t, called(s, "default", s.Label, ledger))
	host, gone := newKey(t, token, "host", hsm.ECDSAP256).Info(), newKey(t, token, "gone", hsm.ECDSAP256).Info()
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := token.SetState(gone.ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	stop()

	token, _ = open(t, called(s, "main", s.Label, ledger))
	key, err := token.Key(t.Context(), host.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := signOnce(key); err != nil {
		t.Error(err)
	}
	if plain, err := token.Unwrap(t.Context(), blob); err != nil || string(plain) != "data key" {
		t.Errorf("%q, %v", plain, err)
	}
	if again, err := token.Wrap(t.Context(), []byte("x")); err != nil || hsm.SealedWith(again) != hsm.SealedWith(blob) {
		t.Errorf("sealed by %s, want by %s; %v", hsm.SealedWith(again), hsm.SealedWith(blob), err)
	}
	if err := token.Destroy(t.Context(), gone.ID); err != nil {
		t.Error(err)
	}
	if next, err := token.Reserve("host", hsm.ECDSAP256); err != nil || next.Generation != 2 {
		t.Errorf("the next is %s, %v", next, err)
	}
	if unknown, err := token.Unknown(t.Context()); err != nil || len(unknown) > 0 {
		t.Errorf("not ours: %v, %v", unknown, err)
	}
	for _, k := range rows(t, ledger) {
		if k.Token != "main" {
			t.Errorf("%s is still on %s", k, k.Place())
		}
	}
}

// TestAKeyOfAnotherTokenIsNoDamage holds that a token which is asked for what is on
// another says so: it does not call it unknown, lost or changed, and makes nothing in
// its place but what was only reserved.
func TestAKeyOfAnotherTokenIsNoDamage(t *testing.T) {
	t.Parallel()
	s, ledger, _ := fresh(t)
	s.InitToken("other")
	token, stop := open(t, called(s, "main", s.Label, ledger))
	host := newKey(t, token, "host", hsm.ECDSAP256).Info()
	blob, err := token.Wrap(t.Context(), []byte("data key"))
	if err != nil {
		t.Fatal(err)
	}
	intent, err := token.Reserve("host", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	stop()

	other, _ := open(t, called(s, "other", "other", ledger))
	_, use := other.Key(t.Context(), host.ID)
	_, make := other.Ensure(t.Context(), host.ID)
	_, show := other.Info(t.Context(), host.ID)
	_, unseal := other.Unwrap(t.Context(), blob)
	for what, err := range map[string]error{"use": use, "make": make, "show": show, "unseal": unseal} {
		var e *hsm.Error
		if !errors.Is(err, hsm.ErrElsewhere) || errors.Is(err, hsm.ErrSealed) || errors.Is(err, hsm.ErrKeyLost) ||
			!errors.As(err, &e) || e.Code() != "unavailable" || !strings.Contains(e.Error(), `"main" with serial `+host.Serial) || e.Hint() == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if key, err := other.Ensure(t.Context(), intent.ID); err != nil || key.Info().Token != "other" || signOnce(key) != nil {
		t.Errorf("what was only reserved: %v", err)
	}
	if next, err := other.Reserve("host", hsm.ECDSAP256); err != nil || next.Generation != 3 {
		t.Errorf("the next is %s, %v; want another number than on the other token", next, err)
	}
}

// TestASerialAloneIsNoProof holds that keys are not taken over for a serial number
// that two tokens have: one of them must be there.
func TestASerialAloneIsNoProof(t *testing.T) {
	t.Parallel()
	s, ledger, _ := fresh(t)
	token, stop := open(t, called(s, "main", s.Label, ledger))
	twin := newKey(t, token, "host", hsm.ECDSAP256).Info()
	stop()
	twin.ID, twin.Token = strings.Repeat("00", 16), "twin"
	if err := ledger.SaveKey(twin); err != nil {
		t.Fatal(err)
	}
	open(t, called(s, "main", s.Label, ledger))
	if k := rows(t, ledger)[twin.ID]; k != twin {
		t.Errorf("it is on %s now", k.Place())
	}
}

// TestTwoNamesOfOneTokenBecomeOne holds that keys which were made under two names are
// all usable, and told apart by their numbers.
func TestTwoNamesOfOneTokenBecomeOne(t *testing.T) {
	t.Parallel()
	s, ledger, _ := fresh(t)
	token, stop := open(t, called(s, "main", s.Label, ledger))
	keys := []hsm.LedgerKey{newKey(t, token, "host", hsm.ECDSAP256).Info(), newKey(t, token, "host", hsm.ECDSAP256).Info()}
	stop()
	keys[1].Token, keys[1].Generation = "before", 1
	if err := ledger.SaveKey(keys[1]); err != nil {
		t.Fatal(err)
	}
	token, _ = open(t, called(s, "main", s.Label, ledger))
	for _, k := range keys {
		key, err := token.Key(t.Context(), k.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := signOnce(key); err != nil {
			t.Error(err)
		}
	}
	if now := rows(t, ledger); now[keys[0].ID].Generation != 1 || now[keys[1].ID].Generation != 2 {
		t.Errorf("they are %s and %s", now[keys[0].ID], now[keys[1].ID])
	}
	nothingUnexplained(t, token)
}

// TestExchangedNamesAreRefused holds that a token is not taken for another one whose
// name it has been given: the error says which it is.
func TestExchangedNamesAreRefused(t *testing.T) {
	t.Parallel()
	s, ledger, _ := fresh(t)
	s.InitToken("other")
	for name, label := range map[string]string{"main": s.Label, "spare": "other"} {
		token, stop := open(t, called(s, name, label, ledger))
		newKey(t, token, "host", hsm.ECDSAP256)
		stop()
	}
	before := rows(t, ledger)
	token, _ := start(t, called(s, "spare", s.Label, ledger))
	if e := closedBy(t, token); e.Name != "TOKEN_REPLACED" || !strings.Contains(e.Error(), `called "main" before`) {
		t.Errorf("got %v", e)
	}
	for id, k := range rows(t, ledger) {
		if k != before[id] {
			t.Errorf("%s is on %s now", k, k.Place())
		}
	}
}

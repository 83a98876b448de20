package hsm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// remains is what a generation leaves that was cut short while it wrote a public
// half, as SoftHSM does, with some attributes changed.
func remains(changed map[uint]any) map[uint]any {
	all := map[uint]any{
		pkcs11.CKA_CLASS: uint(pkcs11.CKO_PUBLIC_KEY), pkcs11.CKA_KEY_TYPE: uint(pkcs11.CKK_EC), pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: false,
		pkcs11.CKA_ID: []byte{}, pkcs11.CKA_LABEL: []byte{}, pkcs11.CKA_KEY_GEN_MECHANISM: ^uint(0),
		pkcs11.CKA_EC_PARAMS: []byte{}, pkcs11.CKA_EC_POINT: []byte{},
	}
	for typ, v := range changed {
		if all[typ] = v; v == nil {
			delete(all, typ)
		}
	}
	return all
}

// halted is a token with the intent of an EC key whose generation was begun and
// has failed; it has been closed.
func halted(t *testing.T, s *hsmtest.Shim, ledger *hsmtest.Ledger) {
	t.Helper()
	token, stop := open(t, s.Config(ledger, nil))
	defer stop()
	k, err := token.Reserve("late", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	s.Rules("C_GenerateKeyPair 0 0x31")
	if _, err := token.Ensure(t.Context(), k.ID); err == nil {
		t.Fatal("a key was made")
	}
	s.Rules()
}

func unknown(t *testing.T, token *hsm.Token) (what []string) {
	t.Helper()
	objects, err := token.Unknown(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		what = append(what, strings.TrimSpace(o.Label+" "+o.What))
	}
	return what
}

// TestSweepTakesOnlyRemains holds that what is removed after an interrupted
// generation can be of it, and was there for a while: everything that somebody else
// has made stays, whatever it lacks.
func TestSweepTakesOnlyRemains(t *testing.T) {
	t.Parallel()
	s, ledger := hsmtest.NewShim(t), &hsmtest.Ledger{}
	halted(t, s, ledger)
	s.WriteObject(remains(nil))
	s.WriteObject(map[uint]any{pkcs11.CKA_TOKEN: true}) // so early that it has no type
	// Others' keys without name: DES3, a secret of no type of ours, DSA, and EC.
	s.WriteObject(map[uint]any{pkcs11.CKA_CLASS: uint(pkcs11.CKO_SECRET_KEY), pkcs11.CKA_KEY_TYPE: uint(pkcs11.CKK_DES3), pkcs11.CKA_TOKEN: true,
		pkcs11.CKA_PRIVATE: false, pkcs11.CKA_KEY_GEN_MECHANISM: uint(pkcs11.CKM_DES3_KEY_GEN), pkcs11.CKA_VALUE: []byte("123456781234567812345678")})
	s.Tool("--keygen", "--key-type", "GENERIC:32")
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1")
	s.WriteObject(map[uint]any{pkcs11.CKA_CLASS: uint(pkcs11.CKO_PRIVATE_KEY), pkcs11.CKA_KEY_TYPE: uint(pkcs11.CKK_DSA), pkcs11.CKA_TOKEN: true,
		pkcs11.CKA_PRIVATE: false, pkcs11.CKA_KEY_GEN_MECHANISM: ^uint(0), pkcs11.CKA_PRIME: []byte{1}, pkcs11.CKA_VALUE: []byte{1}})
	// Remains too, but of no key that we have begun to make.
	s.WriteObject(remains(map[uint]any{pkcs11.CKA_KEY_TYPE: uint(pkcs11.CKK_RSA), pkcs11.CKA_MODULUS: []byte{}}))
	// What was generated, has a name, or cannot be read for certain.
	s.WriteObject(remains(map[uint]any{pkcs11.CKA_KEY_GEN_MECHANISM: uint(pkcs11.CKM_EC_KEY_PAIR_GEN)}))
	s.WriteObject(remains(map[uint]any{pkcs11.CKA_LABEL: []byte("theirs")}))

	start := time.Now()
	token, _ := open(t, s.Config(ledger, nil))
	settle(t, token)
	if d := time.Since(start); d < 2*time.Second {
		t.Errorf("removed after %v: what another program is just making looks the same", d)
	}
	want := []string{"private key without ID", "private key without ID", "public key without ID", "public key without ID", "theirs public key without ID",
		"public key without ID, incomplete", "secret key without ID", "secret key without ID"}
	if diff := cmp.Diff(want, unknown(t, token)); diff != "" {
		t.Errorf("on the token (-want +got):\n%s", diff)
	}
}

// TestSweepWaitsForOtherPrograms holds that what looks like remains is left alone
// if it has become something until the time is over.
func TestSweepWaitsForOtherPrograms(t *testing.T) {
	t.Parallel()
	s, ledger := hsmtest.NewShim(t), &hsmtest.Ledger{}
	halted(t, s, ledger)
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1")
	// The module shows it without its material for as long as that is being made.
	s.Rules("CKA_0x166 0 0x12", "CKA_0x180 0 0x12", "CKA_0x181 0 0x12")
	token, _ := open(t, s.Config(ledger, nil))
	s.Rules()
	settle(t, token)
	if got := unknown(t, token); !slices.Equal(got, []string{"private key without ID", "public key without ID"}) {
		t.Errorf("on the token: %q", got)
	}
}

// TestRemainsFromBeforeStay holds that nameless remains which were there before
// our generation was begun are not ours, whatever becomes of it.
func TestRemainsFromBeforeStay(t *testing.T) {
	t.Parallel()
	s, ledger := hsmtest.NewShim(t), &hsmtest.Ledger{}
	s.WriteObject(remains(nil))
	halted(t, s, ledger)
	token, _ := open(t, s.Config(ledger, nil))
	settle(t, token)
	if got := unknown(t, token); !slices.Equal(got, []string{"public key without ID, incomplete"}) {
		t.Errorf("on the token: %q", got)
	}
}

// TestUnreadableIsNotIncomplete holds that a key whose attributes cannot be read is
// not taken for one that has none.
func TestUnreadableIsNotIncomplete(t *testing.T) {
	t.Parallel()
	s, ledger := hsmtest.NewShim(t), &hsmtest.Ledger{}
	halted(t, s, ledger)
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1")
	for _, rules := range [][]string{
		{"C_GetAttributeValue 0 0x5"},  // CKR_GENERAL_ERROR, SoftHSM's of an object that is damaged
		{"C_GetAttributeValue 0 0x6"},  // CKR_FUNCTION_FAILED
		{"C_GetAttributeValue 0 0x13"}, // what SoftHSM says of objects without type
		{"CKA_0x166 0 0x12", "CKA_0x180 0 0x6"},
		{"CKA_0x166 0 0x6", "CKA_0x180 0 0x12", "CKA_0x181 0 0x12"},
		{"CKA_0x166 0 0x12", "CKA_0x180 0 0x11", "CKA_0x181 0 0x11"},
	} {
		token, stop := open(t, s.Config(ledger, nil))
		s.Rules(rules...)
		for _, what := range unknown(t, token) {
			if strings.Contains(what, "incomplete") {
				t.Errorf("%q: %q", rules, what)
			}
		}
		if n := token.Status().Restarts; n != 0 {
			t.Errorf("%q: it took %d workers", rules, n)
		}
		s.Rules()
		stop()
	}
}

// TestGivenUpWhileItIsMade holds that a state only moves on: an intent that is
// given up while its key is being made does not become live.
func TestGivenUpWhileItIsMade(t *testing.T) {
	t.Parallel()
	s, ledger := hsmtest.NewShim(t), &hsmtest.Ledger{}
	begun := make(chan struct{})
	ledger.OnSave = func(k hsm.LedgerKey) error {
		if k.State == hsm.Intended && k.Serial != "" {
			close(begun)
		}
		return nil
	}
	token, _ := open(t, s.Config(ledger, nil))
	k, err := token.Reserve("host", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	if err := token.SetState(k.ID, hsm.Retiring); !errors.Is(err, hsm.ErrState) {
		t.Errorf("a key that was never made is retiring: %v", err)
	}
	s.Rules("C_GenerateKeyPair 0 sleep500")
	made := make(chan error, 1)
	go func() {
		_, err := token.Ensure(t.Context(), k.ID)
		made <- err
	}()
	<-begun
	if err := token.SetState(k.ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	if err := <-made; !errors.Is(err, hsm.ErrState) {
		t.Errorf("Ensure: %v, want ErrState", err)
	}
	if state := token.Keys()[0].State; state != hsm.Retired {
		t.Errorf("it is %s, want retired", state)
	}
	if err := token.Destroy(t.Context(), k.ID); err != nil {
		t.Error(err)
	}
	nothingUnexplainedBut(t, token)
}

// nothingUnexplainedBut checks that the token holds nothing at all but what is named.
func nothingUnexplainedBut(t *testing.T, token *hsm.Token, want ...string) {
	t.Helper()
	if got := unknown(t, token); !slices.Equal(got, want) {
		t.Errorf("on the token: %q, want %q", got, want)
	}
}

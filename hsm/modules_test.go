package hsm_test

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// stale is what is said of a module that does not see what other processes change.
const stale = "keys that other programs make or delete show only after the worker was started anew"

// TestModules runs the same rules over several makers' modules, so that nothing
// is tuned to one. What a module cannot do is known from the moment it is open,
// and is listed here: a module that learns something shows too.
func TestModules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config func(testing.TB) hsm.Config
		cannot []string
		wrap   string // what came of wrapping a key out
		weak   bool   // keys can leave it, whatever it says: only a lenient audit takes them
		vague  int    // how many workers a changed blob costs, as its answer is also that of a broken token
	}{
		{"softhsm", func(t testing.TB) hsm.Config { return hsmtest.New(t).Config(nil, nil) }, nil, "refused", false, 2},
		{"nss", hsmtest.NSS, []string{"no keys of type ed25519"}, "allowed", true, 0},
		{"tpm", hsmtest.TPM, []string{"no keys of type rsa-4096", "no keys of type ecdsa-p521", "no keys of type ed25519",
			"no AES-GCM: the data key is sealed by RSA-OAEP", stale}, "untested", false, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := tt.config(t)
			cfg.Ledger, cfg.Guard = &hsmtest.Ledger{}, &hsmtest.Guard{}
			if tt.weak {
				refusesWeakModule(t, cfg)
				cfg.Ledger, cfg.Lenient = &hsmtest.Ledger{}, true
			}
			m := conformance{t: t, cfg: cfg, wrap: tt.wrap, vague: tt.vague, rsaDecrypts: tt.name == "tpm"}
			token, stop := open(t, cfg)
			if got := token.Status().Limits; !slices.Equal(got, tt.cannot) {
				t.Errorf("it cannot: %q; want %q", got, tt.cannot)
			}
			m.algorithms(token)
			key := newKey(t, token, "host", hsm.ECDSAP256)
			m.audits(token, key)
			m.seals(token)
			m.forOneUse(token)
			m.seesOthers(token)
			m.opensTampered()
			m.keepsCertificate(token, key)
			m.survivesKill(token, key)
			stop()
			m.findsAgain(key)
			m.livesWithOthers(key)
			m.triesWrongPINOnce()
		})
	}
}

// refusesWeakModule checks that a key which can be wrapped out is not used,
// though the module says that it cannot leave.
func refusesWeakModule(t *testing.T, cfg hsm.Config) {
	token, stop := open(t, cfg)
	defer stop()
	k, err := token.Reserve("weak", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Ensure(t.Context(), k.ID); !errors.Is(err, hsm.ErrUntrusted) || !strings.Contains(err.Error(), "wrapped out") {
		t.Errorf("got %v, want ErrUntrusted", err)
	}
	if err := token.SetState(k.ID, hsm.Retired); err != nil {
		t.Fatal(err)
	}
	if err := token.Destroy(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
}

// A conformance is what every module is held to.
type conformance struct {
	t     *testing.T
	cfg   hsm.Config
	wrap  string
	vague int
	// rsaDecrypts: it signs with RSA by decrypting
	rsaDecrypts bool
}

// algorithms signs with every type of key that the module offers, and is refused
// the others by name before the module is asked.
func (m conformance) algorithms(token *hsm.Token) {
	for _, typ := range allTypes {
		if typ == hsm.RSA3072 || typ == hsm.RSA4096 {
			continue // slow to make, and TestSignsWithEveryAlgorithm has them
		}
		m.t.Run(string(typ), func(t *testing.T) {
			if !slices.Contains(token.Status().Types, typ) {
				k, err := token.Reserve("k-"+string(typ), typ)
				if err != nil {
					t.Fatal(err)
				}
				_, err = token.Ensure(t.Context(), k.ID)
				if e := (*hsm.Error)(nil); !errors.As(err, &e) || e.Name != "CKR_MECHANISM_INVALID" || e.Hint() == "" {
					t.Errorf("a key that the module does not offer: %v", err)
				}
				return
			}
			key := newKey(t, token, "k-"+string(typ), typ)
			signsAll(t, key)
			servesTLS(t, key)
			requestsCertificate(t, key)
		})
	}
}

func (m conformance) audits(token *hsm.Token, key *hsm.Key) {
	info, err := token.Info(m.t.Context(), key.Info().ID)
	if err != nil || info.Audit.Passed == m.cfg.Lenient || info.Audit.Read != "refused" || info.Audit.Wrap != m.wrap || info.Audit.WrapBy == "" {
		m.t.Errorf("audit: %+v, %v; want wrapping %s", info.Audit, err, m.wrap)
	}
	m.t.Logf("%s states %v; wrapping %s by %s", token.Status().Module, info.Attributes, info.Audit.Wrap, info.Audit.WrapBy)
	if info.Attributes["CKA_SENSITIVE"] != true || info.Attributes["CKA_EXTRACTABLE"] != false {
		m.t.Errorf("attributes: %v", info.Attributes)
	}
}

// forOneUse checks that keys have the uses that they are for and no other.
func (m conformance) forOneUse(token *hsm.Token) {
	for _, k := range token.Keys() {
		all, want := []string{"CKA_SIGN", "CKA_SIGN_RECOVER", "CKA_DECRYPT", "CKA_UNWRAP", "CKA_DERIVE"}, map[string]bool{"CKA_SIGN": true}
		switch k.Type {
		case "aes-256":
			all, want = append(all, "CKA_VERIFY", "CKA_ENCRYPT", "CKA_WRAP"), map[string]bool{"CKA_ENCRYPT": true, "CKA_DECRYPT": true}
		case "rsa-2048-oaep":
			want = map[string]bool{"CKA_DECRYPT": true}
		}
		if k.State != hsm.Live {
			continue
		}
		if m.rsaDecrypts && k.Type == hsm.RSA2048 {
			want["CKA_DECRYPT"] = true
		}
		info, err := token.Info(m.t.Context(), k.ID)
		if err != nil {
			m.t.Error(err)
		}
		for _, use := range all {
			if is, _ := info.Attributes[use].(bool); is != want[use] {
				m.t.Errorf("key %v: %s is %v", k, use, info.Attributes[use])
			}
		}
	}
}

func (m conformance) seals(token *hsm.Token) {
	blob, err := token.Wrap(m.t.Context(), []byte("data key"))
	if err != nil {
		m.t.Fatal(err)
	}
	if got, err := token.Unwrap(m.t.Context(), blob); err != nil || string(got) != "data key" {
		m.t.Errorf("Unwrap: %q, %v", got, err)
	}
	blob[len(blob)-1] ^= 1
	if _, err := token.Unwrap(m.t.Context(), blob); !errors.Is(err, hsm.ErrSealed) {
		m.t.Errorf("a changed blob: %v, want ErrSealed", err)
	}
	if n := token.Status().Restarts; n != m.vague {
		m.t.Errorf("that cost %d workers, want %d", n, m.vague)
	}
}

// seesOthers checks that a key which another process makes is seen, unless it was
// said from the start that it is not.
func (m conformance) seesOthers(token *hsm.Token) {
	cfg := m.cfg
	cfg.Ledger = &hsmtest.Ledger{}
	other, stop := open(m.t, cfg)
	defer stop()
	theirs := newKey(m.t, other, "theirs", hsm.ECDSAP256).Info()
	objects, err := token.Unknown(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	seen := slices.ContainsFunc(objects, func(o hsm.Object) bool { return o.ID == theirs.ID })
	if said := !slices.Contains(token.Status().Limits, stale); seen != said {
		m.t.Errorf("a key of another process is seen: %v; said: %v", seen, said)
	}
	if err := other.SetState(theirs.ID, hsm.Retired); err != nil {
		m.t.Fatal(err)
	}
	if err := other.Destroy(m.t.Context(), theirs.ID); err != nil {
		m.t.Error(err)
	}
}

// opensTampered asks a worker that has done nothing else yet, and so has no other
// session, for a blob that was changed: it has to go on with the login that it has.
func (m conformance) opensTampered() {
	token, stop := open(m.t, m.cfg)
	defer stop()
	good, err := token.Wrap(m.t.Context(), []byte("data key"))
	if err != nil {
		m.t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	for range 2 {
		if _, err := token.Unwrap(m.t.Context(), bad); !errors.Is(err, hsm.ErrSealed) {
			m.t.Errorf("a changed blob: %v, want ErrSealed", err)
		}
		if got, err := token.Unwrap(m.t.Context(), good); err != nil || string(got) != "data key" {
			m.t.Errorf("the good one after it: %q, %v", got, err)
		}
	}
	if n := token.Status().Restarts; n != 2*m.vague {
		m.t.Errorf("that cost %d workers, want %d", n, 2*m.vague)
	}
}

func (m conformance) keepsCertificate(token *hsm.Token, key *hsm.Key) {
	cert := selfSigned(m.t, key)
	for range 2 {
		if err := token.StoreCertificate(m.t.Context(), key.Info().ID, cert.Raw); err != nil {
			m.t.Fatal(err)
		}
	}
	info, err := token.Info(m.t.Context(), key.Info().ID)
	if err != nil || !bytes.Equal(info.Certificate, cert.Raw) {
		m.t.Errorf("the token has another certificate; %v", err)
	}
}

func (m conformance) survivesKill(token *hsm.Token, key *hsm.Key) {
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	if err := signOnce(key); err != nil {
		m.t.Errorf("after a kill: %v", err)
	}
}

// findsAgain opens the token in a new process, finds what was made, and destroys
// one key.
func (m conformance) findsAgain(key *hsm.Key) {
	token, stop := open(m.t, m.cfg)
	defer stop()
	again, err := token.Key(m.t.Context(), key.Info().ID)
	if err != nil || !slices.Equal(again.SPKI(), key.SPKI()) {
		m.t.Fatalf("not found again: %v", err)
	}
	if err := signOnce(again); err != nil {
		m.t.Error(err)
	}
	if lost := token.Status().Lost; len(lost) > 0 {
		m.t.Errorf("lost: %v", lost)
	}
	if unknown, err := token.Unknown(m.t.Context()); err != nil || len(unknown) > 0 {
		m.t.Errorf("unexplained: %+v, %v", unknown, err)
	}
	for _, k := range token.Keys() {
		if !strings.HasPrefix(k.Name, "k-rsa") {
			continue
		}
		if key, err := token.Key(m.t.Context(), k.ID); err != nil || key.Public().(*rsa.PublicKey).N.BitLen() != 2048 {
			m.t.Errorf("%v: %v", k, err)
		}
		if err := token.SetState(k.ID, hsm.Retired); err != nil {
			m.t.Error(err)
		}
		if err := token.Destroy(m.t.Context(), k.ID); err != nil {
			m.t.Error(err)
		}
		if _, err := token.Info(m.t.Context(), k.ID); !errors.Is(err, hsm.ErrKeyLost) {
			m.t.Errorf("after it was destroyed: %v", err)
		}
	}
}

// livesWithOthers opens the token in a new process when another program has put
// something on it that is named like our keys, and destroys one.
func (m conformance) livesWithOthers(key *hsm.Key) {
	hsmtest.Bring(m.t, m.cfg, newStranger(m.t).cert, "host")
	token, stop := open(m.t, m.cfg)
	defer stop()
	theirs := unknown(m.t, token)
	if len(theirs) != 1 || theirs[0] != "host data without ID" && theirs[0] != "host certificate" {
		m.t.Errorf("listed: %q", theirs)
	}
	if again, err := token.Key(m.t.Context(), key.Info().ID); err != nil || signOnce(again) != nil {
		m.t.Errorf("our key: %v", err)
	}
	if err := token.SetState(key.Info().ID, hsm.Retired); err != nil {
		m.t.Error(err)
	}
	if err := token.Destroy(m.t.Context(), key.Info().ID); err != nil {
		m.t.Error(err)
	}
	nothingUnexplainedBut(m.t, token, theirs...)
}

func (m conformance) triesWrongPINOnce() {
	wrong := filepath.Join(m.t.TempDir(), "pin")
	if err := os.WriteFile(wrong, []byte("9999"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	cfg := m.cfg
	cfg.PIN = hsm.PINSource{File: wrong}
	token, stop := start(m.t, cfg)
	if e := closedBy(m.t, token); e.Name != "CKR_PIN_INCORRECT" {
		m.t.Errorf("a wrong PIN: %v", e)
	}
	stop()
	_, stop = open(m.t, m.cfg) // one wrong one has locked nothing
	stop()
}

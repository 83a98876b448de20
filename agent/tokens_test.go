package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/sinks/socket"
)

// A renamer runs agents on one state with one configuration after the other.
type renamer struct {
	s      *hsmtest.SoftHSM
	sealed []byte // by the first agent
	host   string // the public key of the identity, as the first agent made it
	id     string // of that key
}

// newRenamer has the first agent run with one token that has no name.
func newRenamer(t *testing.T) *renamer {
	t.Helper()
	r := &renamer{s: hsmtest.New(t)}
	r.s.InitToken("new")
	for _, env := range r.s.Env { // the worker inherits it
		name, value, _ := strings.Cut(env, "=")
		t.Setenv(name, value)
	}
	if err := os.Mkdir(filepath.Join(r.s.Dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Run("first", func(t *testing.T) {
		b := r.open(t, r.config(t, "", r.token("", r.s.Label)))
		r.sealed = b.refresher.sealer.seal("x", []byte("state"))
		key, err := b.Key(t.Context(), "host")
		if err != nil {
			t.Fatal(err)
		}
		v, _ := b.keyOf("host")
		r.host, r.id = key.PublicKey, v.KeyID
	})
	return r
}

// token is an entry of hsm.
func (r *renamer) token(name, label string) string {
	if name != "" {
		name = fmt.Sprintf("name: %s, ", name)
	}
	return fmt.Sprintf("{%smodule: %s, token: %s, pin: {file: %s}, worker: %s}", name, r.s.Module, label, r.s.PINFile, r.s.Worker)
}

// config has an identity, whose key is on the token of that name, or the first.
func (r *renamer) config(t *testing.T, on string, tokens ...string) *config.Config {
	t.Helper()
	if on != "" {
		on = ", token: " + on
	}
	cfg, err := config.Parse("signet.yaml", fmt.Appendf(nil, `
state_dir: %[1]s/state
runtime_dir: %[1]s
hsm: [%[2]s]
upstreams:
  vaults: {type: manager, url: "https://127.0.0.1:1", account_id: 1}
identities:
  host: {key: {type: ecdsa-p256%[3]s}, issuer: vaults, subject: {common_name: host.example}}
`, r.s.Dir, strings.Join(tokens, ", "), on))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// open has an agent run until it knows its keys.
func (r *renamer) open(t *testing.T, cfg *config.Config) backend {
	t.Helper()
	b := backend{running(t, cfg)}
	eventually(t, "open", func() error { return closedError(b) })
	eventually(t, "keys", func() error {
		_, err := b.Key(t.Context(), "host")
		return err
	})
	eventually(t, "the key of the audit", func() error { return b.signer.prepare(t.Context()) })
	return b
}

// unchanged checks that what the first agent has made is all there, and nothing else.
func (r *renamer) unchanged(t *testing.T, b backend) {
	t.Helper()
	if got, err := b.refresher.sealer.open("x", r.sealed); err != nil || string(got) != "state" {
		t.Errorf("what was sealed: %q, %v", got, err)
	}
	if key, err := b.Key(t.Context(), "host"); err != nil || key.PublicKey != r.host || key.Generation != 1 {
		t.Errorf("the key is %+v, %v", key, err)
	}
	signs(t, b, "host")
	rows, err := b.store.Keys()
	var names []string
	for _, k := range rows {
		names = append(names, fmt.Sprintf("%s#%d", k.Name, k.Generation))
	}
	slices.Sort(names)
	if want := []string{"audit#1", "host#1", "kek#1"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("keys %q, want %q; %v", names, want, err)
	}
	if text := fmt.Sprintf("%+v", b.Doctor(t.Context())); strings.Contains(text, "not the agent's") || strings.Contains(text, "cut off") {
		t.Errorf("doctor: %s", text)
	}
	if err := b.unopened.Load(); err != nil {
		t.Errorf("it was complained of: %v", *err)
	}
	if aside, err := b.store.Meta(metaDataKeyAside); aside != nil || err != nil {
		t.Errorf("%d bytes were set aside, %v", len(aside), err)
	}
}

// A token may be given a name, or another place in the list: its keys are found, and
// what they have sealed is read.
func TestTokensMayBeNamedAndReordered(t *testing.T) {
	r := newRenamer(t)
	old, added := r.token("main", r.s.Label), r.token("second", "new")
	for _, tt := range []struct {
		name   string
		on     string
		tokens []string
	}{
		{"named, and another one added in front", "main", []string{added, old}},
		{"reordered", "main", []string{old, added}},
		{"the key of the identity is configured for the other", "second", []string{old, added}},
		{"names used anew", "second", []string{r.token("main", "new"), r.token("second", r.s.Label)}},
		{"alone, with no name", "", []string{r.token("", r.s.Label)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.unchanged(t, r.open(t, r.config(t, tt.on, tt.tokens...)))
		})
	}
}

// An identity whose key is configured for another token has its next one there, and
// the one before stays usable, and can be destroyed, where it is.
func TestAKeyMovesToAnotherTokenWithTheNext(t *testing.T) {
	r := newRenamer(t)
	b := r.open(t, r.config(t, "second", r.token("main", r.s.Label), r.token("second", "new")))
	keys := b.rotators["host"].keys
	next, generation, err := keys.Reserve("host")
	if err != nil || generation != 2 {
		t.Fatalf("generation %d, %v", generation, err)
	}
	if _, err := keys.Ensure(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := b.tokens["second"].Key(t.Context(), next); err != nil {
		t.Error(err)
	}
	signs(t, b, "host") // with the one before
	if err := keys.Retire(t.Context(), r.id); err != nil {
		t.Error(err)
	}
	if objects := r.s.Tool("-O"); strings.Contains(objects, "host#1") {
		t.Errorf("still on the token:\n%s", objects)
	}
}

// Where the token that the agent needs is not configured any more, everybody is told
// which it is, nothing is thrown away, and all is well when it is back.
func TestATokenThatIsNotConfiguredIsWaitedFor(t *testing.T) {
	r := newRenamer(t)
	var wrapped []byte
	t.Run("without", func(t *testing.T) {
		b := backend{running(t, r.config(t, "", r.token("other", "new")))}
		eventually(t, "the token that is there", func() error {
			if b.unopened.Load() == nil {
				return errors.New("the data key was not looked at")
			}
			return nil
		})
		row, err := b.tokens["other"].Lookup(r.id)
		if err != nil {
			t.Fatal(err)
		}
		where := fmt.Sprintf("%q with serial %s", "default", row.Serial)
		problems := map[string]string{
			"status": fmt.Sprintf("%+v", b.status(time.Now())), "doctor": fmt.Sprintf("%+v", b.Doctor(t.Context())),
			"ready": fmt.Sprint(b.Ready()), "state": fmt.Sprint(b.locked()),
		}
		keys := b.rotators["host"].keys.(*tokenKeys)
		_, use := keys.key(t.Context(), r.id)
		if problems["key"] = fmt.Sprint(use); codeOf(problem(use)) != socket.CodeUnavailable {
			t.Errorf("code of %v", use)
		}
		for what, text := range problems {
			if !strings.Contains(text, where) {
				t.Errorf("%s does not name %s: %s", what, where, text)
			}
		}
		if wrapped, err = b.store.Meta(metaDataKey); err != nil || len(wrapped) == 0 {
			t.Fatal(err)
		}
	})
	t.Run("back", func(t *testing.T) {
		b := r.open(t, r.config(t, "", r.token("again", r.s.Label)))
		r.unchanged(t, b)
		if now, err := b.store.Meta(metaDataKey); err != nil || !bytes.Equal(now, wrapped) {
			t.Error("the data key was changed")
		}
	})
}

// A token that does not come back can be given up, by a word that says so.
func TestATokenThatIsGoneIsGivenUpByAnAdministrator(t *testing.T) {
	r := newRenamer(t)
	b := backend{running(t, r.config(t, "", r.token("other", "new")))}
	eventually(t, "the state is looked at", func() error {
		if b.unopened.Load() == nil {
			return errors.New("the data key was not looked at")
		}
		return nil
	})
	if hint := hintOf(*b.unopened.Load()); !strings.Contains(hint, "name that token under hsm:") || !strings.Contains(hint, "--discard-sealed") {
		t.Errorf("hint %q", hint)
	}
	if err := b.RotateSealingKey(t.Context(), true); err != nil || !b.isOpen() {
		t.Fatalf("open: %v, %v", b.isOpen(), err)
	}
	if aside, err := b.store.Meta(metaDataKeyAside); err != nil || len(aside) == 0 {
		t.Errorf("%d bytes were set aside, %v", len(aside), err)
	}
	if b.sealing() != b.tokens["other"] {
		t.Error("the state is still sealed by the token that is gone")
	}
}

// A key that is to go while its token is not configured keeps nothing waiting, and is
// destroyed when the token is back.
func TestAKeyIsDestroyedWhenItsTokenIsBack(t *testing.T) {
	s := hsmtest.New(t)
	s.InitToken("other")
	ledger := &hsmtest.Ledger{}
	here, there := s.Config(ledger, nil), s.Config(ledger, nil)
	here.Name, there.Name, there.Label = "here", "there", "other"
	left, right := hsm.New(here), hsm.New(there)
	run(t, left)
	run(t, right)
	both := &tokenKeys{left, hsm.ECDSAP256, 0, map[string]*hsm.Token{"here": left, "there": right}}
	one := &tokenKeys{right, hsm.ECDSAP256, 0, map[string]*hsm.Token{"there": right}}
	id, _, err := both.Reserve("host")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Ensure(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := one.Retire(t.Context(), id); err != nil {
		t.Errorf("without its token: %v", err)
	}
	if row, err := left.Lookup(id); err != nil || row.State != hsm.Retired {
		t.Errorf("%s is %s, %v", row, row.State, err)
	}
	if err := both.Forget(t.Context(), "host", nil); err != nil {
		t.Error(err)
	}
	if row, err := left.Lookup(id); err != nil || row.State != hsm.Destroyed || strings.Contains(s.Tool("-O"), "host#1") {
		t.Errorf("%s is %s, %v", row, row.State, err)
	}
}

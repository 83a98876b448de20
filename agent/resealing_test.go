package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/sinks/socket"
)

// A restart is one configuration of which an agent is run several times.
type restart struct {
	*testing.T
	cfg  *config.Config
	blob []byte // what the first run has sealed
}

const sealedBefore = "of before"

// run runs an agent until it is open, does something with it, and stops it.
func (r *restart) run(name string, do func(*testing.T, backend)) {
	r.Helper()
	r.Run(name, func(t *testing.T) {
		b := backend{running(t, r.cfg)}
		eventually(t, "open", func() error { return closedError(b) })
		if r.blob == nil {
			r.blob = b.refresher.sealer.seal("x", []byte(sealedBefore))
		}
		do(t, b)
	})
}

// same checks that the data key is the one of the first run.
func (r *restart) same(t *testing.T, b backend) {
	t.Helper()
	if got, err := b.refresher.sealer.open("x", r.blob); err != nil || string(got) != sealedBefore {
		t.Errorf("what was sealed before: %q, %v", got, err)
	}
	if aside, err := b.store.Meta(metaDataKeyAside); err != nil || aside != nil {
		t.Errorf("%d bytes of a data key are set aside, %v", len(aside), err)
	}
}

// oneToken is a configuration with one token and an identity on it.
func oneToken(t *testing.T, s *hsmtest.SoftHSM) *config.Config {
	t.Helper()
	cfg := twoTokens(t, s)
	cfg.HSM = cfg.HSM[:1]
	delete(cfg.Identities, "other")
	return cfg
}

// lose removes the sealing key from the token.
func lose(t *testing.T, s *hsmtest.SoftHSM, b backend) {
	t.Helper()
	for _, k := range b.sealing().Keys() {
		if k.Name == "kek" && k.State == hsm.Live {
			s.Tool("--delete-object", "--type", "secrkey", "--id", k.ID)
		}
	}
}

// The copy of the state goes on with the sealing key that is on the token, also when
// that has just been replaced.
func TestCopyKnowsTheNewSealingKey(t *testing.T) {
	s := hsmtest.New(t)
	r := restart{T: t, cfg: oneToken(t, s)}
	r.run("rotated", func(t *testing.T, b backend) {
		if err := b.RotateSealingKey(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	})
	for _, suffix := range []string{"", "-wal"} {
		if err := os.WriteFile(filepath.Join(r.cfg.StatePath(), "signet.db"+suffix), []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.run("from the copy", func(t *testing.T, b backend) {
		if d := b.store.Damaged(); d == nil || !d.Restored {
			t.Fatalf("damage: %v", d)
		}
		r.same(t, b)
		if lost := b.sealing().Status().Lost; len(lost) > 0 {
			t.Errorf("lost: %q", lost)
		}
	})
}

// A sealing key that is lost while the agent runs is replaced like any: the data key
// is in memory. What was sealed opens after a restart.
func TestSealingKeyLostWhileOpen(t *testing.T) {
	s := hsmtest.New(t)
	r := restart{T: t, cfg: oneToken(t, s)}
	r.run("lost and replaced", func(t *testing.T, b backend) {
		eventually(t, "keys", func() error { _, err := b.Key(t.Context(), "audit"); return err })
		lose(t, s, b)
		if text := fmt.Sprintf("%+v", b.Doctor(t.Context())); !strings.Contains(text, "kek#1") || !strings.Contains(text, "rotate-sealing") {
			t.Errorf("doctor: %s", text)
		}
		if err := b.RotateSealingKey(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if lost := b.sealing().Status().Lost; len(lost) > 0 {
			t.Errorf("lost: %q", lost)
		}
	})
	r.run("after a restart", r.same)
}

// An agent that is started without its sealing key discards nothing by itself, and
// says what can be done. Told to discard what that key has sealed, it begins anew, and
// other keys are as they were.
func TestStartedWithoutTheSealingKey(t *testing.T) {
	s := hsmtest.New(t)
	r := restart{T: t, cfg: oneToken(t, s)}
	var before []byte
	r.run("before", func(t *testing.T, b backend) {
		eventually(t, "a key", func() error { _, err := b.Key(t.Context(), "host"); return err })
		before, _ = b.store.Meta(metaDataKey)
		lose(t, s, b)
	})
	t.Run("without", func(t *testing.T) {
		b := backend{running(t, r.cfg)}
		eventually(t, "an error", func() error {
			if b.unopened.Load() == nil {
				return errors.New("none yet")
			}
			return nil
		})
		p, ok := errors.AsType[*socket.Problem](b.RotateSealingKey(t.Context(), false))
		if !ok || p.Code != socket.CodeUnavailable || !strings.Contains(p.Detail, "kek#1") || !strings.Contains(p.Hint, "--discard-sealed") {
			t.Errorf("to rotate: %+v", p)
		}
		blob, err := b.store.Meta(metaDataKey)
		if err != nil || !bytes.Equal(blob, before) || closedError(b) == nil || len(kekStates(b)) != 1 {
			t.Errorf("it did not leave things as they are: %v, keys %v", err, kekStates(b))
		}

		if err := b.RotateSealingKey(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		aside, err := b.store.Meta(metaDataKeyAside)
		if err != nil || !bytes.Equal(aside, before) || closedError(b) != nil {
			t.Errorf("%d bytes were set aside, %v; open: %v", len(aside), err, closedError(b))
		}
		eventually(t, "the other key", func() error { _, err := b.Key(t.Context(), "host"); return err })
		signs(t, b, "host")
		if lost := b.sealing().Status().Lost; len(lost) > 0 {
			t.Errorf("lost: %q", lost)
		}
		r.blob = nil
	})
	r.run("after a restart", func(t *testing.T, b backend) {
		if err := b.RotateSealingKey(t.Context(), true); err != nil { // there is nothing to discard
			t.Fatal(err)
		}
	})
	r.run("and after another", func(t *testing.T, b backend) {
		if got, err := b.refresher.sealer.open("x", r.blob); err != nil || string(got) != sealedBefore {
			t.Errorf("what was not to be discarded: %q, %v", got, err)
		}
	})
}

func kekStates(b backend) (states []hsm.State) {
	for _, k := range b.sealing().Keys() {
		if k.Name == "kek" {
			states = append(states, k.State)
		}
	}
	return states
}

// A token that is broken costs no data key, however often it says the same of the
// blob as of one that was changed.
func TestBrokenTokenCostsNoDataKey(t *testing.T) {
	for name, tt := range map[string]struct {
		rules   []string
		workers int // that are used up before it is mended
	}{
		"for what is sealed":     {[]string{"C_Decrypt 2 0x5", "C_Decrypt 3 0x5", "C_Decrypt 4 0x5"}, 1},
		"for all that is opened": {[]string{"C_Decrypt 1 0x5", "C_Decrypt 2 0x5", "C_Decrypt 3 0x5"}, 2*unwrapTries - 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := hsmtest.NewShim(t)
			r := restart{T: t, cfg: oneToken(t, s.SoftHSM)}
			r.cfg.HSM[0].Module = s.Path
			for _, env := range s.Env {
				name, value, _ := strings.Cut(env, "=")
				t.Setenv(name, value)
			}
			r.run("before", func(*testing.T, backend) {})
			s.Rules(tt.rules...)
			t.Run("broken", func(t *testing.T) {
				b := backend{running(t, r.cfg)}
				eventually(t, "so many workers", func() error {
					if n := b.sealing().Status().Restarts; n < tt.workers {
						return fmt.Errorf("%d workers", n)
					}
					return nil
				})
				s.Rules()
				eventually(t, "open again", func() error { return closedError(b) })
				r.same(t, b)
			})
		})
	}
}

// The agent's own keys are shown with their audit.
func TestOwnKeysAreShownWithTheirAudit(t *testing.T) {
	b := backend{running(t, oneToken(t, hsmtest.New(t)))}
	eventually(t, "open", func() error { return closedError(b) })
	for _, name := range []string{"audit", "kek"} {
		info, err := b.Key(t.Context(), name)
		audit, _ := info.Attributes["audit"].(keyAudit)
		if err != nil || info.Name != name || info.Generation != 1 || !audit.Passed || audit.Wrap != "refused" || info.Attributes["CKA_SENSITIVE"] != true {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
	if _, _, err := b.Sign(t.Context(), "kek", socket.SignRequest{Hash: "SHA-256", Digest: make([]byte, 32)}); err == nil {
		t.Error("the sealing key signs")
	}
}

// After the HSM was destroyed, a new one with the same label is refused until the
// state that belongs to the old one was moved away; then the agent begins anew.
func TestDestroyedHSM(t *testing.T) {
	s := hsmtest.New(t)
	r := restart{T: t, cfg: oneToken(t, s)}
	r.run("before", func(t *testing.T, b backend) {
		eventually(t, "a key", func() error { _, err := b.Key(t.Context(), "host"); return err })
	})
	if err := errors.Join(os.RemoveAll(s.Tokens), os.Mkdir(s.Tokens, 0o700)); err != nil {
		t.Fatal(err)
	}
	s.InitToken(s.Label)
	t.Run("with the state of the old one", func(t *testing.T) {
		b := backend{running(t, r.cfg)}
		eventually(t, "a refusal", func() error {
			if err := b.sealing().Status().Err; !errors.Is(err, hsm.ErrReplaced) || !strings.Contains(hintOf(err), "docs/hsm.md") {
				return fmt.Errorf("%w, hint %q", err, hintOf(err))
			}
			return nil
		})
	})
	state, err := filepath.Glob(filepath.Join(r.cfg.StatePath(), "signet.db*"))
	if err != nil || len(state) < 2 {
		t.Fatalf("state: %q, %v", state, err)
	}
	for _, name := range state {
		if err := os.Rename(name, filepath.Join(t.TempDir(), "away")); err != nil {
			t.Fatal(err)
		}
	}
	r.run("with a new one", func(t *testing.T, b backend) {
		eventually(t, "a key", func() error { _, err := b.Key(t.Context(), "host"); return err })
		signs(t, b, "host")
		if cut := b.audit.Cut(); cut != nil {
			t.Errorf("audit: %v", cut)
		}
	})
}

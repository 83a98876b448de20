package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/sinks/socket"
)

// life runs an agent, as running does, while it is used. The next may use its state.
func life(t *testing.T, cfg *config.Config, use func(backend)) {
	t.Helper()
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, st)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	defer func() {
		stop()
		if err := errors.Join(<-done, st.Close()); err != nil {
			t.Error(err)
		}
	}()
	use(backend{a})
}

// diagnosed is one check of `signet doctor`.
func diagnosed(t *testing.T, b backend, name string) Check {
	t.Helper()
	for _, c := range b.Doctor(t.Context()).(Diagnosis).Checks {
		if c.Name == name {
			return c
		}
	}
	return Check{}
}

// signable tells whether the host's key signs.
func signable(b backend) func() error {
	return func() error {
		_, _, err := b.Sign(context.Background(), "host", socket.SignRequest{Hash: "SHA-256", Digest: make([]byte, 32)})
		return err
	}
}

// TestDoctorTriesTheKeys holds that `signet doctor` names a key that cannot be used,
// or could not by the next agent, and says why the state is not open.
func TestDoctorTriesTheKeys(t *testing.T) {
	shim := hsmtest.NewShim(t)
	s := *shim.SoftHSM
	s.Module = shim.Path
	cfg := twoTokens(t, &s)
	refused := func(b backend, name string, in ...string) {
		t.Helper()
		c := diagnosed(t, b, name)
		for _, text := range in {
			if c.Status != checkFailed || !strings.Contains(c.Detail, text) || c.Hint == "" {
				t.Errorf("%s: %+v, want it failed for %q, with a hint", name, c, text)
			}
		}
	}
	var id string
	life(t, cfg, func(b backend) {
		eventually(t, "signing", signable(b))
		for _, name := range []string{"hsm main keys", "state"} {
			if c := diagnosed(t, b, name); c.Status != checkOK {
				t.Errorf("%s while all is well: %+v", name, c)
			}
		}
		v, err := b.keyOf("host")
		if err != nil {
			t.Fatal(err)
		}
		id = v.KeyID
	})

	shim.Rules("C_WrapKey 0 0x6")
	life(t, cfg, func(b backend) {
		<-b.tokens["main"].Ready()
		refused(b, "hsm main key host#1", "the key failed its checks", "CKR_FUNCTION_FAILED")
		if n := fmt.Sprint(b.status(time.Now()).Notices); !strings.Contains(n, `hsm "main": keys that cannot be used: `) {
			t.Errorf("the status notes %s", n)
		}
		refused(b, "hsm main key kek#1", "the key failed its checks")
		if c := diagnosed(t, b, "hsm main keys"); c.Status != checkFailed {
			t.Errorf("keys: %+v", c)
		}
	})

	shim.Rules("C_Decrypt 0 0x6")
	life(t, cfg, func(b backend) {
		eventually(t, "a failure", func() error {
			if b.locked() == nil {
				return errors.New("none yet")
			}
			return nil
		})
		refused(b, "state", "kek#1", "CKR_FUNCTION_FAILED")
		refused(b, "hsm main key kek#1", "CKR_FUNCTION_FAILED")
	})

	shim.Rules()
	life(t, cfg, func(b backend) {
		eventually(t, "signing", signable(b))
		shim.Tool("--delete-object", "--type", "pubkey", "--id", id)
		refused(b, "hsm main key host#1", "public half is gone")
		info, err := b.Key(t.Context(), "host")
		audit, _ := info.Attributes["audit"].(keyAudit)
		if err != nil || audit.Passed || !strings.Contains(fmt.Sprint(audit.Findings), "0 public halves") {
			t.Errorf("shown: %+v, %v", info, err)
		}
	})
	life(t, cfg, func(b backend) {
		eventually(t, "the state", func() error { return closedError(b) })
		refused(b, "hsm main key host#1", "0 public halves")
		if c := diagnosed(t, b, "hsm main key kek#1"); c != (Check{}) {
			t.Errorf("the sealing key: %+v", c)
		}
	})
}

// TestDoctorOfAClosedToken holds that the state is told to be closed where its token
// is away.
func TestDoctorOfAClosedToken(t *testing.T) {
	s := hsmtest.New(t)
	cfg := twoTokens(t, s)
	cfg.HSM[0].Label = "elsewhere"
	b := backend{running(t, cfg)}
	eventually(t, "the state", func() error {
		if c := diagnosed(t, b, "state"); c.Status != checkFailed || !strings.Contains(c.Detail, "CKR_TOKEN_NOT_PRESENT") || c.Hint == "" {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// TestKeysOfATokenThatIsAwayHideNoOthers holds that the lists of keys and of
// what is not the agent's go on without a token that is closed.
func TestKeysOfATokenThatIsAwayHideNoOthers(t *testing.T) {
	s := hsmtest.New(t) // "spare" is not made
	b := backend{running(t, twoTokens(t, s))}
	s.Tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "0a0b")
	eventually(t, "keys", func() error {
		keys, err := b.Keys(all)
		if err == nil && (len(keys) != 1 || keys[0].Name != "host") {
			err = fmt.Errorf("keys %v", keys)
		}
		return err
	})
	found, err := b.Objects(t.Context())
	if text := fmt.Sprintf("%+v", found); err != nil || !strings.Contains(text, "Objects:[{") || !strings.Contains(text, "Skipped:[{Token:spare Error:") {
		t.Errorf("objects: %s, %v", text, err)
	}
}

// TestDoctorSaysWhatToDo holds that what a token wants is no limit of its module, and
// is told with what to do.
func TestDoctorSaysWhatToDo(t *testing.T) {
	shim := hsmtest.NewShim(t)
	s := *shim.SoftHSM
	s.Module = shim.Path
	shim.AddFlags(0x80000) // CKF_USER_PIN_TO_BE_CHANGED
	b := backend{running(t, twoTokens(t, &s))}
	eventually(t, "the state", func() error { return closedError(b) })
	c := diagnosed(t, b, "hsm main warning")
	if c.Status != checkWarning || !strings.Contains(c.Detail, "wants its PIN changed") || !strings.Contains(c.Hint, "vendor's tool") {
		t.Errorf("%+v", c)
	}
	if c := diagnosed(t, b, "hsm main module"); c != (Check{}) {
		t.Errorf("its module: %+v", c)
	}
}

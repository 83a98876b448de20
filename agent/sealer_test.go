package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/sinks/socket"
)

// A data key that was changed on disk costs what it has sealed, and no more: it is
// set aside, and the agent works with another one.
func TestChangedDataKeyIsReplaced(t *testing.T) {
	s := hsmtest.New(t)
	cfg := twoTokens(t, s)
	s.InitToken("spare")
	start := func(t *testing.T, of string) (*Agent, []byte) {
		t.Helper()
		a := running(t, cfg)
		eventually(t, of, func() error { return closedError(backend{a}) })
		blob, err := a.store.Meta(metaDataKey)
		if err != nil {
			t.Fatal(err)
		}
		return a, blob
	}
	var good, bad []byte
	t.Run("before", func(t *testing.T) {
		_, good = start(t, "open")
	})
	t.Run("changed", func(t *testing.T) {
		bad = bytes.Clone(good)
		bad[len(bad)-1] ^= 1
		setMeta(t, cfg, metaDataKey, bad)
		a, blob := start(t, "open with another data key")
		if bytes.Equal(blob, bad) || bytes.Equal(blob, good) {
			t.Error("the data key is the same")
		}
		if aside, err := a.store.Meta(metaDataKeyAside); err != nil || !bytes.Equal(aside, bad) {
			t.Errorf("%d bytes were set aside, %v", len(aside), err)
		}
	})
}

// While the agent's state cannot be read, everybody is told at once, and why; nobody
// is told to enrol what may be enrolled already.
func TestWithoutTheHSMCallersAreToldSo(t *testing.T) {
	a := newIdle(t, `
identities:
  host: {issuer: m, subject: {common_name: h}}
upstreams:
  m: {type: manager, url: https://localhost, account_id: 1}
  pam: {type: senhasegura, url: https://localhost, identity: host, auth: {grant: client_credentials, client_id: a, client_secret: {file: /nonexistent}}}
secrets:
  db: {upstream: pam, credential: "1"}
`)
	b := backend{a}
	if _, err := a.identities["host"].certificate(t.Context()); err == nil || strings.Contains(err.Error(), "enroll") {
		t.Errorf("before anything is known: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.sealing().Run(ctx) }()
	defer func() { stop(); <-done }()

	eventually(t, "the token has failed", func() error {
		if a.sealing().Status().Err == nil {
			return errors.New("not yet")
		}
		return nil
	})
	forever, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	began := time.Now()
	_, cert := a.identities["host"].certificate(forever)
	for what, err := range map[string]error{
		"read": b.Fetch(forever, "db"), "report": b.Refused(forever, "db", "1"), "identity": problem(cert),
	} {
		if codeOf(err) != socket.CodeUnavailable || !strings.Contains(fmt.Sprint(err), `hsm "default"`) || strings.Contains(fmt.Sprint(err), "enroll") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("it took %v to say so", d)
	}
}

// setMeta changes the state of an agent that does not run.
func setMeta(t *testing.T, cfg *config.Config, name string, value []byte) {
	t.Helper()
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.SetMeta(name, value), st.Close()); err != nil {
		t.Fatal(err)
	}
}

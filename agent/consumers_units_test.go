package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
)

// A unit that was given an older version of a credential is put into the queue
// of reloads, if it asks again when it is reloaded; and the doctor says of each
// unit how it gets new ones.
func TestUnitsAreReloadedForTheirCredentials(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	const asks, fixed, both = "signet-test-asks.service", "signet-test-fixed.service", "signet-test-both.service"
	for _, unit := range []string{asks, fixed} {
		if err := st.SaveRecord("credential", unit+"/db.password", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &config.Config{StateDir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run"),
		CredentialsSocket: config.CredentialsSocket{Path: filepath.Join(dir, "credentials.sock")},
		Upstreams:         map[string]config.Upstream{"pam": {Type: config.Senhasegura, URL: "https://localhost"}},
		Secrets:           map[string]config.Secret{"db": {Upstream: "pam", Credential: "1"}},
		Policy:            []config.Rule{{Callers: config.Callers{Units: []string{asks, fixed, both}}, Allow: config.Allow{Secrets: []string{"db"}}}},
		Files: []config.File{{Path: filepath.Join(dir, "password"), Content: config.Content{Secret: "db", Field: "password"},
			Reload: config.Reload{Unit: both}}},
	}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler),
		Refreshes: func(_ context.Context, unit string) (bool, error) { return unit != fixed, nil }}, st)
	if err != nil {
		t.Fatal(err)
	}
	r := &consumerRig{Agent: a, t: t, st: st}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, a.log, part{"consumers", a.consumers.Run}, part{"credentials refresh", a.credentials.RunRefresh})
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.publish("2")
	states := func() map[string]string {
		out := map[string]string{}
		for _, it := range a.consumerItems() {
			out[it.Name] = it.State + " " + it.LastError
		}
		return out
	}
	// There are no such units, so each try fails, and is seen to be one.
	eventuallyTrue(t, "the reload is tried", func() bool { return strings.Contains(states()[asks], "reload "+asks) })
	eventuallyTrue(t, "that of the file too", func() bool { return strings.Contains(states()[both], "reload "+both) })
	if got := states(); len(got) != 3 || got[fixed] != stateIdle+" " {
		t.Errorf("consumers %q", got)
	}
	for _, c := range a.checkConsumers(t.Context()) {
		if want := map[bool]string{true: checkSkipped, false: checkFailed}[c.Name == "reload "+fixed]; c.Status != want {
			t.Errorf("%+v, want %s", c, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.close()
}

// A bus that hangs is an error after a while: one unit does not keep the others
// from being told.
func TestABusThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{opt: Options{Refreshes: func(ctx context.Context, _ string) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		}}}
		start := time.Now()
		if _, err := a.refreshUnit(t.Context(), "app.service"); err == nil || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// What units were given is kept, and what is not configured any more forgotten,
// also in a run that cannot refresh them; a run that they cannot ask keeps it.
func TestWhatUnitsHaveIsKnownInAnyRun(t *testing.T) {
	for path, want := range map[string]bool{"/run/signet/credentials.sock": false, "": true} {
		dir := t.TempDir()
		st, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.SaveRecord("credential", "app.service/gone.v", []byte("1")); err != nil {
			t.Fatal(err)
		}
		cfg := &config.Config{StateDir: dir, RuntimeDir: dir, CredentialsSocket: config.CredentialsSocket{Path: path}}
		a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.audit.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := st.Record("credential", "app.service/gone.v"); err != nil || (got != nil) != want {
			t.Errorf("socket %q: it is %q, %v; want it kept %v", path, got, err, want)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

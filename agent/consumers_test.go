package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// consumerRig is an agent with one file and what follows its change.
type consumerRig struct {
	*Agent
	t    *testing.T
	file string
	st   *store.Store
}

// newConsumerRig makes an agent on a state directory, with more files if need be.
// Nothing of it runs yet.
func newConsumerRig(t *testing.T, dir string, f config.File, more ...config.File) *consumerRig {
	t.Helper()
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	f.Path = filepath.Join(dir, "password")
	if f.Certificate == "" {
		f.Secret, f.Field = "db", "password"
	}
	cfg := &config.Config{StateDir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run"), Files: append(more, f)}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st)
	if err != nil {
		t.Fatal(err)
	}
	return &consumerRig{a, t, f.Path, st}
}

// run runs what delivers, until the function that it returns is called.
func (r *consumerRig) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, r.log, part{"consumers", r.consumers.Run}) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		r.close()
	}
}

func (r *consumerRig) close() {
	if err := r.audit.Close(); err != nil {
		r.t.Error(err)
	}
	if err := r.st.Close(); err != nil {
		r.t.Error(err)
	}
}

func (r *consumerRig) publish(version string) {
	r.publishSecret(&sinks.Secret{Name: "db", Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{"password": secret.New([]byte(version))})})
}

// consumer is the item of the status.
func (r *consumerRig) consumer() Item {
	for _, it := range r.status(time.Now()).Items {
		if it.Kind == "consumer" {
			return it
		}
	}
	return Item{}
}

func (r *consumerRig) await(state string) Item {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); ; {
		it := r.consumer()
		if it.State == state {
			return it
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("consumer is %+v, want %s", it, state)
		}
	}
}

// A change of a file reloads its consumer; a process that dies in between has
// the next one do it; that a consumer refuses everybody can see. The old secret
// does not come back: the upstream has another.
func TestFilesReloadTheirConsumers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log, refuse := filepath.Join(dir, "log"), filepath.Join(dir, "refuse")
	hook := filepath.Join(dir, "hook")
	script := fmt.Sprintf("#!/bin/sh\ncat %s/password >>%s\nif grep -q -f %s %s/password; then echo wrong password >&2; exit 3; fi\n", dir, log, refuse, dir)
	for path, text := range map[string]string{hook: script, refuse: "bad\n"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string { b, _ := os.ReadFile(log); return string(b) }
	f := config.File{Reload: config.Reload{Exec: []string{hook}}}

	r := newConsumerRig(t, dir, f)
	if it := r.consumer(); it.State != stateIdle {
		t.Errorf("before anything: %+v", it)
	}
	r.publish("one,")
	if it := r.consumer(); it.State != statePending {
		t.Errorf("written and not reloaded: %+v", it)
	}
	r.close() // it dies here

	r = newConsumerRig(t, dir, f)
	if it := r.consumer(); it.State != statePending {
		t.Errorf("after the crash: %+v", it)
	}
	stop := r.run()
	if it := r.await(stateReloaded); it.ReloadedAt.IsZero() {
		t.Errorf("reloaded: %+v", it)
	}
	r.publish("one,") // as every start does
	r.publish("two,")
	eventuallyTrue(t, "the second reload", func() bool { return read() == "one,two," })
	r.await(stateReloaded)

	r.publish("bad,")
	it := r.await(stateFailed)
	for _, want := range []string{hook, "exit status 3", "wrong password", "its upstream has replaced secret db"} {
		if !strings.Contains(it.LastError, want) {
			t.Errorf("last error %q lacks %q", it.LastError, want)
		}
	}
	if d := time.Until(it.RetryAt); d <= 0 || d > time.Minute || it.Failures != 1 {
		t.Errorf("again in %v, %d failures", d, it.Failures)
	}
	if b, err := os.ReadFile(r.file); string(b) != "bad," || err != nil {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if got := read(); got != "one,two,bad," {
		t.Errorf("the consumer read %q", got)
	}
	eventuallyTrue(t, "the metrics tell of all outcomes", func() bool {
		rec := httptest.NewRecorder()
		r.metrics.handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		return strings.Contains(rec.Body.String(), `outcome="failed"}`) && strings.Contains(rec.Body.String(), `outcome="ok"}`)
	})
	r.publish("three,")
	r.await(stateReloaded)
	stop()
}

// Whoever corrects how a consumer is told has its files tried at once, though the
// consumer has another name by that: it is called after its command, unit, pid file
// or socket.
func TestACorrectedReloadIsMadeAtOnce(t *testing.T) {
	for wrong, reload := range map[string]config.Reload{
		"command":  {Exec: []string{"/nonexistent/nginx", "-s", "reload"}},
		"pid file": {Signal: config.SignalReload{PIDFile: "/proc/1/status"}},
	} {
		for _, previous := range []bool{false, true} {
			t.Run(fmt.Sprintf("wrong %s, previous %v", wrong, previous), func(t *testing.T) {
				correctReload(t, reload, previous)
			})
		}
	}
}

// correctReload delivers with a reload that fails and corrects that, each with a
// start of the agent as SIGHUP makes it.
func correctReload(t *testing.T, wrong config.Reload, previous bool) {
	dir, ca := t.TempDir(), newRecipeCA(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file, told := filepath.Join(dir, "password"), filepath.Join(dir, "told")
	first, second := ca.issue(), ca.issue()
	deliver := func(reload config.Reload, c *sinks.Certificate, state string) {
		t.Helper()
		f := config.File{Reload: reload}
		f.Certificate, f.Format = "web", "pem-chain"
		r := newConsumerRig(t, dir, f)
		stop := r.run()
		defer stop()
		if err := r.files.PublishCertificate(c); err != nil {
			t.Fatal(err)
		}
		r.await(state)
	}
	state := stateFailed
	if previous {
		deliver(config.Reload{Exec: []string{"true"}}, first, stateReloaded)
		state = stateRolledBack
	}
	deliver(wrong, second, state)
	deliver(config.Reload{Exec: []string{"cp", file, told}}, second, stateReloaded)
	want, err := second.ChainPEM()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(told); err != nil || string(b) != string(want) {
		t.Errorf("the consumer has read %q, %v", b, err)
	}
}

// A certificate that a consumer has refused is not written again by each start of
// the agent, but when the time for it has come or there is another.
func TestARollBackOutlivesTheAgent(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := newRecipeCA(t)
	first, refused, third := ca.issue(), ca.issue(), ca.issue()
	hook, bad := filepath.Join(dir, "hook"), filepath.Join(dir, "bad")
	pem, err := refused.ChainPEM()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nif cmp -s -n %d %s/password %s; then exit 3; fi\n", len(pem), dir, bad)
	for path, text := range map[string]string{hook: script, bad: string(pem)} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f := config.File{Reload: config.Reload{Exec: []string{hook}}}
	f.Certificate, f.Format = "web", "pem-chain"
	r := newConsumerRig(t, dir, f)
	publish := func(c *sinks.Certificate) {
		t.Helper()
		if err := r.files.PublishCertificate(c); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(c *sinks.Certificate) bool {
		b, err := os.ReadFile(r.file)
		want, err2 := c.ChainPEM()
		return err == nil && err2 == nil && string(b) == string(want)
	}
	stop := r.run()
	publish(first)
	r.await(stateReloaded)
	publish(refused)
	retry := r.await(stateRolledBack).RetryAt
	for range 2 {
		stop()
		r = newConsumerRig(t, dir, f)
		stop = r.run()
		publish(refused)
		if it := r.consumer(); it.State != stateRolledBack || !it.RetryAt.Equal(retry) || it.Failures != 1 || !holds(first) {
			t.Errorf("after a start: %+v", it)
		}
	}
	publish(third)
	r.await(stateReloaded)
	if !holds(third) {
		t.Error("the third is not in the file")
	}
	stop()
}

// A file that cannot be written does not keep its consumer from being told of the
// others within two seconds.
func TestAFileThatCannotBeWrittenDelaysNoReload(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	told, full := filepath.Join(dir, "told"), filepath.Join(dir, "full")
	if err := os.Mkdir(full, 0o755); err != nil { // which no file can replace
		t.Fatal(err)
	}
	f := config.File{Reload: config.Reload{Exec: []string{"touch", told}}}
	other := f
	other.Path, other.Secret, other.Field = full, "db", "password"
	r := newConsumerRig(t, dir, f, other)
	stop := r.run()
	began := time.Now()
	r.publish("one")
	eventuallyTrue(t, "the reload", func() bool { _, err := os.Stat(told); return err == nil })
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("told after %v", d)
	}
	stop()
}

// eventuallyTrue waits until f holds.
func eventuallyTrue(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// hangAt mounts a file system that answers nothing until it is freed, as one of a
// server that is away.
func hangAt(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no file systems of our own: %v", err)
	}
	free = sync.OnceFunc(func() { f.Close() }) // then all calls end
	if err := unix.Mount("hang", dir, "fuse", unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())); err != nil {
		free()
		t.Skipf("no file systems of our own: %v", err)
	}
	t.Cleanup(func() {
		free()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return free
}

// An agent that has reloads to make up for is made, runs, and ends while the file
// system of some files hangs; other consumers are told of theirs.
func TestAFileSystemThatHangsDelaysNoStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	far, told := filepath.Join(dir, "far"), filepath.Join(dir, "told")
	if err := os.Mkdir(far, 0o755); err != nil {
		t.Fatal(err)
	}
	f := config.File{Reload: config.Reload{Exec: []string{"touch", told}}}
	other := config.File{Path: filepath.Join(far, "pw"), Reload: config.Reload{Exec: []string{"true"}}}
	other.Secret, other.Field = "far", "password"
	r := newConsumerRig(t, dir, f, other)
	r.publish("one")
	r.publishSecret(&sinks.Secret{Name: "far", Version: "1", Fields: sinks.FieldsOf(map[string]secret.Value{"password": secret.New([]byte("x"))})})
	r.close() // it dies here

	free := hangAt(t, far)
	hung := time.AfterFunc(5*time.Second, free)
	r = newConsumerRig(t, dir, f, other)
	stop := r.run()
	eventuallyTrue(t, "the reload of the other", func() bool { _, err := os.Stat(told); return err == nil })
	stop()
	if !hung.Stop() {
		t.Error("it waits for the file system that hangs")
	}
}

// hangLife runs an agent whose upstream gives what answer says, until stop is called.
func hangLife(t *testing.T, cfg *config.Config, answer func() (upstream.Secret, error)) (a *Agent, stop func()) {
	t.Helper()
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	if a, err = newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st); err != nil {
		t.Fatal(err)
	}
	a.refresher.items["db"].fetch = func(context.Context) (upstream.Secret, error) { return answer() }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	return a, func() {
		cancel()
		if err := errors.Join(<-done, st.Close()); err != nil {
			t.Error(err)
		}
	}
}

// An agent starts, fetches, and stops while a file system hangs; what a secret
// gives to it elsewhere is written, and withdrawn.
func TestAFileSystemThatHangsDelaysNoFetch(t *testing.T) {
	s := hsmtest.New(t)
	for _, env := range s.Env { // the worker inherits it
		name, value, _ := strings.Cut(env, "=")
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	far, near := filepath.Join(dir, "far"), filepath.Join(dir, "near")
	for _, d := range []string{dir, far, near} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chmod(d, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Parse("f", fmt.Appendf(nil, `
state_dir: %[1]s/state
runtime_dir: %[1]s
hsm: {module: %[2]s, token: %[3]s, pin: {file: %[4]s}, worker: %[5]s}
upstreams: {cm: {type: ciphertrust, url: "https://127.0.0.1:1", auth: {grant: password}}}
secrets: {db: {upstream: cm, secret: x, ttl: 1s}}
files:
  - {path: %[1]s/far/pw, secret: db, field: password}
  - {path: %[1]s/near/pw, secret: db, field: password}
`, dir, s.Module, s.Label, s.PINFile, s.Worker))
	if err != nil {
		t.Fatal(err)
	}
	has := func(d, text string) func() bool {
		return func() bool {
			b, err := os.ReadFile(filepath.Join(d, "pw"))
			return err == nil && string(b) == text || text == "" && os.IsNotExist(err)
		}
	}
	_, stop := hangLife(t, cfg, func() (upstream.Secret, error) { return upstream.Secret{Version: "1", Fields: value("one")}, nil })
	eventuallyTrue(t, "the files", func() bool { return has(far, "one")() && has(near, "one")() })
	stop()

	hangAt(t, far)
	var refused atomic.Bool
	began := time.Now()
	a, stop := hangLife(t, cfg, func() (upstream.Secret, error) {
		if refused.Load() {
			return upstream.Secret{}, &upstream.Error{Upstream: "cm", Op: "read", Code: upstream.NotFound}
		}
		return upstream.Secret{Version: "2", Fields: value("two")}, nil
	})
	select {
	case <-a.opened:
	case <-time.After(10 * time.Second):
		t.Fatal("the start waits for the file system that hangs")
	}
	eventuallyTrue(t, "what is new elsewhere", has(near, "two"))
	eventuallyTrue(t, "the status", func() bool {
		for _, it := range a.fileItems() {
			if it.Name == filepath.Join(far, "pw") {
				return it.State == stateFailed && strings.Contains(it.LastError, "does not answer") && it.Hint != ""
			}
		}
		return false
	})
	refused.Store(true)
	eventuallyTrue(t, "the withdrawal elsewhere", has(near, ""))
	t.Logf("all that took %v", time.Since(began))
	began = time.Now()
	stop()
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the end took %v", d)
	}
}

package consumers

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// memStore is a Store that keeps what it was given, and fails on demand.
type memStore struct {
	mu    sync.Mutex
	recs  map[string][]byte
	saves int
	err   error
}

func newStore() *memStore { return &memStore{recs: map[string][]byte{}} }

func (m *memStore) Records(string) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.recs), nil
}

func (m *memStore) SaveRecord(_, name string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.recs[name] = bytes.Clone(value)
		m.saves++
	}
	return m.err
}

func (m *memStore) DeleteRecord(_, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.recs, name)
	return nil
}

// memFiles has an old and a new generation of each target.
type memFiles struct {
	mu       sync.Mutex
	back     map[string]bool  // it has the old one
	newest   map[string]int64 // generation
	calls    []string
	itemless bool // no item has come yet
	noneLeft bool // there is no previous generation
	revives  []string
	leaves   map[string][][]byte
	held     map[string]string // by Hold: what was wanted
	queue    *Consumers
}

func newFiles() *memFiles {
	return &memFiles{back: map[string]bool{}, newest: map[string]int64{}, held: map[string]string{}, leaves: map[string][][]byte{}}
}

func (f *memFiles) Rollback(target string, _ int64) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noneLeft {
		return false, errors.New("there is no previous generation")
	}
	f.calls = append(f.calls, "rollback "+target)
	f.back[target] = true
	return true, nil
}

func (f *memFiles) Redeliver(target string) error {
	f.mu.Lock()
	f.calls = append(f.calls, "redeliver "+target)
	f.mu.Unlock()
	return f.deliver(target)
}

// deliver does what files does: note, write, tell.
func (f *memFiles) deliver(target string) error {
	f.mu.Lock()
	gen := f.newest[target] + 10
	f.mu.Unlock()
	changes := []Change{{Target: target, Generation: gen}}
	if err := f.queue.Writing(changes); err != nil {
		return err
	}
	f.mu.Lock()
	f.newest[target] = gen
	delete(f.back, target)
	delete(f.held, target)
	f.mu.Unlock()
	f.queue.Written(changes)
	return nil
}

func (f *memFiles) Generation(target string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.back[target] {
		return f.newest[target] - 10, nil
	}
	return f.newest[target], nil
}

func (f *memFiles) Leaves(target string) [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leaves[target]
}

// Wanted does not tell deliveries apart: a test that does not say so delivers the
// same again.
func (f *memFiles) Wanted(target string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.itemless {
		return "", nil
	}
	return "content of " + target, nil
}

func (f *memFiles) Hold(target, wanted string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "hold "+target)
	f.held[target] = wanted
	return nil
}

// publish does what files does at a start with what it is given: nothing if that
// is in place, or is not to be written yet.
func (f *memFiles) publish(target string) error {
	f.mu.Lock()
	right := !f.back[target] || f.held[target] != ""
	f.mu.Unlock()
	if right {
		return nil
	}
	return f.deliver(target)
}

func (f *memFiles) Revives(string) ([]string, error) { return f.revives, nil }

func (f *memFiles) isOld(target string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.back[target]
}

// wayFunc is a Way that is a function.
type wayFunc struct {
	name string
	f    func(context.Context) error
}

func (w wayFunc) Reload(ctx context.Context) error { return w.f(ctx) }
func (w wayFunc) Check(context.Context) error      { return nil }
func (w wayFunc) String() string                   { return w.name }

// A rig is a running Consumers with a record of what it told.
type rig struct {
	*Consumers
	store    *memStore
	files    *memFiles
	mu       sync.Mutex
	outcomes []string
	failures []Failure
	log      bytes.Buffer
	halt     func()
}

func (r *rig) told() ([]string, []Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.outcomes), slices.Clone(r.failures)
}

// lockedWriter keeps the log readable.
type lockedWriter struct{ r *rig }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.log.Write(p)
}

// start runs a queue on a store, until the test ends or halt is called.
func start(t *testing.T, store *memStore, files *memFiles, consumers ...Consumer) *rig {
	t.Helper()
	return startOn(t, store, files, consumers...)
}

// startOn is start on files of any kind.
func startOn(t *testing.T, store *memStore, files Files, consumers ...Consumer) *rig {
	t.Helper()
	r := &rig{store: store}
	cs, err := New(Config{Consumers: consumers, Store: store, Files: files,
		Observe: func(_, outcome string) { r.mu.Lock(); r.outcomes = append(r.outcomes, outcome); r.mu.Unlock() },
		Failed:  func(f Failure) { r.mu.Lock(); r.failures = append(r.failures, f); r.mu.Unlock() },
		Log:     slog.New(slog.NewTextHandler(lockedWriter{r}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r.Consumers = cs
	if m, ok := files.(*memFiles); ok {
		r.files, m.queue = m, cs
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cs.Run(ctx) }()
	r.halt = sync.OnceFunc(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.halt)
	return r
}

func (r *rig) deliver(t *testing.T, targets ...string) {
	t.Helper()
	for _, target := range targets {
		if err := r.files.deliver(target); err != nil {
			t.Fatal(err)
		}
	}
}

// tempDir is a directory in memory that nobody else can write to.
func tempDir(t testing.TB) string {
	t.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "signet-consumers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// eventually waits until f holds, for limit at most.
func eventually(t testing.TB, limit time.Duration, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(limit); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counting is a consumer of some targets that counts its reloads.
func counting(name string, n *atomic.Int64, f func(context.Context) error, targets ...string) Consumer {
	c := Consumer{Name: name}
	for _, path := range targets {
		c.Targets = append(c.Targets, Target{Path: path, Way: wayFunc{"way of " + name, func(ctx context.Context) error {
			n.Add(1)
			if f != nil {
				return f(ctx)
			}
			return nil
		}}})
	}
	return c
}

func (m *memStore) pending(t *testing.T, name string) bool {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var rec record
	if b := m.recs[name]; b != nil {
		if err := json.Unmarshal(b, &rec); err != nil {
			t.Fatal(err)
		}
	}
	return rec.Pending
}

func (m *memStore) edit(t *testing.T, name string, f func(*record)) {
	t.Helper()
	var rec record
	if err := json.Unmarshal(m.recs[name], &rec); err != nil {
		t.Fatal(err)
	}
	f(&rec)
	blob, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	m.recs[name] = blob
}

func TestABurstIsOneReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var targets []string
		for i := range 1000 {
			targets = append(targets, fmt.Sprintf("/f/%d", i))
		}
		r := start(t, newStore(), newFiles(), counting("app", &n, nil, targets...))
		for _, target := range targets {
			r.deliver(t, target)
			time.Sleep(5 * time.Millisecond) // as long as a disk takes
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n.Load() != 1 {
			t.Errorf("%d reloads, want one", n.Load())
		}
		if s := r.Status()[0]; s.Pending || s.ReloadedAt.IsZero() {
			t.Errorf("status %+v", s)
		}
		if r.store.saves > manyTargets+3 {
			t.Errorf("%d waits for the disk", r.store.saves)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n.Load() != 1 {
			t.Errorf("%d reloads a day later", n.Load())
		}
		r.halt()
	})
}

// A consumer is told what has changed within the two seconds that the recipes
// promise, however it changed.
func TestOneChangeIsReloadedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		r := start(t, newStore(), newFiles(), counting("app", &n, nil, "/f/a"))
		r.deliver(t, "/f/a")
		time.Sleep(quiet + time.Millisecond)
		synctest.Wait()
		if n.Load() != 1 {
			t.Errorf("%d reloads after %v", n.Load(), quiet)
		}
		r.halt()
	})
}

// A file that cannot be written delays the reload for the others of its consumer
// by nothing. Should it have changed nevertheless, a crash does not forget that.
func TestAFileThatCannotBeWrittenDelaysNoReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		var n, m atomic.Int64
		r := start(t, store, newFiles(), counting("app", &n, nil, "/f/a", "/f/full"))
		for i := range 3 {
			full := []Change{{Target: "/f/full", Generation: int64(i)}}
			if err := r.Writing(full); err != nil {
				t.Fatal(err)
			}
			r.deliver(t, "/f/a")
			r.Unwritten(full)
			time.Sleep(quiet + time.Millisecond)
			synctest.Wait()
			if n.Load() != int64(i+1) {
				t.Errorf("%d reloads after %v, want %d", n.Load(), quiet, i+1)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n.Load() != 3 || !store.pending(t, "app") {
			t.Errorf("%d reloads, pending %v", n.Load(), store.pending(t, "app"))
		}
		r.halt()
		r = start(t, store, newFiles(), counting("app", &m, nil, "/f/a", "/f/full"))
		time.Sleep(time.Second)
		synctest.Wait()
		if m.Load() != 1 || store.pending(t, "app") {
			t.Errorf("after a start: %d reloads, pending %v", m.Load(), store.pending(t, "app"))
		}
		r.halt()
	})
}

func TestAStuckConsumerDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stuck, well atomic.Int64
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		r := start(t, newStore(), newFiles(), counting("stuck", &stuck, hang, "/f/a"), counting("well", &well, nil, "/f/b"))
		r.deliver(t, "/f/a", "/f/b")
		time.Sleep(time.Second)
		synctest.Wait()
		if stuck.Load() != 1 || well.Load() != 1 {
			t.Errorf("reloads: stuck %d, well %d; want 1 and 1", stuck.Load(), well.Load())
		}
		time.Sleep(70 * time.Second) // 30 until the limit, 30 with the previous files
		synctest.Wait()
		_, failures := r.told()
		if len(failures) != 1 || !strings.Contains(failures[0].Err.Error(), "not within 30s") {
			t.Errorf("failures %v", failures)
		}
		r.halt()
	})
}

// A reload that fails is tried again within a minute, then less often, never
// in a loop, and always with the new files; in between, the old ones are there.
func TestAFailedReloadIsRolledBackAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files, store := newFiles(), newStore()
		var n, withNew atomic.Int64
		var broken atomic.Bool
		broken.Store(true)
		var tries []time.Time
		began := time.Now()
		c := counting("app", &n, func(context.Context) error {
			if files.isOld("/f/a") {
				return nil
			}
			withNew.Add(1)
			tries = append(tries, time.Now())
			if broken.Load() {
				return errors.New("key values mismatch")
			}
			return nil
		}, "/f/a")
		r := start(t, store, files, c)
		r.deliver(t, "/f/a")
		time.Sleep(time.Second)
		synctest.Wait()
		s := r.Status()[0]
		if !files.isOld("/f/a") || !s.Pending || !slices.Equal(s.RolledBack, []string{"/f/a"}) || !strings.Contains(s.Error, "key values mismatch") {
			t.Errorf("after the failure: old %v, %+v", files.isOld("/f/a"), s)
		}
		if n.Load() != 2 || withNew.Load() != 1 {
			t.Errorf("%d reloads, %d of them with the new files; want 2 and 1", n.Load(), withNew.Load())
		}
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		if d := tries[1].Sub(tries[0]); d > time.Minute {
			t.Errorf("tried again after %v only", d)
		}
		if len(tries) < 6 || len(tries) > 30 {
			t.Errorf("%d tries in six hours", len(tries))
		}
		last := tries[len(tries)-1].Sub(tries[len(tries)-2])
		if last < 29*time.Minute {
			t.Errorf("the last tries are %v apart", last)
		}
		if !files.isOld("/f/a") || !store.pending(t, "app") {
			t.Error("between two tries the new files are in place, or nothing is pending")
		}
		broken.Store(false)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		s = r.Status()[0]
		if files.isOld("/f/a") || s.Pending || s.Failures != 0 || s.Error != "" || s.RolledBack != nil || s.ReloadedAt.Before(began) {
			t.Errorf("after the repair: old %v, %+v", files.isOld("/f/a"), s)
		}
		outcomes, failures := r.told()
		if outcomes[0] != OutcomeFailed || outcomes[len(outcomes)-1] != OutcomeOK || len(failures) != len(outcomes)-1 {
			t.Errorf("told %v and %d failures", outcomes, len(failures))
		}
		r.halt()
	})
}

func TestANewDeliveryDoesNotWaitForTheBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := newFiles()
		var n atomic.Int64
		var broken atomic.Bool
		broken.Store(true)
		r := start(t, newStore(), files, counting("app", &n, func(context.Context) error {
			if broken.Load() {
				return errors.New("no")
			}
			return nil
		}, "/f/a", "/f/b"))
		r.deliver(t, "/f/a")
		time.Sleep(10 * time.Minute)
		broken.Store(false)
		r.deliver(t, "/f/b")
		time.Sleep(time.Second)
		synctest.Wait()
		// What had failed comes along: the consumer reads all its files at once.
		if s := r.Status()[0]; s.Pending || files.isOld("/f/a") {
			t.Errorf("old %v, %+v", files.isOld("/f/a"), s)
		}
		r.halt()
	})
}

func TestRepairsOfFilesDoNotStormTheConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		r := start(t, newStore(), newFiles(), counting("app", &n, nil, "/f/a"))
		r.deliver(t, "/f/a")
		time.Sleep(time.Second)
		for range 1000 { // somebody edits the file, again and again
			changes := []Change{{Target: "/f/a", Repaired: true}}
			if err := r.Writing(changes); err != nil {
				t.Fatal(err)
			}
			r.Written(changes)
			time.Sleep(300 * time.Millisecond)
		}
		synctest.Wait()
		if n.Load() < 2 || n.Load() > 8 {
			t.Errorf("%d reloads in five minutes", n.Load())
		}
		r.halt()
	})
}

func TestNothingIsWrittenThatCannotBeNoted(t *testing.T) {
	store := newStore()
	var n atomic.Int64
	r := start(t, store, newFiles(), counting("app", &n, nil, "/f/a"))
	store.mu.Lock()
	store.err = errors.New("disk full")
	store.mu.Unlock()
	if err := r.Writing([]Change{{Target: "/f/a"}}); !errors.Is(err, store.err) {
		t.Errorf("error %v", err)
	}
	if err := r.Writing([]Change{{Target: "/f/nobody"}}); err != nil {
		t.Errorf("a file without a consumer: %v", err)
	}
}

// What was noted before a crash is reloaded after it: the entry is on disk
// before the rename.
func TestACrashForgetsNoReload(t *testing.T) {
	dir := tempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for name, crash := range map[string]func(r *rig){
		"between note and rename":   func(r *rig) { _ = r.Writing([]Change{{Target: a}}) },
		"between rename and reload": func(r *rig) { _ = r.Writing([]Change{{Target: a}}); r.Written([]Change{{Target: a}}) },
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore()
			var before, after atomic.Int64
			cs, err := New(Config{Consumers: []Consumer{counting("app", &before, nil, a, b)}, Store: store, Files: newFiles()})
			if err != nil {
				t.Fatal(err)
			}
			crash(&rig{Consumers: cs}) // it never runs
			r := start(t, store, newFiles(), counting("app", &after, nil, a, b))
			eventually(t, 3*time.Second, "the reload", func() bool { return after.Load() == 1 && !store.pending(t, "app") })
			if outcomes, _ := r.told(); !slices.Equal(outcomes, []string{OutcomeOK}) {
				t.Errorf("outcomes %v", outcomes)
			}
		})
	}
}

// Of a burst that was too large to be written down one by one, a crash leaves
// those that changed since.
func TestACrashAmidABurst(t *testing.T) {
	dir, store := tempDir(t), newStore()
	var targets []string
	for i := range 100 {
		targets = append(targets, filepath.Join(dir, fmt.Sprint(i)))
	}
	var n atomic.Int64
	cs, err := New(Config{Consumers: []Consumer{counting("app", &n, nil, targets...)}, Store: store, Files: newFiles()})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if err := cs.Writing([]Change{{Target: target, Generation: 10}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(targets[7], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	files := newFiles()
	files.newest[targets[7]] = 10
	r := start(t, store, files, counting("app", &n, func(context.Context) error { return errors.New("no") }, targets...))
	eventually(t, 3*time.Second, "the try", func() bool { _, f := r.told(); return len(f) == 1 })
	if want := []string{"rollback " + targets[7]}; !slices.Equal(files.calls, want) {
		t.Errorf("calls %v, want %v", files.calls, want)
	}
}

func TestWithoutAPreviousGenerationTheNewStays(t *testing.T) {
	store, files := newStore(), newFiles()
	files.noneLeft = true
	var n atomic.Int64
	r := start(t, store, files, counting("app", &n, func(context.Context) error { return errors.New("no") }, "/f/a"))
	r.deliver(t, "/f/a")
	eventually(t, 3*time.Second, "the failure", func() bool { _, f := r.told(); return len(f) == 1 })
	s := r.Status()[0]
	if n.Load() != 1 || !strings.Contains(s.Error, "no previous generation") || s.RolledBack != nil || s.RetryAt.IsZero() {
		t.Errorf("%d reloads, %+v", n.Load(), s)
	}
}

func TestAStoppedConsumerIsSkipped(t *testing.T) {
	store, files := newStore(), newFiles()
	var n atomic.Int64
	c := counting("app", &n, func(context.Context) error { return ErrNotRunning }, "/f/a")
	r := start(t, store, files, c)
	r.deliver(t, "/f/a")
	eventually(t, 3*time.Second, "the try", func() bool { o, _ := r.told(); return len(o) == 1 })
	if o, f := r.told(); o[0] != OutcomeSkipped || f != nil || store.pending(t, "app") || len(files.calls) != 0 || !r.Status()[0].Skipped {
		t.Errorf("outcomes %v, failures %v, files %v", o, f, files.calls)
	}
	r.halt()
	// Where a proof is wanted, there is nobody to give it.
	c.Targets[0].Proof = Proof{Address: "127.0.0.1:1", Within: time.Second}
	r = start(t, store, files, c)
	r.deliver(t, "/f/a")
	eventually(t, 3*time.Second, "the failure", func() bool { _, f := r.told(); return len(f) == 1 })
	if _, f := r.told(); !strings.Contains(f[0].Err.Error(), "does not run") || len(f[0].RolledBack) != 1 {
		t.Errorf("failures %v", f)
	}
}

func TestConsumersThatAreGoneAreForgotten(t *testing.T) {
	store := newStore()
	store.recs["old.service"] = []byte(`{"pending":true}`)
	store.recs["app"] = []byte(`{"pending":`)
	var n atomic.Int64
	cs, err := New(Config{Consumers: []Consumer{counting("app", &n, nil, "/f/a")}, Store: store, Files: newFiles()})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := store.recs["old.service"]; there || !cs.Status()[0].Pending {
		t.Errorf("old there %v, status %+v", there, cs.Status())
	}
}

// A test that fails leaves the consumer alone: it has not been told of the new
// files, and will not be.
func TestAFailedTestStopsTheReload(t *testing.T) {
	dir, store, files := tempDir(t), newStore(), newFiles()
	var n atomic.Int64
	c := counting("app", &n, nil, "/f/a", "/f/b")
	good := filepath.Join(dir, "good")
	hook := script(t, dir, "[ -e "+good+" ] && exit 0\necho 'line 3: no such directive' >&2\nexit 1\n")
	for i := range c.Targets {
		c.Targets[i].Test = []string{hook}
	}
	r := start(t, store, files, c)
	r.deliver(t, "/f/a")
	eventually(t, 5*time.Second, "the failure", func() bool { _, f := r.told(); return len(f) == 1 })
	_, failures := r.told()
	f := failures[0]
	if f.Op != OpTest || !strings.Contains(f.Err.Error(), "line 3: no such directive") || !slices.Equal(f.RolledBack, []string{"/f/a"}) {
		t.Errorf("failure %+v", f)
	}
	if n.Load() != 0 {
		t.Errorf("reloaded %d times", n.Load())
	}
	if err := os.WriteFile(good, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.deliver(t, "/f/b") // the other comes along
	eventually(t, 5*time.Second, "the reload", func() bool { return n.Load() == 1 && !store.pending(t, "app") })
	if outcomes, _ := r.told(); !slices.Equal(outcomes, []string{OutcomeTestFailed, OutcomeOK}) || files.isOld("/f/a") {
		t.Errorf("outcomes %v, old %v", outcomes, files.isOld("/f/a"))
	}
}

// What fails while something newer has come already is not rolled back: the
// newer is what counts.
func TestANewerDeliveryIsNotRolledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := newFiles()
		var n atomic.Int64
		r := start(t, newStore(), files, counting("app", &n, func(ctx context.Context) error {
			if n.Load() > 1 {
				return nil
			}
			<-time.After(5 * time.Second)
			return errors.New("no")
		}, "/f/a"))
		r.deliver(t, "/f/a")
		time.Sleep(3 * time.Second)
		r.deliver(t, "/f/a")
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, f := r.told(); f != nil || len(files.calls) != 0 || n.Load() != 2 || r.Status()[0].Pending {
			t.Errorf("failures %v, calls %v, %d reloads, %+v", f, files.calls, n.Load(), r.Status()[0])
		}
		r.halt()
	})
}

// Asked to stop, the queue stops at once, and what it was at stays in it.
func TestStoppingLeavesTheEntry(t *testing.T) {
	store, files := newStore(), newFiles()
	var n atomic.Int64
	r := start(t, store, files, counting("app", &n, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, "/f/a"))
	r.deliver(t, "/f/a")
	eventually(t, 5*time.Second, "the reload", func() bool { return n.Load() == 1 })
	began := time.Now()
	r.halt()
	if d := time.Since(began); d > 5*time.Second || !store.pending(t, "app") || len(files.calls) != 0 {
		t.Errorf("stopped after %v, pending %v, calls %v", d, store.pending(t, "app"), files.calls)
	}
}

func TestBackOff(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		for range 20 {
			d := backoff(failures)
			if d <= 0 || d > time.Hour || failures == 1 && d > time.Minute || failures > 8 && d < 29*time.Minute {
				t.Fatalf("after %d failures: %v", failures, d)
			}
		}
	}
	if a, b := backoff(9), backoff(9); a == b && backoff(9) == a {
		t.Error("no jitter at the longest wait")
	}
}

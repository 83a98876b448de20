package consumers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Who corrects how a file's consumer is told has made another consumer, as they are
// named after that. What the one before has left to do is done at once, and until
// then what was rolled back stays so.
func TestACorrectedConsumerTakesOverWhatIsLeft(t *testing.T) {
	for _, noneLeft := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			store, files := newStore(), newFiles()
			files.noneLeft = noneLeft
			var n, m atomic.Int64
			r := start(t, store, files, counting("ngnix", &n, func(context.Context) error { return errors.New("no such unit") }, "/f/a"))
			r.deliver(t, "/f/a")
			time.Sleep(time.Second)
			r.halt()
			if files.isOld("/f/a") == noneLeft {
				t.Fatal("not as the failure should leave it")
			}
			nginx := counting("nginx", &m, nil, "/f/a")
			cs, err := New(Config{Consumers: []Consumer{nginx}, Store: store, Files: files}) // and dies
			if s := cs.Status()[0]; err != nil || !s.Pending || (len(s.RolledBack) == 0) != noneLeft || (files.held["/f/a"] == "") != noneLeft {
				t.Errorf("before the try: held %v, %v, %+v", files.held, err, s)
			}
			r = start(t, store, files, nginx)
			if err := files.publish("/f/a"); err != nil {
				t.Fatal(err)
			}
			if files.isOld("/f/a") == noneLeft {
				t.Error("written before the try")
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if s := r.Status()[0]; m.Load() != 1 || s.Pending || files.isOld("/f/a") || store.recs["ngnix"] != nil {
				t.Errorf("%d reloads, old %v, %+v, records %s", m.Load(), files.isOld("/f/a"), s, store.recs)
			}
			r.halt()
		})
	}
}

// Items come a moment after a start: what was rolled back does not wait for longer.
func TestACorrectedConsumerWaitsForItsItemsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, files := newStore(), newFiles()
		var n, m atomic.Int64
		r := start(t, store, files, counting("ngnix", &n, func(context.Context) error { return errors.New("no such unit") }, "/f/a"))
		r.deliver(t, "/f/a")
		time.Sleep(time.Second)
		r.halt()
		files.itemless = true
		r = start(t, store, files, counting("nginx", &m, nil, "/f/a"))
		time.Sleep(quiet)
		files.mu.Lock()
		files.itemless = false
		files.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := r.Status()[0]; m.Load() != 1 || s.Pending || files.isOld("/f/a") {
			t.Errorf("%d reloads, old %v, %+v", m.Load(), files.isOld("/f/a"), s)
		}
		r.halt()
	})
}

// A file that goes to another consumer takes its reload along. What stays is tried
// again, and a consumer that has nothing left is not pending for ever.
func TestAFileThatMovesTakesItsReloadAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, files := newStore(), newFiles()
		files.noneLeft = true
		no := func(context.Context) error { return errors.New("no") }
		var x, y, z atomic.Int64
		r := start(t, store, files, counting("x", &x, no, "/f/a", "/f/b"), counting("y", &y, no, "/f/c", "/f/gone"), counting("z", &z, nil, "/f/d"))
		r.deliver(t, "/f/a", "/f/b", "/f/gone", "/f/d")
		time.Sleep(time.Second)
		r.halt()
		for _, n := range []*atomic.Int64{&x, &y, &z} {
			if n.Swap(0) != 1 {
				t.Fatal("not tried once")
			}
		}
		r = start(t, store, files, counting("x", &x, nil, "/f/a"), counting("y", &y, nil, "/f/c"), counting("z", &z, nil, "/f/b", "/f/d"))
		if s := r.Status(); !s[0].Pending || s[1].Pending || s[1].Failures != 0 || !s[2].Pending {
			t.Errorf("at the start: %+v", s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, s := range r.Status() {
			if s.Pending {
				t.Errorf("still pending: %+v", s)
			}
		}
		if x.Load() != 1 || y.Load() != 0 || z.Load() != 1 {
			t.Errorf("%d, %d and %d reloads", x.Load(), y.Load(), z.Load())
		}
		r.halt()
	})
}

// Of a burst that was too large to be written down one by one, those that changed
// are found by their new consumers, and nobody else is told.
func TestABurstIsHandedOver(t *testing.T) {
	dir, store := tempDir(t), newStore()
	var targets []string
	for i := range 100 {
		targets = append(targets, filepath.Join(dir, fmt.Sprint(i)))
	}
	var n, first, second, other atomic.Int64
	strange := filepath.Join(dir, "strange")
	for _, path := range []string{targets[7], strange} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cs, err := New(Config{Consumers: []Consumer{counting("all", &n, nil, targets...)}, Store: store, Files: newFiles()})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if err := cs.Writing([]Change{{Target: target}}); err != nil {
			t.Fatal(err)
		}
	}
	r := start(t, store, newFiles(), counting("first", &first, nil, targets[:50]...), counting("second", &second, nil, targets[50:]...),
		counting("other", &other, nil, strange))
	eventually(t, 3*time.Second, "nothing is pending", func() bool {
		return !slices.ContainsFunc(r.Status(), func(s Status) bool { return s.Pending })
	})
	if first.Load() != 1 || second.Load() != 0 || other.Load() != 0 || store.recs["all"] != nil {
		t.Errorf("%d, %d and %d reloads", first.Load(), second.Load(), other.Load())
	}
}

// A file that comes to a consumer amid a burst of its own is one of the burst.
func TestABurstIsHandedOverTwice(t *testing.T) {
	dir, store := tempDir(t), newStore()
	var targets []string
	for i := range 2 * manyTargets {
		targets = append(targets, filepath.Join(dir, fmt.Sprint(i)))
	}
	late := filepath.Join(dir, "late")
	var n atomic.Int64
	note := func(c Consumer, paths ...string) {
		t.Helper()
		cs, err := New(Config{Consumers: []Consumer{c}, Store: store, Files: newFiles()})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if err := cs.Writing([]Change{{Target: path}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	note(counting("first", &n, nil, targets...), targets...)
	note(counting("first", &n, nil, append(targets, late)...), late)
	if err := os.WriteFile(late, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, store, newFiles(), counting("second", &n, nil, late))
	eventually(t, 3*time.Second, "the reload", func() bool { return n.Load() == 1 && !r.Status()[0].Pending })
}

// dyingStore is on a host that loses its power after so many writes.
type dyingStore struct {
	*memStore
	writes int
}

var errDied = errors.New("died")

func (d *dyingStore) SaveRecord(kind, name string, value []byte) error {
	if d.writes--; d.writes < 0 {
		return errDied
	}
	return d.memStore.SaveRecord(kind, name, value)
}

func (d *dyingStore) DeleteRecord(kind, name string) error {
	if d.writes--; d.writes < 0 {
		return errDied
	}
	return d.memStore.DeleteRecord(kind, name)
}

// A crash amid the handing over forgets no reload, and leaves what was rolled back.
// Here two consumers change places, and a third takes over from one that is gone.
func TestACrashAmidTheHandingOver(t *testing.T) {
	for writes, done := 0, false; !done; writes++ {
		synctest.Test(t, func(t *testing.T) {
			store, files := newStore(), newFiles()
			var n, x, y, z atomic.Int64
			no := func(context.Context) error { return errors.New("no") }
			r := start(t, store, files, counting("x", &n, no, "/f/a"), counting("y", &n, no, "/f/b"), counting("gone", &n, no, "/f/c"))
			r.deliver(t, "/f/a", "/f/b", "/f/c")
			time.Sleep(time.Second)
			r.halt()
			all := []Consumer{counting("x", &x, nil, "/f/b"), counting("y", &y, nil, "/f/a"), counting("z", &z, nil, "/f/c")}
			_, err := New(Config{Consumers: all, Store: &dyingStore{store, writes}, Files: newFiles()})
			if done = err == nil; !done && !errors.Is(err, errDied) {
				t.Fatal(err)
			}
			if _, err := New(Config{Consumers: all, Store: store, Files: files}); err != nil || len(files.held) != 3 {
				t.Errorf("died after %d writes: only %v are held, %v", writes, files.held, err)
			}
			r = start(t, store, files, all...)
			time.Sleep(time.Second)
			synctest.Wait()
			if x.Load() != 1 || y.Load() != 1 || z.Load() != 1 || files.isOld("/f/a") || files.isOld("/f/b") || files.isOld("/f/c") {
				t.Errorf("died after %d writes: %d, %d and %d reloads", writes, x.Load(), y.Load(), z.Load())
			}
			if store.pending(t, "x") || store.pending(t, "y") || store.pending(t, "z") || store.recs["gone"] != nil {
				t.Errorf("died after %d writes: records %s", writes, store.recs)
			}
			r.halt()
		})
	}
}

// Of a burst of which a crash has left no file changed there is nothing to do.
func TestABurstThatNeverCameIsOver(t *testing.T) {
	dir, store := tempDir(t), newStore()
	var n atomic.Int64
	var targets []string
	for i := range 2 * manyTargets {
		targets = append(targets, filepath.Join(dir, fmt.Sprint(i)))
	}
	all := counting("app", &n, nil, targets...)
	cs, err := New(Config{Consumers: []Consumer{all}, Store: store, Files: newFiles()})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if err := cs.Writing([]Change{{Target: target}}); err != nil {
			t.Fatal(err)
		}
	}
	r := start(t, store, newFiles(), all)
	eventually(t, 3*time.Second, "nothing is pending", func() bool { return !r.Status()[0].Pending && !store.pending(t, "app") })
	if n.Load() != 0 {
		t.Errorf("%d reloads", n.Load())
	}
}

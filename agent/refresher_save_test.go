package agent

import (
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// fills has the disk of a bench full whenever full is true.
func (b *cacheBench) fills() (full *atomic.Bool) {
	full = new(atomic.Bool)
	save, remove := b.save, b.remove
	b.save = func(name string, blob []byte) error {
		if full.Load() {
			return syscall.ENOSPC
		}
		return save(name, blob)
	}
	b.remove = func(name string) error {
		if full.Load() {
			return syscall.ENOSPC
		}
		return remove(name)
	}
	return full
}

// saved is what a start would find in the store.
func (b *cacheBench) saved(t *testing.T) *sinks.Secret {
	return newCacheBench(t, b.items["db"].spec, b.disk, fails(upstream.Unavailable)).last()
}

// What the upstream gives is served whether it can be saved or not, and saved as
// soon as it can be.
func TestFullDiskKeepsNobodyFromAValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, is("one"))
		full := b.fills()
		stop := b.start(t)
		synctest.Wait()
		full.Store(true)
		b.set(is("two"))
		if err := b.refused(t.Context(), b.ctx, "db", b.last().Version); err != nil {
			t.Fatal(err)
		}
		if got := password(b.last()); got != "two" {
			t.Errorf("a report that the old value does not work is answered with %q", got)
		}
		time.Sleep(30 * time.Hour)
		synctest.Wait()
		if it := b.last(); it.Stale(time.Now()) {
			t.Errorf("stale after %v although the upstream answers", time.Since(it.FetchedAt))
		}
		if h, _ := b.snapshot("db"); h.failures().Count != 0 {
			t.Errorf("the upstream is said to have failed: %v", h.failures().Last)
		}
		if got := password(b.saved(t)); got != "one" {
			t.Fatalf("%q was saved on a full disk", got)
		}
		full.Store(false)
		time.Sleep(saveAgain + clockCheck)
		synctest.Wait()
		if got := password(b.saved(t)); got != "two" {
			t.Errorf("%q is saved when there is room again", got)
		}
		full.Store(true)
		b.set(is("three"))
		if err := b.refused(t.Context(), b.ctx, "db", b.last().Version); err != nil {
			t.Fatal(err)
		}
		full.Store(false)
		stop()
		if got := password(b.saved(t)); got != "three" {
			t.Errorf("%q is saved at the end", got)
		}
	})
}

// A value that was refused by its upstream is removed from the store, at the
// latest when there is room to write that down, whatever the upstream says by then.
func TestPurgeIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: 30 * day}, nil, is("one"))
		full := b.fills()
		defer b.start(t)()
		synctest.Wait()
		full.Store(true)
		b.set(fails(upstream.Denied))
		time.Sleep(time.Minute)
		synctest.Wait()
		b.set(func() (upstream.Secret, error) {
			time.Sleep(day) // says nothing for long
			return upstream.Secret{}, &upstream.Error{Upstream: "pam", Code: upstream.Unavailable}
		})
		time.Sleep(10 * time.Minute)
		if b.saved(t) == nil {
			t.Fatal("it was removed from a full disk")
		}
		full.Store(false)
		time.Sleep(day + saveAgain + clockCheck)
		synctest.Wait()
		if len(b.disk) != 0 {
			t.Error("the refused value is still in the store")
		}
		time.Sleep(day)
	})
}

// A save that was tried again never puts an older value over a newer one.
func TestLateSaveDoesNotOverwriteANewerValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, is("one"))
		full := b.fills()
		var slow atomic.Bool
		save := b.save
		b.save = func(name string, blob []byte) error {
			if slow.CompareAndSwap(true, false) {
				time.Sleep(time.Minute)
			}
			return save(name, blob)
		}
		full.Store(true)
		defer b.start(t)()
		synctest.Wait()
		full.Store(false)
		slow.Store(true)
		time.Sleep(saveAgain + clockCheck) // the first value is being saved
		b.set(is("two"))
		if err := b.refused(t.Context(), b.ctx, "db", b.last().Version); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := password(b.saved(t)); got != "two" {
			t.Errorf("saved %q", got)
		}
	})
}

// A name that a value was given is not given to another, whatever became of the
// file that knew of it.
func TestVersionsAreNotUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := secretSpec{TTL: time.Hour, MaxStale: day}
		lost := map[string]func(disk map[string][]byte){
			"entry damaged": func(disk map[string][]byte) { disk["db"][20] ^= 1 },
			"file lost":     func(disk map[string][]byte) { clear(disk) },
			"not saved":     func(map[string][]byte) {},
		}
		for name, lose := range lost {
			disk := map[string][]byte{}
			used := map[string]string{} // versions, and the value of each
			for n := range 20 {
				b := newCacheBench(t, spec, disk, is(fmt.Sprint(n, " in the first run")))
				full := b.fills()
				stop := b.start(t)
				synctest.Wait()
				for i := range 3 {
					full.Store(name == "not saved" && i > 0)
					b.set(is(fmt.Sprint(n, ".", i)))
					if err := b.refused(t.Context(), b.ctx, "db", b.last().Version); err != nil {
						t.Fatal(err)
					}
					it := b.last()
					if other, ok := used[it.Version]; ok && other != password(it) {
						t.Fatalf("%s: version %s of %q was that of %q", name, it.Version, password(it), other)
					}
					used[it.Version] = password(it)
				}
				stop()
				lose(disk)
			}
		}
	})
}

// What nobody configures any more is removed from the store, but not before an
// upstream has answered, or for an hour: what was removed while the configuration
// was wrong could not be had again.
func TestSecretThatIsNotConfiguredIsForgotten(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func() (upstream.Secret, error)
		full   bool
		kept   time.Duration // for so long at least
		gone   time.Duration // after this
	}{
		"upstream answers":               {answer: is("one"), gone: time.Second},
		"upstream away":                  {answer: fails(upstream.Unavailable), kept: forgetAfter - time.Minute, gone: forgetAfter + time.Minute},
		"upstream says no":               {answer: fails(upstream.Denied), kept: forgetAfter - time.Minute, gone: forgetAfter + time.Minute},
		"upstream answers, but no room":  {answer: is("one"), full: true, kept: 2*forgetAfter - time.Minute, gone: 2*forgetAfter + time.Minute},
		"upstream answers after a while": {answer: nil, kept: 4 * time.Minute, gone: 7 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answer, began := tt.answer, time.Now()
				if answer == nil {
					answer = func() (upstream.Secret, error) {
						if time.Since(began) < 5*time.Minute {
							return fails(upstream.Unavailable)()
						}
						return is("one")()
					}
				}
				old := map[string][]byte{"old": []byte("sealed as something else")}
				b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, old, answer)
				full := b.fills()
				full.Store(tt.full)
				defer b.start(t)()
				has := func() bool {
					synctest.Wait()
					b.mu.Lock()
					defer b.mu.Unlock()
					_, ok := b.disk["old"]
					return ok
				}
				if time.Sleep(tt.kept); tt.kept > 0 && !has() {
					t.Errorf("removed within %v", tt.kept)
				}
				full.Store(false)
				if time.Sleep(tt.gone - tt.kept); has() {
					t.Errorf("still there after %v", tt.gone)
				}
			})
		})
	}
}

// A clock that was set is no way to a longer life over a restart either.
func TestTimesAreSavedAnewWhenTheClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			b := newCacheBench(t, secretSpec{TTL: 5 * time.Hour, MaxStale: day}, nil, is("one"))
			defer b.start(t)()
			time.Sleep(2 * time.Hour)
			b.ahead.Store(int64(by))
			time.Sleep(2*clockCheck + saveAgain)
			synctest.Wait()
			b.mu.Lock()
			h, _, err := unseal(b.sealer, "db", binding{}, slices.Clone(b.disk["db"]), nil)
			b.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			if it := b.last(); !h.FetchedAt.Equal(it.FetchedAt) {
				t.Errorf("set by %v: saved as of %v, served as of %v", by, h.FetchedAt, it.FetchedAt)
			}
		})
	}
}

// A start after the clock was set back takes a value to be just stale once, and
// not at each start anew.
func TestEntryFromTheFutureIsJustStaleOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := secretSpec{TTL: time.Minute, MaxStale: time.Hour}
		b := newCacheBench(t, spec, nil, is("one"))
		blob, _ := heldAt(time.Now().Add(100*day)).seal(b.sealer, binding{})
		disk := map[string][]byte{"db": blob}
		for range 7 {
			b = newCacheBench(t, spec, disk, fails(upstream.Unavailable))
			stop := b.start(t)
			time.Sleep(10 * time.Minute)
			stop()
		}
		if it := b.last(); !it.Expired(time.Now()) {
			t.Errorf("usable until %v, and it is %v", it.UsableUntil, time.Now())
		}
	})
}

// However much there is to write, and however slow the disk, a stop takes seconds.
func TestStopWaitsForNoSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := map[string][]byte{}
		for n := range 1000 {
			old[fmt.Sprint(n)] = []byte("sealed as something else")
		}
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, old, is("one"))
		b.remove = func(string) error { time.Sleep(time.Second); return nil }
		stop := b.start(t)
		time.Sleep(10 * time.Second)
		began := time.Now()
		if stop(); time.Since(began) > saveAtEnd+3*time.Second {
			t.Errorf("it took %v to stop", time.Since(began))
		}
	})
}

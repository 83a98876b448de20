package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// A cacheBench is a refresher with one secret, what it published, and what lies
// in its store.
type cacheBench struct {
	*refresher
	ctx   context.Context
	ahead atomic.Int64 // by how much the wall clock was set

	mu        sync.Mutex
	calls     int
	answer    func() (upstream.Secret, error)
	disk      map[string][]byte
	published []*sinks.Secret
	withdrawn []string
}

func value(s string) map[string]secret.Value {
	return map[string]secret.Value{"password": secret.New([]byte(s))}
}

// password is the value of the field of that name.
func password(s *sinks.Secret) string {
	v, _ := s.Fields.Get("password")
	return string(v.Reveal())
}

// heldAt is a held of the secret db.
func heldAt(at time.Time) *held {
	return &held{Secret: sinks.Secret{Name: "db", Version: "1", Fields: sinks.FieldsOf(value("one")), FetchedAt: at}}
}

func newCacheBench(t *testing.T, spec secretSpec, disk map[string][]byte, answer func() (upstream.Secret, error)) *cacheBench {
	t.Helper()
	s, err := newSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if disk == nil {
		disk = map[string][]byte{}
	}
	b := &cacheBench{disk: disk, answer: answer, ctx: t.Context()}
	spec.Upstream = "pam"
	began := time.Now()
	b.refresher = &refresher{
		now:    func() time.Time { return wallNow().Add(time.Duration(b.ahead.Load())) },
		clocks: clocks{steady: func() time.Duration { return time.Since(began) }},
		host:   "h", sealer: s, log: slog.New(slog.DiscardHandler), emit: func(event) {}, wake: make(chan struct{}, 1),
		save: func(name string, blob []byte) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.disk[name] = blob
			return nil
		},
		remove: func(name string) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.disk, name)
			return nil
		},
		publish: func(s *sinks.Secret) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.published = append(b.published, s)
		},
		withdraw: func(name string, code upstream.Code, _ string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.withdrawn = append(b.withdrawn, name+" "+string(code))
		},
		items: map[string]*secretItem{},
	}
	b.items["db"] = &secretItem{name: "db", spec: spec, share: 0.5, index: -1, lane: &lane{},
		fetch: func(ctx context.Context) (upstream.Secret, error) {
			b.mu.Lock()
			b.calls++
			answer := b.answer
			b.mu.Unlock()
			return answer()
		}}
	b.load(disk)
	return b
}

// start runs the refresher in the background until the test ends.
func (b *cacheBench) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(b.ctx)
	b.ctx = ctx
	done := make(chan error, 1)
	go func() { done <- b.run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (b *cacheBench) last() *sinks.Secret {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.published) == 0 {
		return nil
	}
	return b.published[len(b.published)-1]
}

func (b *cacheBench) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func (b *cacheBench) set(answer func() (upstream.Secret, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

func is(s string) func() (upstream.Secret, error) {
	return func() (upstream.Secret, error) { return upstream.Secret{Fields: value(s)}, nil }
}

func fails(code upstream.Code) func() (upstream.Secret, error) {
	return func() (upstream.Secret, error) {
		return upstream.Secret{}, &upstream.Error{Upstream: "pam", Op: "read credential", Code: code}
	}
}

func TestFreshIsRefreshedAheadWithoutANewVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, is("one"))
		defer b.start(t)()
		synctest.Wait()
		first := b.last().Version
		for range 50 {
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if it := b.last(); it.Version != first || it.Stale(time.Now()) {
				t.Fatalf("version %s, stale %v", it.Version, it.Stale(time.Now()))
			}
		}
		if n := b.count(); n < 30 || n > 40 {
			t.Errorf("%d fetches in 25 hours of an hour's ttl", n)
		}
	})
}

// The whole life of a rotating password: it is never served past its rotation,
// the new one is there as soon as the upstream has it, and no reader that waits
// for the fetch under way goes away empty.
func TestRotationIsFollowedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		const every = 20 * time.Second
		rotating := func() (upstream.Secret, error) {
			n := time.Since(start) / every
			return upstream.Secret{Fields: value(fmt.Sprint("password ", n)), Expires: start.Add((n + 1) * every)}, nil
		}
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, rotating)
		defer b.start(t)()
		for range 2000 {
			time.Sleep(97 * time.Millisecond)
			synctest.Wait()
			if err := b.join(t.Context(), b.ctx, "db"); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			it := b.last()
			if it.Expired(now) {
				t.Fatalf("%v after start: nothing to serve", now.Sub(start))
			}
			if got, want := password(it), fmt.Sprint("password ", now.Sub(start)/every); got != want {
				t.Fatalf("%v after start: served %q, the upstream has %q", now.Sub(start), got, want)
			}
		}
		if n := b.count(); n > 10*8 {
			t.Errorf("%d fetches in ten rotations", n)
		}
	})
}

func TestLateRotationIsWaitedForWithoutAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		late := func() (upstream.Secret, error) { // announced for 1 m, done at 1 h
			if time.Since(start) < time.Hour {
				return upstream.Secret{Fields: value("old"), Expires: start.Add(time.Minute)}, nil
			}
			return upstream.Secret{Fields: value("new"), Expires: start.Add(2 * time.Hour)}, nil
		}
		b := newCacheBench(t, secretSpec{TTL: 10 * time.Minute, MaxStale: day}, nil, late)
		defer b.start(t)()
		time.Sleep(80 * time.Minute)
		synctest.Wait()
		if got := password(b.last()); got != "new" {
			t.Errorf("served %q after the late rotation", got)
		}
		if n := b.count(); n > 60 {
			t.Errorf("%d fetches while waiting for a late rotation", n)
		}
	})
}

func TestStaleIsBoundedAndNeverRearmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: time.Hour}, nil, is("one"))
		defer b.start(t)()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		fetched, before := b.last().FetchedAt, b.last().Version
		b.set(fails(upstream.Unavailable))
		time.Sleep(45 * time.Minute)
		synctest.Wait()
		it := b.last()
		if !it.Stale(time.Now()) || it.Expired(time.Now()) {
			t.Errorf("amid the outage: stale %v, expired %v", it.Stale(time.Now()), it.Expired(time.Now()))
		}
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		if it := b.last(); !it.Expired(time.Now()) || !it.UsableUntil.Equal(it.FetchedAt.Add(time.Hour)) || it.FetchedAt.Sub(fetched) > time.Minute {
			t.Errorf("after max_stale: expired %v; the bound counts from the last success", it.Expired(time.Now()))
		}
		if err := b.join(t.Context(), b.ctx, "db"); err == nil {
			t.Error("a reader of an expired secret was told that it is there")
		}
		b.set(is("two"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if it := b.last(); it.Expired(time.Now()) || it.Version == before {
			t.Errorf("after the outage: version %s, expired %v", it.Version, it.Expired(time.Now()))
		}
	})
}

func TestDefiniteRefusalPurgesAtOnceAndIsNoValue(t *testing.T) {
	for _, code := range []upstream.Code{upstream.Denied, upstream.NotFound} {
		synctest.Test(t, func(t *testing.T) {
			b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, nil, is("one"))
			defer b.start(t)()
			synctest.Wait()
			before := b.last().Version
			b.set(fails(code))
			time.Sleep(time.Minute)
			synctest.Wait()
			b.mu.Lock()
			if len(b.withdrawn) != 1 || b.withdrawn[0] != "db "+string(code) {
				t.Errorf("withdrawn %q", b.withdrawn)
			}
			disk := b.disk
			b.mu.Unlock()
			again := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, disk, is("one"))
			if again.last() != nil {
				t.Error("the purged value came back after a restart")
			}
			// It was not cached as a value either: the next success is a new version.
			b.set(is("one"))
			time.Sleep(6 * time.Minute)
			synctest.Wait()
			if v := b.last().Version; v == before {
				t.Errorf("version %s after it came back", v)
			}
		})
	}
}

func TestUnavailableNeverPurges(t *testing.T) {
	for _, code := range []upstream.Code{upstream.Unavailable, upstream.Busy, upstream.Invalid, upstream.Lost} {
		synctest.Test(t, func(t *testing.T) {
			b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, nil, is("one"))
			defer b.start(t)()
			synctest.Wait()
			b.set(fails(code))
			time.Sleep(20 * time.Hour)
			synctest.Wait()
			if it := b.last(); it.Expired(time.Now()) || len(b.withdrawn) > 0 {
				t.Errorf("%s: the value is gone", code)
			}
		})
	}
}

func TestEmptyValueIsNeverDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, nil, is("one"))
		defer b.start(t)()
		synctest.Wait()
		b.set(is(""))
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := password(b.last()); got != "one" {
			t.Errorf("served %q", got)
		}
	})
}

func TestManyMissesMakeOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, nil, func() (upstream.Secret, error) {
			time.Sleep(time.Second)
			return upstream.Secret{Fields: value("one")}, nil
		})
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range 10000 {
			wg.Go(func() {
				if b.join(t.Context(), t.Context(), "db") != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if b.count() != 1 || failed.Load() != 0 {
			t.Errorf("%d calls, %d failed", b.count(), failed.Load())
		}
	})
}

func TestRefusedAsksAgainOnlyForTheVersionHeldAndWithinLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, is("one"))
		defer b.start(t)()
		synctest.Wait()
		refuse := func(v string) {
			t.Helper()
			if err := b.refused(t.Context(), b.ctx, "db", v); err != nil {
				t.Fatal(err)
			}
		}
		refuse("0") // something older: the newer one is the answer
		if n := b.count(); n != 1 {
			t.Errorf("%d calls for an old version", n)
		}
		b.set(is("two"))
		first := b.last().Version
		refuse(first)
		second := b.last().Version
		if n := b.count(); n != 2 || second == first {
			t.Errorf("%d calls, version %s", n, second)
		}
		for range 20 {
			refuse(second)
		}
		if n := b.count(); n != 4 { // a burst of three
			t.Errorf("%d calls after a storm of reports", n)
		}
		time.Sleep(5 * time.Second)
		refuse(second)
		refuse(second)
		if n := b.count(); n != 5 { // and then one in five seconds
			t.Errorf("%d calls five seconds later", n)
		}
	})
}

func TestOneSlowItemDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, nil, func() (upstream.Secret, error) {
			time.Sleep(10 * time.Hour)
			return upstream.Secret{}, errors.New("timed out")
		})
		quick := &secretItem{name: "quick", spec: secretSpec{TTL: time.Minute}, index: -1, lane: &lane{},
			fetch: func(context.Context) (upstream.Secret, error) { return upstream.Secret{Fields: value("q")}, nil }}
		b.items["quick"] = quick
		b.queue = nil
		b.load(nil)
		stop := b.start(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		if it := b.last(); it == nil || it.Name != "quick" || it.Stale(time.Now()) {
			t.Errorf("the other item is not fresh: %+v", it)
		}
		time.Sleep(10 * time.Hour)
		stop()
	})
}

func TestCacheSurvivesARestartDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, nil, is("one"))
		stop := b.start(t)
		synctest.Wait()
		version := b.last().Version
		stop()
		time.Sleep(time.Hour)
		again := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: day}, b.disk, fails(upstream.Unavailable))
		it := again.last()
		if it == nil || password(it) != "one" || it.Version != version {
			t.Fatalf("after the restart: %+v", it)
		}
		if !it.Stale(time.Now()) || it.Expired(time.Now()) {
			t.Errorf("stale %v, expired %v: the bounds are those of before", it.Stale(time.Now()), it.Expired(time.Now()))
		}
	})
}

// A fetch that is asked before a rotation and answered after it brings a value
// that has ended; whoever waited for it waits for the next one.
func TestReadAmidARotationGetsTheNewValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		const every = 20 * time.Second
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, func() (upstream.Secret, error) {
			n := time.Since(start) / every
			time.Sleep(300 * time.Millisecond) // on its way back
			return upstream.Secret{Fields: value(fmt.Sprint("password ", n)), Expires: start.Add((n + 1) * every)}, nil
		})
		time.Sleep(every - 100*time.Millisecond) // the first fetch is asked a moment before the rotation
		defer b.start(t)()
		synctest.Wait()
		if err := b.join(t.Context(), b.ctx, "db"); err != nil {
			t.Fatal(err)
		}
		if it := b.last(); it.Expired(time.Now()) || password(it) != fmt.Sprint("password ", time.Duration(1)) {
			t.Errorf("%v after start: version %s, expired %v", time.Since(start), it.Version, it.Expired(time.Now()))
		}
	})
}

// What something has come for is fetched at once; what has failed for another
// reason waits as it did, and in no case is an upstream asked before it wants to
// be (failures T12, T18).
func TestHurryBringsForwardWhatWasWaitedFor(t *testing.T) {
	const asked = 10 * time.Minute
	failure := func(code upstream.Code, after time.Duration) error {
		return &upstream.Error{Upstream: "pam", Op: "read credential", Code: code, RetryAfter: after}
	}
	for name, tt := range map[string]struct {
		err       error
		at, atAll time.Duration // of the next fetch, after a token has come, and after a login; -1 is as planned
	}{
		"no token":                     {&upstream.NoToken{Err: failure(upstream.Unavailable, 0)}, 0, 0},
		"no token, and was to wait":    {&upstream.NoToken{Err: failure(upstream.Unavailable, asked)}, 0, 0},
		"upstream away":                {failure(upstream.Unavailable, 0), -1, 0},
		"refused":                      {failure(upstream.Denied, 0), -1, 0},
		"asked too often":              {failure(upstream.Unavailable, asked), -1, asked},
		"refused, and asked too often": {failure(upstream.Denied, asked), -1, asked},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, func() (upstream.Secret, error) {
					return upstream.Secret{}, tt.err
				})
				halt := b.start(t)
				for range 12 { // until the back-off is long
					time.Sleep(asked)
				}
				synctest.Wait()
				h, planned := b.snapshot("db")
				for _, hurry := range []struct {
					all  bool
					want time.Duration
				}{{false, tt.at}, {true, tt.atAll}} {
					want := planned
					if hurry.want >= 0 {
						want = later(time.Now(), h.failures().At.Add(hurry.want))
					}
					b.hurry("another", hurry.all)
					b.hurry("pam", hurry.all)
					if _, due := b.snapshot("db"); !due.Equal(want) {
						t.Errorf("all %v: fetched in %v, want %v", hurry.all, time.Until(due), time.Until(want))
					}
				}
				halt()
			})
		})
	}
}

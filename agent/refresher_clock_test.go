package agent

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// Rule 8: an interval is as long as it was, however the wall clock is set, and
// what an upstream has announced stays where it is.
func TestClockThatIsSetNeitherLengthensNorShortensALife(t *testing.T) {
	for _, by := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			rotates := start.Add(30 * 24 * time.Hour)
			b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: time.Hour}, nil, func() (upstream.Secret, error) {
				return upstream.Secret{Fields: value("one"), Expires: rotates}, nil
			})
			defer b.start(t)()
			time.Sleep(10 * time.Second)
			b.set(fails(upstream.Unavailable))
			b.ahead.Store(int64(by))
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			it := b.last()
			if age := it.FreshUntil.Sub(start); (age - by - time.Minute).Abs() > 5*time.Second {
				t.Errorf("set by %v: fresh until %v after start", by, age)
			}
			if !it.RotatesAt.Equal(rotates.Add(-time.Minute)) {
				t.Errorf("set by %v: rotates %v from what was announced", by, it.RotatesAt.Sub(rotates))
			}
			if _, due := b.snapshot("db"); time.Until(due) > 2*time.Minute+by.Abs() {
				t.Errorf("set by %v: due in %v", by, time.Until(due))
			}
		})
	}
}

// A fetch may begin before anything has noticed that the clock was set, and the
// clock may be set while it is under way or its answer is saved: the answer is as
// old as the question in any case.
func TestAnswerIsAsOldAsTheQuestionWhenTheClockIsSet(t *testing.T) {
	const ttl = time.Hour
	for _, by := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		for name, tt := range map[string]struct{ set, fetch, save, publish time.Duration }{
			"before it is asked":           {set: 0},
			"while it is under way":        {set: 10 * time.Second, fetch: 20 * time.Second},
			"just before it comes":         {set: 20*time.Second - 1, fetch: 20 * time.Second},
			"while its answer is saved":    {set: 10 * time.Second, save: 20 * time.Second},
			"just before it is saved":      {set: 20*time.Second - 1, save: 20 * time.Second},
			"just after it is handed out":  {set: 20*time.Second + 1, fetch: 20 * time.Second},
			"while both take their time":   {set: 25 * time.Second, fetch: 20 * time.Second, save: 20 * time.Second},
			"while it is handed out":       {set: 10 * time.Second, publish: 20 * time.Second},
			"before, and it takes a while": {set: 0, fetch: 20 * time.Second, save: 20 * time.Second},
		} {
			t.Run(fmt.Sprint(by, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newCacheBench(t, secretSpec{TTL: ttl, MaxStale: day}, nil, is("one"))
					defer b.start(t)()
					time.Sleep(clockCheck - time.Second)
					synctest.Wait()
					b.set(func() (upstream.Secret, error) {
						time.Sleep(tt.fetch)
						return upstream.Secret{Fields: value("two")}, nil
					})
					write := b.save
					b.save = func(name string, blob []byte) error {
						time.Sleep(tt.save)
						return write(name, blob)
					}
					var slow atomic.Bool
					handOut := b.publish
					b.publish = func(s *sinks.Secret) {
						if slow.CompareAndSwap(false, true) {
							time.Sleep(tt.publish)
						}
						handOut(s)
					}
					asked := time.Now()
					time.AfterFunc(tt.set, func() { b.ahead.Store(int64(by)) })
					synctest.Wait()
					if err := b.refused(t.Context(), b.ctx, "db", b.last().Version); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * clockCheck)
					synctest.Wait()
					it := b.last()
					if password(it) != "two" {
						t.Fatalf("served %q", password(it))
					}
					if got := it.FetchedAt.Add(-by).Sub(asked); got != 0 {
						t.Errorf("fetched %v after it was asked for, fresh for %v", got, it.FreshUntil.Sub(b.now()))
					}
					if h, _ := b.snapshot("db"); !h.FetchedAt.Equal(it.FetchedAt) {
						t.Errorf("published as of %v, held as of %v", it.FetchedAt, h.FetchedAt)
					}
				})
			})
		}
	}
}

// How often a value may be reported is counted by a clock that nobody sets.
func TestReportsAreLimitedByTheTimeThatHasPassed(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			b := newCacheBench(t, secretSpec{TTL: 10 * time.Hour, MaxStale: day}, nil, is("one"))
			defer b.start(t)()
			synctest.Wait()
			report := func(want int, when string) {
				t.Helper()
				before := b.count()
				for range 5 {
					if err := b.refused(t.Context(), b.ctx, "db", b.last().Version); err != nil {
						t.Fatal(err)
					}
				}
				if n := b.count() - before; n != want {
					t.Errorf("clock set by %v: %d calls %s, want %d", by, n, when, want)
				}
			}
			report(3, "at first")
			b.ahead.Store(int64(by))
			report(0, "when the clock was set")
			time.Sleep(5 * time.Second)
			report(1, "five seconds later")
		})
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// A renewal that is refused is asked for again and again, each time said, and
// past the end too; once it is granted the agent is back by itself. (T02, T03,
// T04, T10, T11)
func TestARefusedRenewalIsAskedForUntilItIsGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 10*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		stop := b.start(t)
		end := b.last().NotAfter
		var tries atomic.Int64
		ca.fail(func() error {
			tries.Add(1)
			return &upstream.Error{Upstream: "ca", Op: "renew", Code: upstream.Denied, Status: 403}
		})
		time.Sleep(time.Until(end) + day)
		synctest.Wait()
		s := b.snap.Load()
		if s.state(time.Now()) != stateExpired || s.usable("host", time.Now()) == nil || !strings.Contains(s.Error, "403") {
			t.Errorf("a day after the end: state %s, usable %v, last error %q", s.state(time.Now()), s.usable("host", time.Now()), s.Error)
		}
		if n := b.raised(eventRenewalFailed); int64(n) != tries.Load() {
			t.Errorf("%d failures were said of %d tries", n, tries.Load())
		}
		// At most an hour apart, half of it as jitter: four days and more.
		if n := tries.Load(); n < 100 || n > 250 {
			t.Errorf("%d tries from two thirds of ten days to a day past them", n)
		}
		ca.fail(nil)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		if s := b.snap.Load(); s.usable("host", time.Now()) != nil || s.Failures != 0 || s.Error != "" {
			t.Errorf("an hour after it is granted again: %v, %+v", s.usable("host", time.Now()), s)
		}
		stop()
	})
}

// A certificate that has ended is no dead end: new credentials are taken at once,
// by the agent that runs. (T03)
func TestAnEndedCertificateIsCuredByEnrollingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 10*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.spec.OneTime, b.given = true, &credentials{Username: "once"}
		stop := b.start(t)
		ca.fail(func() error {
			return &upstream.Error{Upstream: "ca", Op: "renew", Code: upstream.Unavailable, Status: 401}
		})
		time.Sleep(9 * day)
		if err := b.do(t.Context(), ask{Creds: &credentials{Username: "early"}}); err == nil {
			t.Error("enrolled although the certificate is good still")
		}
		time.Sleep(2 * day)
		ca.fail(nil)
		ca.mu.Lock()
		ca.refuse = upstream.Renew // it knows nothing of this account any more
		ca.mu.Unlock()
		if err := b.do(t.Context(), ask{Creds: &credentials{Username: "again"}}); err != nil {
			t.Fatal(err)
		}
		if s := b.snap.Load(); s.usable("host", time.Now()) != nil || ca.registered != 2 {
			t.Errorf("%v; registered %d times", s.usable("host", time.Now()), ca.registered)
		}
		stop()
	})
}

// sameAgain is an issuer that renews by giving what there is already.
type sameAgain struct {
	*testCA
	asked atomic.Int64
	stop  func() // called when it is asked too often
}

func (ca *sameAgain) Issue(ctx context.Context, req upstream.CertificateRequest) (upstream.Issued, error) {
	if req.Kind != upstream.Renew {
		return ca.testCA.Issue(ctx, req)
	}
	if ca.asked.Add(1) > 1000 {
		ca.stop()
	}
	return upstream.Issued{Chain: req.Current.Certificate}, nil
}

// An issuer that answers a renewal with the certificate that there is already is
// asked again closer to the end, and not in a loop. (T12, T13)
func TestTheSameCertificateAgainIsNoReasonToHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &sameAgain{testCA: newTestCA(t, 24*time.Hour)}
		b := newBench(t, ca.testCA, newMemKeys(), nil)
		b.issuer, ca.stop = ca, func() { b.stop() }
		if err := b.during(t, 23*time.Hour); err != nil {
			t.Fatal(err)
		}
		// From two thirds of the day to an hour before its end, each time by a
		// twentieth of what is left: ln(8)/ln(20/19) times.
		if n := ca.asked.Load(); n < 20 || n > 60 {
			t.Errorf("asked %d times, and got the same each time", n)
		}
		if n := b.raised(eventCertificateRenewed); n != 0 {
			t.Errorf("%d times it was said that the certificate is another", n)
		}
	})
}

// A part that ends, in whatever way, ends the agent, which the service manager
// starts anew: nothing goes on without one of its parts. (T05, T06)
func TestNothingGoesOnWithoutOneOfItsParts(t *testing.T) {
	well := part{"well", func(ctx context.Context) error { <-ctx.Done(); return nil }}
	broken := errors.New("broken")
	for _, tt := range []struct {
		name, want string
		run        func(context.Context) error
	}{
		{"with an error", "secrets: broken", func(context.Context) error { return broken }},
		{"without one", "secrets: ended of itself", func(context.Context) error { return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := serve(t.Context(), slog.New(slog.DiscardHandler), well, part{"secrets", tt.run})
				if err == nil || err.Error() != tt.want {
					t.Errorf("ended with %v, want %q", err, tt.want)
				}
			})
		})
	}
}

// Started again and again, the agent asks for nothing that it has. (T21)
func TestAStartAsksForNothingThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 30*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.start(t)()
		c := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, is("one"))
		stop := c.start(t)
		synctest.Wait()
		stop()
		for range 20 {
			time.Sleep(time.Minute)
			b = newBench(t, ca, keys, b.disk)
			b.start(t)()
			if b.count() != 1 {
				t.Error("what is there was not handed out at the start")
			}
			c = newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, c.disk, is("one"))
			stop = c.start(t)
			synctest.Wait()
			stop()
			if n := c.count(); n != 0 || c.last() == nil {
				t.Fatalf("%d fetches of a fresh secret after a start", n)
			}
		}
		if n := len(ca.asked()); n != 1 {
			t.Errorf("%d certificates were asked for", n)
		}
	})
}

// Waits that have reached their longest still differ, so that hosts which an
// outage has brought into step fall out of it. (T18)
func TestTheLongestWaitsDiffer(t *testing.T) {
	for name, wait := range map[string]func() time.Duration{
		"certificates":       func() time.Duration { return backoff(50, 90*day) },
		"short certificates": func() time.Duration { return backoff(50, 2*time.Minute) },
		"secrets":            func() time.Duration { return fetchBackoff(50, errors.New("down")) },
		"refused secrets":    func() time.Duration { return fetchBackoff(50, &upstream.Error{Code: upstream.Denied}) },
	} {
		t.Run(name, func(t *testing.T) {
			least, most := wait(), time.Duration(0)
			for range 100 {
				d := wait()
				least, most = min(least, d), max(most, d)
			}
			if least <= 0 || most-least < most/4 {
				t.Errorf("between %v and %v", least, most)
			}
		})
	}
}

// The items of a host and the hosts of a fleet do not all ask at the same moment.
// (T18)
func TestSecretsAreNotRefreshedInStep(t *testing.T) {
	fetched := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	b := boundsOf(fetched, time.Time{}, time.Hour, day)
	perMinute := map[int]int{}
	for host := range 100 {
		for item := range 10 {
			after := b.refreshAt(fetched, share(fmt.Sprintf("host%d", host), fmt.Sprintf("item%d", item))).Sub(fetched)
			if after < 42*time.Minute || after > 48*time.Minute {
				t.Fatalf("an hour's ttl is refreshed after %v", after)
			}
			perMinute[int(after/time.Minute)]++
		}
	}
	for minute, n := range perMinute { // 1000 over six minutes
		if n > 300 {
			t.Errorf("%d in minute %d", n, minute)
		}
	}
}

// What the upstream has refused does not come back: not by an error of another
// kind later, not by a start, and not because the disk was full when it was to
// be purged. (T22)
func TestARefusedValueDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := secretSpec{TTL: time.Minute, MaxStale: 30 * day}
		b := newCacheBench(t, spec, nil, is("one"))
		full := b.fills()
		stop := b.start(t)
		synctest.Wait()
		full.Store(true)
		b.set(fails(upstream.Denied))
		time.Sleep(time.Minute)
		synctest.Wait()
		full.Store(false)
		b.set(fails(upstream.Unavailable))
		said := len(b.published)
		time.Sleep(day)
		synctest.Wait()
		if len(b.published) != said || len(b.withdrawn) != 1 {
			t.Errorf("published %d times after the refusal; withdrawn %v", len(b.published)-said, b.withdrawn)
		}
		if err := b.join(t.Context(), b.ctx, "db"); err == nil {
			t.Error("a reader was told that it is there")
		}
		stop()
		again := newCacheBench(t, spec, b.disk, fails(upstream.Unavailable))
		if again.last() != nil {
			t.Error("it is there again after a start")
		}
	})
}

// A value is taken to be as old as the question, not as the answer. (T26)
func TestALifeBeginsWithTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := time.Now()
		b := newCacheBench(t, secretSpec{TTL: time.Minute, MaxStale: time.Hour}, nil, func() (upstream.Secret, error) {
			time.Sleep(20 * time.Second)
			return upstream.Secret{Fields: value("one")}, nil
		})
		defer b.start(t)()
		if err := b.join(t.Context(), b.ctx, "db"); err != nil {
			t.Fatal(err)
		}
		if it := b.last(); !it.FreshUntil.Equal(asked.Add(time.Minute)) || !it.UsableUntil.Equal(asked.Add(time.Hour)) {
			t.Errorf("fresh until %v, usable until %v after the question", it.FreshUntil.Sub(asked), it.UsableUntil.Sub(asked))
		}
	})
}

// A host that was asleep looks at once what is due, whatever it was waiting for:
// its timers have stood still. (T07)
func TestAfterASleepEverythingIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, 90*day)
		b := newBench(t, ca, newMemKeys(), nil)
		var asleep atomic.Int64
		b.clock = func() time.Time { return wall().Add(time.Duration(asleep.Load())) }
		down := func() error {
			return &upstream.Error{Upstream: "ca", Op: "renew", Code: upstream.Busy, RetryAfter: 10 * time.Hour}
		}
		stop := b.start(t)
		ca.fail(down)
		go func() { _ = b.do(t.Context(), ask{What: askedRenew}) }() // it fails, and is told so
		synctest.Wait()
		ca.fail(nil)
		a := &Agent{log: slog.New(slog.DiscardHandler), rotators: map[string]*rotator{"host": b.rotator}}
		start := time.Now()
		ctx, wake := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- a.watchClocks(ctx, clocks{steady: func() time.Duration { return time.Since(start) - time.Duration(asleep.Load()) }})
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(ca.asked()); n != 1 {
			t.Errorf("%d requests while it is to wait", n)
		}
		asleep.Store(int64(11 * time.Hour))
		time.Sleep(clockCheck + lineUp)
		synctest.Wait()
		if n := len(ca.asked()); n != 2 {
			t.Errorf("%d requests after the sleep, want the renewal", n)
		}
		wake()
		if err := <-done; err != nil {
			t.Error(err)
		}
		stop()
	})
}

// Nothing sleeps through a clock that is set: everybody looks at it each minute,
// even when nothing is due for hours. (T07)
func TestTheClockIsLookedAtEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newTestCA(t, 90*day), newMemKeys(), nil)
		stop := b.start(t)
		seen := b.snap.Load()
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if b.snap.Load() == seen {
			t.Error("a rotator that waits for weeks does not look")
		}
		stop()

		start := time.Now()
		c := newCacheBench(t, secretSpec{TTL: 10 * time.Hour, MaxStale: day}, nil, is("one"))
		defer c.start(t)()
		time.Sleep(time.Second)
		c.ahead.Store(int64(3 * time.Hour))
		time.Sleep(clockCheck + time.Second)
		synctest.Wait()
		if age := c.last().FetchedAt.Sub(start); age != 3*time.Hour {
			t.Errorf("a moment after the clock was set, the value is of %v after the start", age)
		}
	})
}

// Whoever gets an answer sees in the status what it was about.
func TestTheStatusIsThereBeforeTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newTestCA(t, 30*day), newMemKeys(), nil)
		done := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		go func() { done <- b.run(ctx) }()
		synctest.Wait()
		before := serialOf(b.snap.Load().Current.Chain)
		answer := make(chan error) // the rotator waits until it is taken
		b.asks <- ask{What: askedRenew, Done: answer}
		synctest.Wait()
		if now := serialOf(b.snap.Load().Current.Chain); now == before {
			t.Errorf("about to answer, and the status still shows %s", now)
		}
		if err := <-answer; err != nil {
			t.Error(err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
)

// start runs the rotator until the test's bubble ends or stop is called, which
// returns what it ended with.
func (b *bench) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.run(ctx) }()
	synctest.Wait()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (b *bench) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.served)
}

func (b *bench) raised(kind string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Type == kind {
			n++
		}
	}
	return n
}

func window(t *testing.T, s string) config.Window {
	t.Helper()
	w, err := config.ParseWindow(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWhatIsRipeWaitsForTheWindowButNotForTheEnd(t *testing.T) {
	at := func(day, hour, minute int) time.Time { return time.Date(2030, 1, day, hour, minute, 0, 0, time.UTC) }
	end := at(31, 0, 0)
	sunday := "Sun 02:00-04:00" // the 6th, 13th, 20th and 27th
	for _, tt := range []struct {
		name           string
		window         string
		share          float64
		ripe, now      time.Time
		deadline, want time.Time
		why            string
	}{
		{name: "no window", ripe: at(8, 12, 0), now: at(1, 0, 0), deadline: end, want: at(8, 12, 0)},
		{name: "between two openings", window: sunday, ripe: at(8, 12, 0), now: at(1, 0, 0), deadline: end, want: at(13, 2, 0), why: reasonWindow},
		{name: "spread over the opening", window: sunday, share: 0.5, ripe: at(8, 12, 0), now: at(1, 0, 0), deadline: end, want: at(13, 2, 54), why: reasonWindow},
		{name: "seen from within the opening, the time has come", window: sunday, share: 0.5, ripe: at(8, 12, 0), now: at(13, 3, 0), deadline: end, want: at(13, 2, 54), why: reasonWindow},
		{name: "ripe within an opening", window: sunday, share: 0.9, ripe: at(13, 2, 30), now: at(1, 0, 0), deadline: end, want: at(13, 2, 30)},
		{name: "the opening was slept through", window: sunday, ripe: at(8, 12, 0), now: at(14, 0, 0), deadline: end, want: at(20, 2, 0), why: reasonWindow},
		{name: "the next opening is too late", window: sunday, ripe: at(8, 12, 0), now: at(1, 0, 0), deadline: at(12, 0, 0), want: at(12, 0, 0), why: reasonDeadline},
		{name: "the deadline is past", window: sunday, ripe: at(8, 12, 0), now: at(12, 6, 0), deadline: at(12, 0, 0), want: at(12, 0, 0), why: reasonDeadline},
		{name: "ripe after the deadline", window: sunday, ripe: at(8, 12, 0), now: at(8, 6, 0), deadline: at(8, 0, 0), want: at(8, 12, 0), why: reasonDeadline},
		{name: "over midnight", window: "22:00-02:00", share: 0, ripe: at(9, 3, 0), now: at(9, 3, 0), deadline: end, want: at(9, 22, 0), why: reasonWindow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := circumstances{share: tt.share}
			if tt.window != "" {
				c.window = window(t, tt.window)
			}
			got, why := c.plan(tt.ripe, tt.deadline, tt.now)
			if !got.Equal(tt.want) || why != tt.why {
				t.Errorf("at %v (%q), want %v (%q)", got, why, tt.want, tt.why)
			}
		})
	}
}

func TestRenewalKeepsToItsWindowUnlessTheEndIsNear(t *testing.T) {
	for _, tt := range []struct {
		life   time.Duration
		inside bool
	}{{60 * day, true}, {2 * day, false}} {
		t.Run(tt.life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, tt.life), newMemKeys()
				b := newBench(t, ca, keys, nil)
				b.spec.Window = window(t, "Sun 02:00-04:00")
				stop := b.start(t)
				first := b.last()
				for b.count() == 1 {
					if s := b.snap.Load(); !time.Now().Before(s.RenewAt()) && s.Why == "" {
						t.Fatal("waits without saying why")
					}
					time.Sleep(time.Minute)
					synctest.Wait()
				}
				when := b.last().ReceivedAt
				if got := b.spec.Window.Contains(when.In(time.Local)); got != tt.inside {
					t.Errorf("renewed at %v; in the window: %v, want %v", when, got, tt.inside)
				}
				if limit := first.urgentAt().Add(2 * time.Minute); when.After(limit) {
					t.Errorf("renewed at %v, after the last moment %v", when, limit)
				}
				stop()
			})
		})
	}
}

// RenewAt is when the certificate in use is ripe.
func (s *snapshot) RenewAt() time.Time { return s.Current.RenewAt }

// The Manager is away for 40 days around the renewal date.
func TestFortyDaysWithoutTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys, start := newTestCA(t, 90*day), newMemKeys(), time.Now()
		refused, back := 0, 45*day+40*day
		ca.fail(func() error {
			if d := time.Since(start); d > 45*day && d < back {
				refused++
				return &upstream.Error{Upstream: "ca", Op: "renew", Code: upstream.Unavailable}
			}
			return nil
		})
		b := newBench(t, ca, keys, nil)
		stop := b.start(t)
		ready := func() bool { return b.snap.Load().usable("host", time.Now()) == nil }
		for elapsed := time.Duration(0); elapsed < back-time.Minute; elapsed += time.Hour {
			time.Sleep(time.Hour)
			if want := time.Since(start) < 81*day; ready() != want {
				t.Fatalf("after %v: ready %v; readiness falls with the last tenth and not before", time.Since(start), !want)
			}
		}
		if n := b.raised(eventCertificateExpiring); n != 1 {
			t.Errorf("said %d times that the end is near", n)
		}
		if s := b.snap.Load(); s.state(time.Now()) != stateExpiring || s.Failures == 0 || s.Error == "" || s.ErrorAt.IsZero() || s.RetryAt.IsZero() {
			t.Errorf("the outage does not show: %+v", s)
		}
		// An hour doubled up to, less up to half as jitter: no more than one try a step.
		if most := int(31*day/(30*time.Minute)) + 13; refused > most {
			t.Errorf("%d tries, want at most %d", refused, most)
		}
		time.Sleep(back + time.Hour + time.Minute - time.Since(start))
		synctest.Wait()
		if len(ca.asked()) != 2 || !ready() {
			t.Errorf("an hour after the Manager is back: %d certificates issued, ready %v", len(ca.asked()), ready())
		}
		stop()
	})
}

// What an issuer gives once survives a disk that is full just then.
func TestAnAnswerIsHeldWhileStateCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		var full atomic.Bool
		b.save = func(rec record) error {
			if full.Load() && rec.Next.Chain != nil {
				return errors.New("no space left on device")
			}
			return b.write(rec)
		}
		stop := b.start(t)
		full.Store(true)
		done := make(chan error, 1)
		go func() { done <- b.do(t.Context(), ask{What: askedRotate}) }()
		time.Sleep(time.Hour)
		if s := b.snap.Load(); !strings.Contains(s.Error, "no space left") {
			t.Errorf("status says %q", s.Error)
		}
		if err := b.do(t.Context(), ask{What: askedRenew}); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("asked meanwhile, it says %v", err)
		}
		full.Store(false)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("who asked is told %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(ca.asked()); n != 2 || b.last().Generation != 2 {
			t.Errorf("%d requests, generation %d; the answer must not be asked for again", n, b.last().Generation)
		}
		stop()
	})
}

func TestNothingIsSentThatCannotBeWrittenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.save = func(rec record) error {
			if rec.Next.Sent {
				return errors.New("read-only file system")
			}
			return b.write(rec)
		}
		stop := b.start(t)
		time.Sleep(time.Hour)
		if n := len(ca.asked()); n != 0 {
			t.Errorf("sent %d requests", n)
		}
		stop()
	})
}

func TestRefusedCertificateIsTakenWhenTheClockIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		ca.change = func(c *x509.Certificate) { c.NotBefore = time.Now().Add(2 * time.Hour) }
		b := newBench(t, ca, keys, nil)
		b.spec.OneTime = true
		b.creds = func() (credentials, bool, error) { return credentials{Username: "once"}, true, nil }
		ca.mu.Lock()
		ca.once = true
		ca.mu.Unlock()
		stop := b.start(t)
		time.Sleep(time.Hour)
		if b.count() != 0 {
			t.Fatal("a certificate that is not yet valid was used")
		}
		stop()
		b2 := newBench(t, ca, keys, b.disk)
		b2.spec.OneTime, b2.creds = true, b.creds
		time.Sleep(2 * time.Hour)
		if err := b2.during(t, time.Hour); err != nil {
			t.Fatal(err)
		}
		if len(b2.served) == 0 || ca.registered != 1 {
			t.Errorf("served %d, registered %d; what came is to be used once it is valid", len(b2.served), ca.registered)
		}
	})
}

// A failed step is logged with what an operator can do about it.
func TestFailuresAreLoggedWithTheirHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		var log bytes.Buffer
		b.log = slog.New(slog.NewTextHandler(&log, nil))
		ca.fail(func() error {
			return &upstream.Error{Upstream: "ca", Op: "register", Code: upstream.Unavailable, Remedy: "have it enabled"}
		})
		if err := b.during(t, time.Minute); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), `msg="certificate step failed"`) || !strings.Contains(log.String(), `hint="have it enabled"`) {
			t.Error(log.String())
		}
	})
}

// Credentials that an operator brings and the issuer does not take are tried
// once: it may count, and the operator has been told.
func TestWrongCredentialsAreTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.spec.OneTime = true
		var tries atomic.Int64
		ca.fail(func() error {
			tries.Add(1)
			return &upstream.Error{Upstream: "ca", Op: "register", Code: upstream.Unavailable, Status: 401}
		})
		stop := b.start(t)
		if err := b.do(t.Context(), ask{Creds: &credentials{Username: "wrong"}}); err == nil {
			t.Error("no error")
		}
		time.Sleep(24 * time.Hour)
		if n := tries.Load(); n != 1 {
			t.Errorf("tried %d times", n)
		}
		ca.fail(nil)
		if err := b.do(t.Context(), ask{Creds: &credentials{Username: "right"}}); err != nil || !b.last().exists() {
			t.Errorf("with the right ones: %v", err)
		}
		stop()
	})
}

// A rotation whose answer is lost: asked again every hour whether it is so, and
// cured by new credentials.
func TestLostRotationIsCuredByEnrollingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.spec.OneTime, b.given = true, &credentials{Username: "once"}
		stop := b.start(t)
		var asked atomic.Int64
		ca.fail(func() error {
			if asked.Add(1) == 1 {
				return &upstream.Error{Upstream: "ca", Op: "rotate", Code: upstream.Unavailable, Sent: true}
			}
			return &upstream.Error{Upstream: "ca", Op: "rotate", Code: upstream.Lost, Sent: true, Remedy: "ask for a new account"}
		})
		if err := b.do(t.Context(), ask{What: askedRotate}); err == nil {
			t.Error("no error")
		}
		time.Sleep(24 * time.Hour)
		s := b.snap.Load()
		if n := asked.Load(); n < 20 || n > 30 {
			t.Errorf("found out %d times in a day, want hourly", n)
		}
		if s.state(time.Now()) != stateStuck || !strings.Contains(s.Lost, "ask for a new account") || s.usable("host", time.Now()) == nil {
			t.Errorf("state %q, to do %q", s.state(time.Now()), s.Lost)
		}
		ca.fail(nil)
		b.spec.Subject = pkix.Name{CommonName: "host1-2.example"}
		if err := b.do(t.Context(), ask{Creds: &credentials{Username: "again"}}); err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(b.last().Chain[0])
		if err != nil || leaf.Subject.CommonName != "host1-2.example" {
			t.Errorf("%v, %v", leaf.Subject, err)
		}
		synctest.Wait()
		if n, _ := keys.count(); n != 1 {
			t.Errorf("%d keys; that of the lost account goes", n)
		}
		if s := b.snap.Load(); s.Lost != "" || s.usable("host", time.Now()) != nil {
			t.Error("still stuck")
		}
		if err := b.do(t.Context(), ask{Creds: &credentials{Username: "thrice"}}); err == nil {
			t.Error("enrolled although it is")
		}
		stop()
	})
}

func TestAnotherAccountAsksToBeEnrolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.spec.OneTime, b.spec.AsIs, b.spec.Account, b.given = true, true, 124, &credentials{}
		b.start(t)()
		b2 := newBench(t, ca, keys, b.disk)
		b2.spec.OneTime, b2.spec.AsIs, b2.spec.Account = true, true, 130
		stop := b2.start(t)
		if s := b2.snap.Load(); !strings.Contains(s.Notice, "account 124") || !strings.Contains(s.Notice, "130") {
			t.Errorf("notice %q", s.Notice)
		}
		if err := b2.do(t.Context(), ask{Creds: &credentials{}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if v := b2.last(); v.Account != 130 || v.Generation != 2 || b2.snap.Load().Notice != "" {
			t.Errorf("account %d, generation %d", v.Account, v.Generation)
		}
		stop()
	})
}

func TestNamesOfTheConfigurationAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.start(t)()
		names := names{DNS: []string{"WEB.example", "*.web.example"}, Emails: []string{"ops@web.example"}}
		b2 := newBench(t, ca, keys, b.disk)
		b2.spec.Names, b2.spec.Subject.Organization = names, []string{"Example"}
		b2.start(t)()
		leaf, err := x509.ParseCertificate(b2.last().Chain[0])
		if err != nil || checkNames(leaf, b2.spec.Subject, names) != nil || b2.last().Generation != 1 {
			t.Errorf("%v, %v", leaf.DNSNames, err)
		}
		n := len(ca.asked())
		b3 := newBench(t, ca, keys, b2.disk)
		b3.spec = b2.spec
		b3.start(t)()
		if len(ca.asked()) != n {
			t.Error("issued again without a change")
		}
		// An issuer that renews as it is cannot follow, which is said, and keeps
		// what it has.
		b4 := newBench(t, ca, keys, b2.disk)
		b4.spec.AsIs = true
		b4.spec.Subject.CommonName = "other.example"
		stop := b4.start(t)
		if s := b4.snap.Load(); !strings.Contains(s.Notice, "signet rotate host") || len(ca.asked()) != n {
			t.Errorf("notice %q", s.Notice)
		}
		stop()
	})
}

// An issuer that will not have the new key must not cost the certificate.
func TestRefusedRotationGivesWayToRenewalNearTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys, start := newTestCA(t, 90*day), newMemKeys(), time.Now()
		b := newBench(t, ca, keys, nil)
		b.spec.RotateEvery = 30 * day
		ca.refuse = upstream.Rotate
		stop := b.start(t)
		time.Sleep(89*day - time.Since(start))
		synctest.Wait()
		if left := time.Until(b.last().NotAfter); left < 30*day || b.last().Generation != 1 {
			t.Errorf("%v left, generation %d", left, b.last().Generation)
		}
		stop()
	})
}

func TestTheEndIsSaidOnceThroughRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 10*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.start(t)()
		ca.fail(func() error { return errors.New("down") })
		b2 := newBench(t, ca, keys, b.disk)
		stop := b2.start(t)
		time.Sleep(8*day - time.Minute)
		if n := b2.raised(eventCertificateExpiring); n != 0 {
			t.Errorf("said %d times, too early", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := b2.raised(eventCertificateExpiring); n != 1 {
			t.Errorf("said %d times with a fifth left", n)
		}
		stop()
		b3 := newBench(t, ca, keys, b2.disk)
		stop = b3.start(t)
		time.Sleep(day)
		if n := b3.raised(eventCertificateExpiring); n != 0 {
			t.Errorf("said again after a start")
		}
		stop()
	})
}

// A clock that was ahead and is set back, as far as the record can tell: no
// time in it stands in the way.
func TestNothingWaitsForAClockThatWasWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		b.start(t)()
		var rec record
		if err := json.Unmarshal(b.disk, &rec); err != nil {
			t.Fatal(err)
		}
		year := time.Now().Add(365 * day)
		rec.Failures, rec.Error, rec.ErrorAt, rec.RetryAt, rec.Asked = 3, "expired", year, year.Add(time.Hour), askedRenew
		disk, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		b2 := newBench(t, ca, keys, disk)
		if err := b2.during(t, time.Minute); err != nil {
			t.Fatal(err)
		}
		if n := len(ca.asked()); n != 2 {
			t.Errorf("%d requests; the renewal must not wait for next year", n)
		}
	})
}

// All that is kept is on the wall clock: what Go compares by otherwise stands
// still while a host is asleep.
func TestRecordsHaveNoMonotonicTimes(t *testing.T) {
	ca, keys := newTestCA(t, 90*day), newMemKeys()
	b := newBench(t, ca, keys, nil)
	b.spec.RotateEvery = 30 * day
	ctx, stop := context.WithCancel(t.Context())
	b.publish = func(context.Context, version) error { stop(); return nil }
	if err := b.run(ctx); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprint(b.rec); b.rec.Current.RenewAt.IsZero() || strings.Contains(s, " m=") {
		t.Errorf("%s", s)
	}
}

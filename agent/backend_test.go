package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/upstream"
)

// asks is the backend of an agent that has this cache, open.
func (b *cacheBench) asks() backend {
	opened := make(chan struct{})
	close(opened)
	return backend{&Agent{refresher: b.refresher, opened: opened, life: b.ctx}}
}

// codeOf is what a caller is told: the code of the problem, or "".
func codeOf(err error) string {
	if p, ok := errors.AsType[*socket.Problem](err); ok {
		return p.Code
	}
	return fmt.Sprint(err)
}

// What goes wrong between the agent and an upstream is never the caller's fault,
// and a report is answered with what is held unless the upstream has said no.
func TestUpstreamTroubleIsNoFaultOfTheCaller(t *testing.T) {
	for code, want := range map[upstream.Code]struct{ first, report string }{
		upstream.Invalid:     {"unavailable", "<nil>"},
		upstream.Busy:        {"unavailable", "<nil>"},
		upstream.Unavailable: {"unavailable", "<nil>"},
		upstream.Lost:        {"unavailable", "<nil>"},
		upstream.Denied:      {"denied", "denied"},
		upstream.NotFound:    {"not-found", "not-found"},
	} {
		t.Run(string(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, fails(code))
				defer b.start(t)()
				synctest.Wait()
				if got := codeOf(b.asks().Fetch(t.Context(), "db")); got != want.first {
					t.Errorf("a first read is told %s, want %s", got, want.first)
				}
				b.set(is("one"))
				time.Sleep(time.Hour)
				synctest.Wait()
				b.set(fails(code))
				if got := codeOf(b.asks().Refused(t.Context(), "db", b.last().Version)); got != want.report {
					t.Errorf("a report is told %s, want %s", got, want.report)
				}
			})
		})
	}
}

func TestReportOfWhatIsNotConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour}, nil, is("one"))
		if got := codeOf(b.asks().Refused(t.Context(), "other", "1")); got != socket.CodeNotFound {
			t.Errorf("told %s", got)
		}
	})
}

// Who waits for an upstream no longer than it likes is answered with what is held.
func TestReportIsAnsweredWhenTheUpstreamIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, is("one"))
		defer b.start(t)()
		synctest.Wait()
		b.set(func() (upstream.Secret, error) {
			time.Sleep(time.Minute)
			return is("two")()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := b.asks().Refused(ctx, "db", b.last().Version); err != nil || password(b.last()) != "one" {
			t.Errorf("%v; %q is held", err, password(b.last()))
		}
		time.Sleep(time.Minute)
	})
}

// A report does not make the agent ask an upstream that wants to be left alone.
func TestReportKeepsToRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, is("one"))
		defer b.start(t)()
		synctest.Wait()
		b.set(func() (upstream.Secret, error) {
			return upstream.Secret{}, &upstream.Error{Upstream: "pam", Op: "read credential", Code: upstream.Busy, RetryAfter: time.Minute}
		})
		report := func(calls int, when string) {
			t.Helper()
			before := b.count()
			if err := b.asks().Refused(t.Context(), "db", b.last().Version); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			if n := b.count() - before; n != calls {
				t.Errorf("%s: %d calls, want %d", when, n, calls)
			}
		}
		report(1, "at first")
		report(0, "at once again")
		time.Sleep(59 * time.Second)
		report(0, "a second too early")
		b.set(is("two"))
		time.Sleep(time.Minute)
		synctest.Wait()
		report(1, "when it answers again")
	})
}

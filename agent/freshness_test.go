package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
)

func TestBounds(t *testing.T) {
	t0 := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return t0.Add(d) }
	for _, tt := range []struct {
		name                   string
		expires                time.Time
		ttl, maxStale          time.Duration
		fresh, usable, rotates time.Time
	}{
		{"no rotation known", time.Time{}, time.Hour, day, in(time.Hour), in(day), time.Time{}},
		{"never stale", time.Time{}, time.Hour, 0, in(time.Hour), in(time.Hour), time.Time{}},
		{"a ttl of seconds is honoured", time.Time{}, 3 * time.Second, day, in(3 * time.Second), in(day), time.Time{}},
		{"rotation after the ttl", in(2 * time.Hour), time.Hour, day, in(time.Hour), in(2*time.Hour - time.Minute), in(2*time.Hour - time.Minute)},
		{"rotation ends fresh and stale life", in(30 * time.Minute), time.Hour, day, in(29 * time.Minute), in(29 * time.Minute), in(29 * time.Minute)},
		{"near rotation, a tenth is kept", in(20 * time.Second), time.Hour, day, in(18 * time.Second), in(18 * time.Second), in(18 * time.Second)},
		{"at hand, none is", in(4 * time.Second), time.Hour, day, in(4 * time.Second), in(4 * time.Second), in(4 * time.Second)},
		{"just overdue", in(0), time.Hour, day, in(minPoll), in(minPoll), in(minPoll)},
		{"overdue", in(-10 * time.Second), time.Hour, day, in(5 * time.Second), in(5 * time.Second), in(5 * time.Second)},
		{"announced long ago", in(-1000 * day), time.Hour, day, in(time.Hour), in(time.Hour), in(time.Hour)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := boundsOf(t0, tt.expires, tt.ttl, tt.maxStale)
			if !b.FreshUntil.Equal(tt.fresh) {
				t.Errorf("fresh for %v, want %v", b.FreshUntil.Sub(t0), tt.fresh.Sub(t0))
			}
			if !b.UsableUntil.Equal(tt.usable) {
				t.Errorf("usable for %v, want %v", b.UsableUntil.Sub(t0), tt.usable.Sub(t0))
			}
			if !b.RotatesAt.Equal(tt.rotates) {
				t.Errorf("rotates in %v, want %v", b.RotatesAt.Sub(t0), tt.rotates.Sub(t0))
			}
		})
	}
}

// Whatever an upstream announces: nothing is served past the change, the margin
// is at most a minute, and the next look is in the future.
func TestStaleNeverOutlivesRotation(t *testing.T) {
	t0 := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for left := -time.Hour; left < 3*time.Hour; left += 777 * time.Millisecond {
		b := boundsOf(t0, t0.Add(left), 20*time.Minute, day)
		if b.UsableUntil.After(b.RotatesAt) || b.FreshUntil.After(b.UsableUntil) {
			t.Fatalf("%v ahead: fresh %v, usable %v, rotates %v", left, b.FreshUntil, b.UsableUntil, b.RotatesAt)
		}
		if left > 0 && (b.RotatesAt.After(t0.Add(left)) || t0.Add(left).Sub(b.RotatesAt) > time.Minute) {
			t.Fatalf("%v ahead: trusted until %v after now", left, b.RotatesAt.Sub(t0))
		}
		if at := b.refreshAt(t0, 0.5); !at.After(t0) || at.After(b.FreshUntil) {
			t.Fatalf("%v ahead: next look in %v, fresh for %v", left, at.Sub(t0), b.FreshUntil.Sub(t0))
		}
	}
}

// Rule 1: some upstreams name the moment of a change no more once it has passed,
// though they are late with it. It is waited for all the same.
func TestOverdueRotationIsWaitedForThoughNotAnnouncedAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at := start.Add(10 * time.Minute)
		b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, func() (upstream.Secret, error) {
			switch late := time.Since(at); {
			case late < 0:
				return upstream.Secret{Fields: value("old"), Expires: at}, nil
			case late < 2*time.Second:
				return upstream.Secret{Fields: value("old")}, nil
			}
			return upstream.Secret{Fields: value("new")}, nil
		})
		defer b.start(t)()
		time.Sleep(time.Until(at) + 4*time.Second)
		synctest.Wait()
		if it := b.last(); password(it) != "new" || !it.RotatesAt.IsZero() {
			t.Errorf("two seconds after the rotation: %q, which rotates at %v", password(it), it.RotatesAt)
		}
	})
}

package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// closedAt is a rotator with a certificate from before, that a sink does not get
// for the reason that why holds; none is none.
func closedAt(t *testing.T) (b *bench, ca *testCA, why *atomic.Pointer[error], logged *bytes.Buffer) {
	t.Helper()
	ca = newTestCA(t, 90*day)
	keys := newMemKeys()
	before := newBench(t, ca, keys, nil)
	if err := before.during(t, time.Hour); err != nil {
		t.Fatal(err)
	}
	b, why, logged = newBench(t, ca, keys, before.disk), new(atomic.Pointer[error]), new(bytes.Buffer)
	b.log = slog.New(slog.NewTextHandler(logged, nil))
	publish := b.publish
	b.publish = func(ctx context.Context, v version) error {
		if err := why.Load(); err != nil {
			return *err
		}
		return publish(ctx, v)
	}
	err := errors.New("token is not open")
	why.Store(&err)
	return b, ca, why, logged
}

// Why a sink does not have the certificate in use is shown for as long as that is
// so, and said once for each reason (failures T08, T11).
func TestWhatIsNotPublishedIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, why, logged := closedAt(t)
		stop := b.start(t)
		a := &Agent{rotators: map[string]*rotator{"host": b.rotator}}
		shows := func(want string) {
			t.Helper()
			synctest.Wait()
			if it := a.certificateItem("host", time.Now()); it.State != stateValid || !strings.HasSuffix(it.LastError, want) || (it.LastError == "") != (want == "") {
				t.Errorf("%s, %q; want %q", it.State, it.LastError, want)
			}
		}
		shows("token is not open")
		time.Sleep(time.Hour)
		full := errors.New("token is full")
		why.Store(&full)
		time.Sleep(time.Hour)
		shows("token is full")
		why.Store(nil)
		time.Sleep(time.Hour)
		shows("")
		stop()
		for text, want := range map[string]int{"token is not open": 1, "token is full": 1, "after all": 1} {
			if n := strings.Count(logged.String(), text); n != want {
				t.Errorf("%q is logged %d times, want %d", text, n, want)
			}
		}
	})
}

// A replacement that every sink has ends it: there is nothing left to publish.
func TestAReplacementIsPublishedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ca, why, logged := closedAt(t)
		stop := b.start(t)
		// What opens the sink is the replacement, so that nothing else is first.
		ca.fail(func() error { why.Store(nil); return nil })
		if err := b.do(t.Context(), ask{What: askedRenew}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if n := b.count(); n != 1 || b.snap.Load().Missing != "" {
			t.Errorf("published %d times, want once; missing: %q", n, b.snap.Load().Missing)
		}
		stop()
		if strings.Contains(logged.String(), "after all") {
			t.Error("published twice:", logged)
		}
	})
}

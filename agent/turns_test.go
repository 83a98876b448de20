package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// After a sleep of the host everything is due at once: the certificate that ends
// first goes first.
func TestTheMostUrgentGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		a := &Agent{services: map[string]*service{"ca": {turns: turns}}, rotators: map[string]*rotator{}, log: slog.New(slog.DiscardHandler)}
		var mu sync.Mutex
		var order []int
		for i := range 20 {
			r := &rotator{wake: make(chan struct{}, 1)}
			a.rotators[fmt.Sprint(i)] = r
			go func() {
				<-r.wake
				if !turns.take(t.Context(), time.Now().Add(time.Duration(20-i)*time.Hour)) {
					return
				}
				mu.Lock()
				order = append(order, 20-i)
				mu.Unlock()
				time.Sleep(time.Second) // the work
				turns.give()
			}()
		}
		a.replan(t.Context())
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(order) != 20 {
			t.Fatalf("%d of 20 had a turn", len(order))
		}
		for n := range 20 / atOnce { // each batch is more urgent than the next
			batch := order[n*atOnce : (n+1)*atOnce]
			slices.Sort(batch)
			if batch[0] != n*atOnce+1 || batch[atOnce-1] != (n+1)*atOnce {
				t.Errorf("batch %d had %v", n, batch)
			}
		}
	})
}

// A slowCA takes a second for each request, and notes whose it was.
type slowCA struct {
	*testCA
	mu   sync.Mutex
	asks []time.Time // the ends of the certificates that were to be renewed
}

func (ca *slowCA) Issue(ctx context.Context, req upstream.CertificateRequest) (upstream.Issued, error) {
	if req.Current != nil {
		ca.mu.Lock()
		ca.asks = append(ca.asks, req.Current.Leaf.NotAfter)
		ca.mu.Unlock()
	}
	time.Sleep(time.Second)
	return ca.testCA.Issue(ctx, req)
}

// inTurn checks that all n were asked for since the last look, those first that
// end first.
func (ca *slowCA) inTurn(t *testing.T, when string, n int) {
	t.Helper()
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if len(ca.asks) != n {
		t.Fatalf("%s: %d of %d were renewed", when, len(ca.asks), n)
	}
	for i, end := range ca.asks {
		for _, later := range ca.asks[(i/atOnce+1)*atOnce:] { // not of the same batch
			if later.Before(end) {
				t.Errorf("%s: %v went before %v", when, end, later)
			}
		}
	}
	ca.asks = nil
}

// The wall clock is moved forward, as by a sleep of the host, and set back: each
// time whatever is due is done within seconds, those first that end first, and
// no time that was written down by the clock of before is waited for.
func TestAClockThatJumpsPutsTheMostUrgentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 3 * atOnce
		start := time.Now()
		var moved atomic.Int64
		clock := func() time.Time { return wall().Add(time.Duration(moved.Load())) }
		a := &Agent{services: map[string]*service{"ca": {turns: newTurns()}}, rotators: map[string]*rotator{}, log: slog.New(slog.DiscardHandler)}
		ca := &slowCA{testCA: newTestCA(t, 0)}
		ca.clock = clock
		for i := range hosts {
			b := newBench(t, ca.testCA, newMemKeys(), nil)
			b.name, b.issuer, b.clock, b.turns = fmt.Sprint(i), ca, clock, a.services["ca"].turns
			b.spec.Options.Duration = time.Duration(90+(i*7)%hosts) * day
			a.rotators[b.name] = b.rotator
			defer b.start(t)()
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- a.watchClocks(ctx, clocks{steady: func() time.Duration { return time.Since(start) - time.Duration(moved.Load()) }})
		}()
		time.Sleep(time.Minute)

		moved.Add(int64(80 * day))
		time.Sleep(clockCheck + lineUp + 2*hosts/atOnce*time.Second)
		ca.inTurn(t, "forward", hosts)

		ca.fail(func() error {
			return &upstream.Error{Upstream: "ca", Op: "renew", Code: upstream.Busy, RetryAfter: 10 * time.Hour}
		})
		moved.Add(int64(80 * day))
		time.Sleep(time.Minute)
		ca.inTurn(t, "forward, with the issuer away", hosts)
		ca.fail(nil)
		moved.Add(-int64(100 * day))
		time.Sleep(clockCheck + lineUp + 2*hosts/atOnce*time.Second)
		ca.inTurn(t, "back", hosts)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTurnsAreFewAndNoneIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		for range atOnce {
			if !turns.take(t.Context(), time.Time{}) {
				t.Fatal("no turn")
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if turns.take(ctx, time.Time{}) {
			t.Error("one turn too many")
		}
		for range atOnce {
			turns.give()
		}
		for range atOnce { // that of the one who gave up is there for others
			if !turns.take(t.Context(), time.Time{}) {
				t.Fatal("a turn was lost")
			}
		}
		if len(turns.queue) != 0 {
			t.Errorf("%d still wait", len(turns.queue))
		}
	})
}

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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

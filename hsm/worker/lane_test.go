package worker

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What runs alone in the module waits for the signatures that are made in C, and
// lets no more begin.
func TestWhatRunsAloneWaitsForLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExclusion()
		before := x.epoch().Load()
		x.inside().Add(1)
		var alone atomic.Bool
		go func() {
			x.Lock()
			alone.Store(true)
		}()
		time.Sleep(time.Second)
		if alone.Load() {
			t.Error("does not wait for a signature")
		}
		if x.epoch().Load() == before {
			t.Error("another signature could begin")
		}
		x.inside().Add(^uint64(0))
		time.Sleep(time.Second)
		if !alone.Load() {
			t.Fatal("waits for ever")
		}
		x.Unlock()
		if now := x.epoch().Load(); now%2 != 0 || now == before {
			t.Errorf("epoch %d after %d: a key that was destroyed would be used", now, before)
		}
	})
}

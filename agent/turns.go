package agent

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turns lets a few rotators of one issuer work at the same time, those first
// whose certificates end first. After a sleep of the host all are due at once,
// and the one that is about to end must not stand behind the rest.
type turns struct {
	mu    sync.Mutex
	free  int       // guarded by mu
	held  bool      // guarded by mu: nobody goes, all line up
	queue []*waiter // guarded by mu; the most urgent first
}

// A waiter waits for its turn; go is closed when it has it.
type waiter struct {
	until time.Time // of its certificate; zero, which has none, goes first
	turn  chan struct{}
}

// atOnce is how many rotators of one issuer work at the same time.
const atOnce = 4

func newTurns() *turns { return &turns{free: atOnce} }

// take waits for a turn, and reports false if ctx ended first.
func (t *turns) take(ctx context.Context, until time.Time) bool {
	if t == nil {
		return ctx.Err() == nil
	}
	w := &waiter{until, make(chan struct{})}
	t.mu.Lock()
	at, _ := slices.BinarySearchFunc(t.queue, w, func(a, b *waiter) int {
		if a.until.Compare(b.until) <= 0 {
			return -1 // those who came before go before
		}
		return 1
	})
	t.queue = slices.Insert(t.queue, at, w)
	t.admit()
	t.mu.Unlock()
	select {
	case <-w.turn:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.queue, w); i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
	} else {
		t.free++ // the turn came in the same moment
		t.admit()
	}
	return false
}

// give ends a turn.
func (t *turns) give() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	t.admit()
}

// hold keeps all turns back, so that those who want one can line up.
func (t *turns) hold(held bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = held
	t.admit()
}

// admit gives out what turns there are. t.mu is held.
func (t *turns) admit() {
	for !t.held && t.free > 0 && len(t.queue) > 0 {
		close(t.queue[0].turn)
		t.queue = t.queue[1:]
		t.free--
	}
}

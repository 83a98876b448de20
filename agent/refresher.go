package agent

import (
	"container/heap"
	"context"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// A refresher keeps all secrets as fresh as they can be. One goroutine looks
// what is due; each fetch has its own, so that one slow item delays no other.
type refresher struct {
	host     string
	sealer   *sealer
	save     func(name string, blob []byte) error
	remove   func(name string) error // what was saved, if anything
	publish  func(*sinks.Secret)
	withdraw func(name string, code upstream.Code, text string)
	emit     func(event)
	settled  func() // the last of many fetches has ended; may be nil
	log      *slog.Logger
	now      func() time.Time // of the wall clock

	mu     sync.Mutex
	clocks clocks                 // guarded by mu
	moved  time.Duration          // guarded by mu: by how much the wall clock was set in all
	items  map[string]*secretItem // the map itself never changes after start
	queue  dueQueue               // guarded by mu
	wake   chan struct{}          // the head of queue has changed

	unsaved map[string]bool // guarded by mu: what the store does not have as it is held
	orphans []string        // guarded by mu: what the store has and nobody configures
	loaded  time.Duration   // by the steady clock; does not change after load
	saveAt  time.Duration   // guarded by mu: by the steady clock, not before this
	saving  bool            // guarded by mu
	savers  sync.WaitGroup
	ahead   atomic.Bool // an entry claims to be fetched in the future
}

// A secretItem is one secret and what is known of it.
type secretItem struct {
	name  string
	of    binding // of its sealed entry
	spec  secretSpec
	share float64
	fetch func(context.Context) (upstream.Secret, error)
	lane  *lane // bounds the fetches under way per upstream
	// after is closed when there is any use in fetching, such as when the
	// identity for it is enrolled; nil is at once.
	after <-chan struct{}

	// guarded by refresher.mu
	held   *held
	due    time.Time
	index  int     // in the queue; -1 while a fetch is under way or waits for its turn
	flight *flight // the fetch under way or waiting, if any
	refuse bucket  // for reports that a value did not work
}

// load takes up what is known of the secrets from before and publishes what is
// still good, as many at once as there are processors: the first answers wait for
// it. blobs are the sealed entries of the store.
func (r *refresher) load(blobs map[string][]byte) {
	items := slices.Collect(maps.Values(r.items))
	r.recallAll(items, blobs)
	inParts(items, func(part []*secretItem) {
		for _, it := range part {
			if h, _ := r.snapshot(it.name); !h.FetchedAt.IsZero() {
				r.publishHeld(it) // not under mu: a file can take as long as its disk likes
			}
		}
	})
}

// recallAll takes up what is known of all secrets from before.
func (r *refresher) recallAll(items []*secretItem, blobs map[string][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.look()
	r.loaded, r.unsaved = r.clocks.at, map[string]bool{}
	for name := range blobs {
		if r.items[name] == nil {
			r.orphans = append(r.orphans, name)
		}
	}
	inParts(items, func(part []*secretItem) {
		var buf []byte // for one after the other
		for _, it := range part {
			buf = r.recall(it, blobs[it.name], now, buf)
		}
	})
	for _, it := range items {
		heap.Push(&r.queue, it)
		if r.ahead.Load() && !it.held.FetchedAt.IsZero() {
			r.unsaved[it.name] = true // or it would become just stale at each start
		}
	}
}

// inParts does something with parts of the items, as many at once as there are
// processors.
func inParts(items []*secretItem, do func([]*secretItem)) {
	var wg sync.WaitGroup
	for part := range slices.Chunk(items, len(items)/runtime.GOMAXPROCS(0)+1) {
		wg.Go(func() { do(part) })
	}
	wg.Wait()
}

// recall takes up what is known of one secret from before; blob is nil if there is
// nothing. It opens it in buf, which it returns for the next.
func (r *refresher) recall(it *secretItem, blob []byte, now time.Time, buf []byte) []byte {
	if blob != nil {
		var h *held
		var err error
		if h, buf, err = unseal(r.sealer, it.name, it.of, blob, buf); err != nil {
			r.log.Error("cached secret not used; it will be fetched anew", "secret", it.name, "err", err)
		} else {
			if h.FetchedAt.After(now) {
				h = h.justStale(now, it.spec.ttl(h.TTL))
				r.ahead.Store(true)
			}
			it.held = it.spec.bound(h)
		}
	}
	if it.held == nil {
		it.held = &held{Secret: sinks.Secret{Name: it.name}}
	}
	it.due = it.spec.due(it.held, it.share)
	if it.after != nil && it.held.FetchedAt.IsZero() {
		it.due = now.Add(waitForOperator) // hurry brings it forward
	}
	return buf
}

// hurry fetches now what an upstream has not given for want of an access token
// or an identity, and with all whatever has failed. What an upstream asked to
// be left alone with waits until then.
func (r *refresher) hurry(upstream string, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.look()
	for _, it := range r.items {
		if it.spec.Upstream != upstream || it.held == nil || it.index < 0 {
			continue
		}
		f := it.held.failures()
		wanted := wantsToken(f.Last) || f.Count == 0 && it.held.FetchedAt.IsZero()
		if !wanted && !(all && f.Count > 0) {
			continue
		}
		if at := later(now, f.At.Add(holdOff(f.Last))); at.Before(it.due) {
			it.due = at
			heap.Fix(&r.queue, it.index)
		}
	}
	r.nudge()
}

// nudge has run look again at what is due.
func (r *refresher) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run fetches what is due until ctx is done.
func (r *refresher) run(ctx context.Context) error {
	for {
		r.mu.Lock()
		now := r.look()
		for len(r.queue) > 0 && !now.Before(r.queue[0].due) {
			r.start(ctx, r.queue[0])
		}
		r.saveDue(ctx)
		// Timers stand still while the host is suspended, and know nothing of a
		// clock that was set, so nothing is waited for longer than this.
		wait := clockCheck
		if len(r.queue) > 0 {
			wait = min(wait, r.queue[0].due.Sub(now))
		}
		r.mu.Unlock()

		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			r.settle()
			r.saveLast()
			return nil
		case <-r.wake:
			t.Stop()
		case <-t.C:
		}
	}
}

// look is the time on the wall. If the clock there was set since the last look,
// everything that was reckoned by it has been restated. The caller holds mu.
func (r *refresher) look() time.Time {
	now := r.now()
	if d := r.clocks.jump(now); d != 0 {
		r.log.Warn("the clock was set; everything is planned anew", "by", d)
		r.shift(d)
	}
	return now
}

// shift restates all times that were read from the wall clock after it was set
// by d: a value is as old as it was before. When it rotates is the upstream's to
// say and stays. The caller holds mu.
func (r *refresher) shift(d time.Duration) {
	r.moved += d
	for _, it := range r.items {
		if it.held == nil {
			return // nothing is loaded yet
		}
		it.held = it.spec.bound(it.held.shifted(d))
		if !it.held.FetchedAt.IsZero() {
			r.publish(&it.held.Secret)
			r.unsaved[it.name] = true
		}
		if it.index >= 0 {
			it.due = it.spec.due(it.held, it.share)
		}
	}
	heap.Init(&r.queue)
}

// settle waits until no fetch is under way.
func (r *refresher) settle() {
	for _, it := range r.items {
		r.mu.Lock()
		f := it.flight
		r.mu.Unlock()
		if f != nil {
			<-f.done
		}
	}
}

// snapshot is what is known of a secret now, and when it is fetched next.
func (r *refresher) snapshot(name string) (*held, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it := r.items[name]
	return it.held, it.due
}

// A dueQueue is a heap of items by when they are due.
type dueQueue []*secretItem

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for container/heap.
func (q *dueQueue) Push(x any) {
	it := x.(*secretItem)
	it.index = len(*q)
	*q = append(*q, it)
}

// Pop is for container/heap.
func (q *dueQueue) Pop() any {
	old := *q
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	it.index = -1
	return it
}

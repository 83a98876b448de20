package agent

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// A flight is a fetch under way, which everybody who needs it waits for.
type flight struct {
	done chan struct{}
	err  error // valid when done is closed
}

// maxFetches is how many fetches from one upstream are under way at once.
const maxFetches = 8

// A lane is the fetches from one upstream. It is guarded by refresher.mu.
type lane struct {
	busy    int
	waiting []*secretItem // for their turn, with a flight that has not begun
	waited  int           // how many have since the lane was empty
}

// manyFetches leave much garbage.
const manyFetches = 1000

// next is the item whose turn it is when a fetch has ended.
func (l *lane) next() (it *secretItem, ok bool) {
	if len(l.waiting) == 0 {
		l.busy--
		return nil, false
	}
	it, l.waiting = l.waiting[0], l.waiting[1:]
	l.waited++
	return it, true
}

// start begins a fetch of it, or returns the one under way. The caller holds mu.
func (r *refresher) start(ctx context.Context, it *secretItem) *flight {
	if it.flight != nil {
		return it.flight
	}
	if it.index >= 0 {
		heap.Remove(&r.queue, it.index)
	}
	it.flight = &flight{done: make(chan struct{})}
	if it.lane.busy < maxFetches {
		it.lane.busy++
		go r.fly(ctx, it, it.flight)
	} else {
		it.lane.waiting = append(it.lane.waiting, it)
	}
	return it.flight
}

// urge has a reader's item fetched before those that nobody waits for. The
// caller holds mu.
func (r *refresher) urge(it *secretItem) {
	if i := slices.Index(it.lane.waiting, it); i > 0 {
		it.lane.waiting = slices.Insert(slices.Delete(it.lane.waiting, i, i+1), 0, it)
	}
}

// fly makes one fetch and takes up its answer.
func (r *refresher) fly(ctx context.Context, it *secretItem, f *flight) {
	defer close(f.done)
	asked := r.clocks.steady() // a value is true from when it was asked for, not from when it arrived
	answer, err := it.fetch(ctx)
	r.mu.Lock()
	if next, ok := it.lane.next(); ok {
		go r.fly(ctx, next, next.flight)
	} else if it.lane.busy == 0 {
		if it.lane.waited > manyFetches && r.settled != nil {
			go r.settled()
		}
		it.lane.waited = 0
	}
	r.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		f.err = fmt.Errorf("secret %q: the agent is stopping", it.name)
		r.mu.Lock()
		it.flight = nil
		r.mu.Unlock()
		return
	}
	if err == nil {
		err = r.accept(it, answer, asked)
	}
	if err != nil {
		r.refusedBy(it, err)
	}
	f.err = err

	r.mu.Lock()
	it.flight = nil
	it.due = it.spec.due(it.held, it.share)
	heap.Push(&r.queue, it)
	r.mu.Unlock()
	r.nudge()
}

// accept takes up an answer: sealed, saved, and only then published. A disk that
// is full keeps nobody from a value that is there.
func (r *refresher) accept(it *secretItem, a upstream.Secret, asked time.Duration) error {
	if err := wholesome(a); err != nil {
		return &upstream.Error{Upstream: it.spec.Upstream, Op: "read secret", Item: it.name, Code: upstream.Unavailable, Err: err}
	}
	r.mu.Lock()
	now, before, moved := r.look(), it.held, r.moved
	at := now.Add(asked - r.clocks.at)
	r.mu.Unlock()
	h, changed := before.answered(a, at)
	blob, h := h.seal(r.sealer, it.of)
	for _, v := range a.Fields {
		v.Wipe()
	}
	err := r.save(it.name, blob)
	r.mu.Lock()
	r.wrote(it, err)
	if r.moved != moved {
		r.unsaved[it.name] = true // as of the new time
	}
	r.forget()
	h = it.spec.bound(h.shifted(r.moved - moved))
	it.held = h
	r.mu.Unlock()
	r.publishHeld(it)
	if changed {
		r.emit(event{Type: eventSecretChanged, Name: it.name, At: now})
		attrs := []any{"secret", it.name, "version", h.Version}
		if !h.RotatesAt.IsZero() {
			attrs = append(attrs, "rotates_at", h.RotatesAt)
		}
		r.log.Info("secret changed", attrs...)
	}
	if n := before.failures().Count; n > 0 {
		r.log.Info("secret is fetched again", "secret", it.name, "after_tries", n)
	}
	return nil
}

// wholesome refuses an answer that would deliver nothing (failures T29, T59).
func wholesome(a upstream.Secret) error {
	whole := false
	for _, v := range a.Fields {
		v.Use(func(b []byte) { whole = whole || len(b) > 0 })
	}
	if whole {
		return nil
	}
	return errors.New("the upstream sent an empty value")
}

// refusedBy takes up a failure. A definite refusal purges the value at once.
func (r *refresher) refusedBy(it *secretItem, err error) {
	r.mu.Lock()
	now, before := r.look(), it.held
	was := before.failures()
	h := before.failed(err, now, fetchBackoff(was.Count+1, err))
	it.held = h
	r.mu.Unlock()
	is := h.failures()
	attrs := []any{"secret", it.name, "err", err, "tries", is.Count, "retry_at", is.RetryAt}
	if hint := hintOf(err); hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	r.log.Warn("secret not fetched", attrs...)
	r.emit(event{Type: eventFetchFailed, Name: it.name, Error: err.Error(), Code: upstream.CodeOf(err), At: now})
	if is.Gone == "" {
		return
	}
	if !before.FetchedAt.IsZero() || was.Gone != is.Gone {
		r.withdraw(it.name, is.Gone, err.Error())
		r.emit(event{Type: eventSecretWithdrawn, Name: it.name, Error: err.Error(), Code: is.Gone, At: now})
		err := r.remove(it.name)
		r.mu.Lock()
		r.wrote(it, err) // which sees to it that a start does not bring the value back
		r.mu.Unlock()
	}
}

// publishHeld publishes what is held of it. The clock can be set meanwhile, and
// then the last word must not be the one from before.
func (r *refresher) publishHeld(it *secretItem) {
	for published := (*held)(nil); ; {
		r.mu.Lock()
		h := it.held
		r.mu.Unlock()
		if h == published {
			return
		}
		r.publish(&h.Secret)
		published = h
	}
}

// fetchBackoff is the time to wait after n failures in a row: from a second,
// doubling up to a minute (five where the upstream said no), and a random half
// of that, never nothing.
func fetchBackoff(n int, err error) time.Duration {
	limit := time.Minute
	if definite(err) {
		limit = 5 * time.Minute
	}
	wait := min(time.Second<<min(n-1, 9), limit)
	wait = wait/2 + rand.N(wait/2) + 1
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		wait = max(wait, e.RetryAfter)
	}
	return wait
}

// join waits for a usable value of the secret: at once if there is one, else by
// the fetch under way, beginning one unless the last one failed just now.
//
// A fetch that was asked just before a rotation can bring the value that the
// rotation ends; then the next one is waited for too.
func (r *refresher) join(ctx context.Context, fly context.Context, name string) error {
	it, ok := r.items[name]
	if !ok {
		return &refusal{"not-found", fmt.Sprintf("secret %q is not configured", name)}
	}
	for {
		r.mu.Lock()
		now, h := r.look(), it.held
		if !h.FetchedAt.IsZero() && !h.Expired(now) {
			r.mu.Unlock()
			return nil
		}
		if f := h.failures(); it.flight == nil && f.Count > 0 && now.Before(f.RetryAt) {
			r.mu.Unlock()
			return f.Last
		}
		f := r.start(fly, it)
		r.urge(it)
		r.mu.Unlock()
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
}

// refused takes the report that a version did not work: if it is still the one
// that is held, the upstream is asked again, within the limits of the bucket.
func (r *refresher) refused(ctx context.Context, fly context.Context, name, version string) error {
	it, ok := r.items[name]
	if !ok {
		return &refusal{"not-found", fmt.Sprintf("secret %q is not configured", name)}
	}
	r.mu.Lock()
	now, failed := r.look(), it.held.failures()
	early := now.Before(failed.At.Add(holdOff(failed.Last))) // the upstream wants to be left alone
	if it.held.Version != version || it.flight == nil && (early || !it.refuse.take(r.clocks.at)) {
		r.mu.Unlock()
		return nil
	}
	f := r.start(fly, it)
	r.urge(it)
	r.mu.Unlock()
	return f.wait(ctx)
}

func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A bucket lets three through at once and then one in five seconds. Its zero
// value is full.
type bucket struct {
	used float64
	at   time.Duration // since boot
}

func (b *bucket) take(now time.Duration) bool {
	b.used = max(0, b.used-(now-b.at).Seconds()/5)
	b.at = now
	if b.used > 2 {
		return false
	}
	b.used++
	return true
}

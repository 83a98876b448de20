package consumers

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"
)

// A consumer is a Consumer with what is due for it.
type consumer struct {
	Consumer
	cs   *Consumers
	wake chan struct{} // something became due
	gate gate

	earlier record   // what an earlier run has left
	shown   [][]byte // owned by run: the leaves of the last proof; nil if another certificate may be served

	mu         sync.Mutex
	rec        record              // guarded by mu: as it is on disk
	left       []string            // guarded by mu: targets that a failed try, or an earlier run, has left to do
	noted      map[string]bool     // guarded by mu: targets about to change
	unwritten  map[string]bool     // guarded by mu: targets that were about to, and could not
	changed    map[string]bool     // guarded by mu: changed targets; true if not only repaired
	delivered  map[string]delivery // guarded by mu: what was last written to a target
	rolledBack map[string]bool     // guarded by mu
	tries      map[string]int64    // guarded by mu: the generations that the try is about
	untaken    map[string]int64    // guarded by mu: from which generation on what is in a target was not taken up; none is all was
	busy       bool                // guarded by mu: a try is under way, or it is not known yet what an earlier run has left
	first      time.Time           // guarded by mu: when changed began to fill
	last       time.Time           // guarded by mu: when it last did
	tried      time.Time           // guarded by mu: when the last try ended
	postponed  time.Time           // guarded by mu: until when there is nothing to try
}

// A delivery is what is in a target.
type delivery struct {
	generation int64
	leaves     [][]byte
}

const (
	// quiet is how long nothing must change for a burst to be over.
	quiet = 100 * time.Millisecond
	// longestBurst is how long a burst can keep a reload waiting.
	longestBurst = 10 * time.Second
	// repairSpacing keeps a consumer whose files somebody else changes again and
	// again from being reloaded each time.
	repairSpacing = time.Minute
)

// hold takes up what an earlier run has rolled back: it stays so until it is tried
// again. That is at once if the consumer is told in another way by now.
func (c *consumer) hold() {
	for _, t := range c.paths() {
		wanted, back := c.rec.RolledBack[t]
		if !back {
			continue
		}
		if err := c.cs.cfg.Files.Hold(t, wanted); err != nil {
			c.cs.cfg.Log.Warn("what was rolled back may be written again", "consumer", c.Name, "err", err)
			continue
		}
		c.rolledBack[t] = true
	}
	if c.rec.As != c.how() {
		c.rec.RetryAt = time.Time{}
	}
}

// note writes down that targets are about to change.
func (c *consumer) note(changes []Change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	untaken := maps.Clone(c.untaken)
	for _, ch := range changes {
		from, already := untaken[ch.Target]
		if !ch.Repaired && (!already || ch.Generation < from) { // what is repaired is what was there; a clock may have been set back
			untaken[ch.Target] = ch.Generation
		}
	}
	rec, dirty := c.rec.with(changes, time.Now())
	rec, more := rec.withUntaken(untaken)
	if dirty || more {
		if rec.Many {
			rec.Of = c.paths()
		}
		if err := c.save(rec); err != nil {
			return err
		}
	}
	c.untaken = untaken
	for _, ch := range changes {
		c.noted[ch.Target] = true
		delete(c.unwritten, ch.Target)
	}
	return nil
}

// takenUp reports whether a generation of a target was taken up, or whatever else
// was there before the agent came.
func (c *consumer) takenUp(target string, generation int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, untaken := c.untaken[target]
	return !untaken || generation < from
}

// takeUp takes note of what was taken up. Of a target that something newer is about to
// be written to it is what is there. Called with mu held.
func (c *consumer) takeUp(targets []string, unfinished map[string]bool) {
	for _, t := range targets {
		_, left := unfinished[t]
		_, anew := c.changed[t]
		_, untaken := c.untaken[t]
		switch {
		case !left:
			delete(c.untaken, t)
		case untaken && !anew && !c.rolledBack[t]:
			c.untaken[t] = max(c.untaken[t], c.delivered[t].generation+1)
		}
	}
}

// forget takes note that a target has no content any more. What is left to do is
// not for it.
func (c *consumer) forget(target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range []map[string]bool{c.noted, c.unwritten, c.changed, c.rolledBack} {
		delete(m, target)
	}
	delete(c.delivered, target)
	delete(c.untaken, target)
	c.left = slices.DeleteFunc(c.left, func(t string) bool { return t == target })
	rec := c.rec.without(target)
	if left := c.unfinished(); len(left) == 0 && len(c.left) == 0 && !c.busy {
		rec = rec.settled(nil)
	}
	rec, _ = rec.withUntaken(c.untaken)
	if !reflect.DeepEqual(rec, c.rec) {
		c.keep(rec)
	}
	c.wakeUp()
}

// unfinished are the targets that a try which succeeds leaves to do. Called with mu
// held.
func (c *consumer) unfinished() map[string]bool {
	all := map[string]bool{}
	for _, m := range []map[string]bool{c.noted, c.changed, c.unwritten, c.rolledBack} { // for those back there were no items
		maps.Copy(all, m)
	}
	return all
}

// giveUp takes note that targets have not changed.
func (c *consumer) giveUp(changes []Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range changes {
		delete(c.noted, ch.Target)
		c.unwritten[ch.Target] = true
	}
	c.wakeUp()
}

// take takes up that targets have changed.
func (c *consumer) take(changes []Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.changed) == 0 {
		c.first = now
	}
	c.last = now
	for _, ch := range changes {
		delete(c.noted, ch.Target)
		delete(c.unwritten, ch.Target)
		if !ch.Repaired { // else it is what was rolled back to
			delete(c.rolledBack, ch.Target)
		}
		c.changed[ch.Target] = c.changed[ch.Target] || !ch.Repaired
		if tried, is := c.tries[ch.Target]; is && ch.Repaired && tried == c.delivered[ch.Target].generation { // it is that again
			c.tries[ch.Target] = ch.Generation
		}
		c.delivered[ch.Target] = delivery{ch.Generation, ch.Leaves}
	}
	c.wakeUp()
}

func (c *consumer) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// save is called with mu held: whoever notes a change waits for the write that
// covers it.
func (c *consumer) save(rec record) error {
	blob, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := c.cs.cfg.Store.SaveRecord(kind, c.Name, blob); err != nil {
		return err
	}
	c.rec = rec
	return nil
}

// due is when the next try is to be made, or the zero time for not before
// something happens. Called with mu held.
func (c *consumer) due() time.Time {
	if len(c.changed) == 0 {
		if len(c.left) > 0 || len(c.rolledBack) > 0 {
			return later(later(c.rec.RetryAt, c.postponed), time.Unix(1, 0))
		}
		return time.Time{}
	}
	at := c.first.Add(longestBurst)
	if over := c.last.Add(quiet); len(c.noted) == 0 && over.Before(at) {
		at = over
	}
	if !c.superseding() {
		at = later(later(at, c.tried.Add(repairSpacing)), later(c.rec.RetryAt, c.postponed))
	}
	return at
}

// superseding reports whether something new was delivered since the last try
// began. Called with mu held.
func (c *consumer) superseding() bool {
	for _, anew := range c.changed {
		if anew {
			return true
		}
	}
	return false
}

func (c *consumer) superseded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.superseding()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// run makes the tries that are due until ctx is done.
func (c *consumer) run(ctx context.Context) {
	known := make(chan struct{})
	go func() { c.recover(); close(known) }() // not waited for at the end: it may hang
	select {
	case <-known:
	case <-ctx.Done():
		return
	}
	for {
		c.mu.Lock()
		at := c.due()
		c.mu.Unlock()
		if wait := time.Until(at); at.IsZero() || wait > 0 {
			var timer <-chan time.Time // of nothing, if nothing is due
			if !at.IsZero() {
				timer = time.After(wait)
			}
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
			case <-timer:
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		c.attempt(ctx)
	}
}

// recover finds what an earlier run has left to do. It looks at the files: a file
// system that hangs keeps the consumers with files there waiting, and nobody else.
func (c *consumer) recover() {
	left, written := c.earlier.recover(c.Consumer, c.cs.cfg.Files.Generation)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.busy = left, false
	for t, d := range written {
		if _, anew := c.delivered[t]; !anew { // while it was looked for
			c.delivered[t] = d
		}
	}
	if c.rec.Pending && len(left)+len(c.rolledBack)+len(c.noted)+len(c.unwritten)+len(c.changed) == 0 {
		c.keep(c.rec.settled(nil)) // a crash kept all of it from being written
	}
}

// begin takes what is to be reloaded now: what changed, and what an earlier try
// left to do.
func (c *consumer) begin() (targets []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	targets = slices.Concat(slices.Collect(maps.Keys(c.changed)), c.left)
	slices.Sort(targets)
	targets = slices.Compact(targets)
	clear(c.changed)
	c.left, c.busy = nil, true
	c.tries = map[string]int64{}
	for _, t := range targets {
		if d, written := c.delivered[t]; written {
			c.tries[t] = d.generation
		}
	}
	return targets
}

// end is the end of what begin began.
func (c *consumer) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
}

// again puts targets back to what is to be reloaded.
func (c *consumer) again(targets []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.changed) == 0 {
		c.first = time.Now()
	}
	for _, t := range targets {
		c.changed[t] = true
	}
}

func (c *consumer) paths() []string {
	out := make([]string, len(c.Targets))
	for i, t := range c.Targets {
		out[i] = t.Path
	}
	return out
}

func (c *consumer) status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{
		Consumer: c.Name, Targets: c.paths(), Pending: c.rec.Pending, Skipped: c.rec.Skipped,
		RolledBack: slices.Sorted(maps.Keys(c.rolledBack)), Failures: c.rec.Failures, Error: c.rec.Error, Hint: c.rec.Hint,
		RetryAt: c.rec.RetryAt, ReloadedAt: c.rec.ReloadedAt, ProvenAt: c.rec.ProvenAt,
	}
}

package consumers

import (
	"context"
	"sync"
	"time"
)

const (
	// longestHold is how long a newer delivery waits for a consumer that reads its
	// files, and the consumer for a delivery under way. Neither a hook that hangs nor
	// a proof that does not come delays a new password for longer.
	longestHold = 2 * time.Second
	// reading is how long after it was told a consumer may be reading where nothing
	// shows that it has: most are told by a signal, and nobody answers.
	reading = 500 * time.Millisecond
)

// A gate keeps apart deliveries to the files of a consumer and its reading them: a
// certificate of one delivery with the key of the next ends Apache. Each side waits
// for the other for longestHold at most; who cannot wait, as a repair, goes round.
type gate struct {
	mu     sync.Mutex
	until  time.Time     // guarded by mu: no delivery enters before
	told   time.Time     // guarded by mu: when it was told last, if nothing shows that it has read since
	inside int           // guarded by mu: deliveries under way
	moved  chan struct{} // guarded by mu: closed when somebody has less to wait for; nil if nobody waits
}

// tryEnter begins a delivery if it has not to wait.
func (g *gate) tryEnter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Until(g.until) > 0 {
		return false
	}
	g.inside++
	return true
}

// enter begins a delivery as soon as it may, and at limit at the latest.
func (g *gate) enter(limit time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.await(context.Background(), func() time.Time {
		if limit.Before(g.until) {
			return limit
		}
		return g.until
	})
	g.inside++
}

// leave ends a delivery.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.move()
}

// shut keeps deliveries out from now on, and waits for those under way.
func (g *gate) shut(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	limit := time.Now().Add(longestHold)
	g.until = limit
	g.await(ctx, func() time.Time {
		if g.inside == 0 {
			return time.Time{}
		}
		return limit
	})
	g.until = time.Now().Add(longestHold)
}

// tell is shut just before the consumer is told.
func (g *gate) tell(ctx context.Context) {
	g.shut(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told = time.Now()
}

// read notes that nobody is reading.
func (g *gate) read() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told = time.Time{}
}

// open lets deliveries in, once the consumer has had its time to read.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = g.told.Add(reading)
	g.move()
}

// await waits until the time that until says, which is asked again whenever
// something has moved, or until ctx is done. Called with mu held, which is not
// held meanwhile.
func (g *gate) await(ctx context.Context, until func() time.Time) {
	for wait := time.Until(until()); wait > 0 && ctx.Err() == nil; wait = time.Until(until()) {
		if g.moved == nil {
			g.moved = make(chan struct{})
		}
		moved := g.moved
		g.mu.Unlock()
		select {
		case <-moved:
		case <-time.After(wait):
		case <-ctx.Done():
		}
		g.mu.Lock()
	}
}

// move has whoever waits look again. Called with mu held.
func (g *gate) move() {
	if g.moved != nil {
		close(g.moved)
		g.moved = nil
	}
}

// InTurn has newer content delivered to targets. Those of consumers that may be
// reading their files come when these have read, or longestHold is over; nobody
// waits for another's consumer. It returns when all are delivered.
func (cs *Consumers) InTurn(targets []string, deliver func(targets []string)) {
	limit := time.Now().Add(longestHold)
	by := map[*consumer][]string{}
	for _, t := range targets {
		by[cs.owner[t]] = append(by[cs.owner[t]], t)
	}
	var now []string // together, as each call waits for the disk
	var entered []*consumer
	var later sync.WaitGroup
	for c, own := range by {
		switch {
		case c == nil: // nobody is told
			now = append(now, own...)
		case c.gate.tryEnter():
			now, entered = append(now, own...), append(entered, c)
		default:
			later.Go(func() {
				c.gate.enter(limit)
				defer c.gate.leave()
				deliver(own)
			})
		}
	}
	if len(now) > 0 {
		deliver(now)
	}
	for _, c := range entered {
		c.gate.leave()
	}
	later.Wait()
}

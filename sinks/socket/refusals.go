package socket

import (
	"sync"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// refusals writes down what callers were not given. Who is refused rarely has a
// line for each time. Of who is refused all the time, those of the same event and
// outcome share a line, which is that of the last and says how many it stands for:
// so that none is missing, and nobody fills the disk by asking in vain.
type refusals struct {
	audit *access.Audit
	log   func(msg string, args ...any)
	limit *access.Limiter // of lines by user

	mu   sync.Mutex
	held map[alike]*access.Entry // guarded by mu: what is not written yet, counted
	tick *time.Timer             // guarded by mu: writes them; nil while there are none
}

// alike are refusals that share a line.
type alike struct {
	uid            uint32
	event, outcome string
}

const (
	// refusalsPerSecond and refusalBurst are how many lines of refusals a user
	// has for itself.
	refusalsPerSecond = 1
	refusalBurst      = 60
	// refusalsHeld is how long refusals are counted before a line tells of them,
	// and maxRefusals how many such lines wait.
	refusalsHeld = 10 * time.Second
	maxRefusals  = 1024
	// maxRefused is how much of a path that was refused is written down.
	maxRefused = 256
)

func newRefusals(audit *access.Audit, log func(msg string, args ...any)) *refusals {
	return &refusals{audit: audit, log: log, held: map[alike]*access.Entry{},
		limit: access.NewLimiter(access.Limit{PerSecond: refusalsPerSecond, Burst: refusalBurst})}
}

// add writes a refusal down, now or within ten seconds. The error is that of a
// line that cannot be written.
func (r *refusals) add(e *access.Entry) error {
	if len(e.Path) > maxRefused {
		e.Path = e.Path[:maxRefused] + "..."
	}
	if _, ok := r.limit.Take(e.Peer.UID, e.Time); ok {
		return r.audit.Append(e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := alike{e.Peer.UID, e.Event, e.Outcome}
	last, known := r.held[key]
	if !known && len(r.held) >= maxRefusals {
		if r.write(); len(r.held) > 0 { // all users share what there is room for
			key.uid = 1<<32 - 1
			last, known = r.held[key]
		}
	}
	one := *e
	one.Count = 1
	if known {
		one.Count += last.Count
	}
	r.held[key] = &one
	if r.tick == nil {
		r.tick = time.AfterFunc(refusalsHeld, r.flush)
	}
	return nil
}

// flush writes down what has been counted.
func (r *refusals) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write()
}

// write is flush for who holds mu. What cannot be written is counted on.
func (r *refusals) write() {
	if r.tick != nil {
		r.tick.Stop()
		r.tick = nil
	}
	for key, e := range r.held {
		if err := r.audit.Append(e); err != nil {
			r.log("refusals not recorded", "count", e.Count, "event", e.Event, "err", err)
			r.tick = time.AfterFunc(refusalsHeld, r.flush)
			return
		}
		delete(r.held, key)
	}
}

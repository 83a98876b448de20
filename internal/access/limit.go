package access

import (
	"sync"
	"time"
)

// A Limit is a token bucket per user. The zero Limit limits nothing.
type Limit struct {
	PerSecond float64
	Burst     float64 // 0 is twice PerSecond
}

// A Limiter keeps the buckets of a Limit.
type Limiter struct {
	limit   Limit
	mu      sync.Mutex
	buckets map[uint32]bucket // guarded by mu
}

type bucket struct {
	tokens float64
	at     time.Time
}

// NewLimiter starts with full buckets.
func NewLimiter(l Limit) *Limiter {
	if l.Burst == 0 {
		l.Burst = 2 * l.PerSecond
	}
	return &Limiter{limit: l, buckets: map[uint32]bucket{}}
}

// maxBuckets bounds the memory. Beyond it, buckets that are full again, which
// are as good as none, are dropped.
const maxBuckets = 4096

// Take takes a token of the user's bucket, or reports how long it takes until
// there is one.
func (l *Limiter) Take(uid uint32, now time.Time) (wait time.Duration, ok bool) {
	if l == nil || l.limit.PerSecond <= 0 {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[uid]
	if !known {
		if len(l.buckets) >= maxBuckets {
			l.tidy(now)
		}
		b = bucket{l.limit.Burst, now}
	}
	b = b.refilled(l.limit, now)
	if b.tokens < 1 {
		l.buckets[uid] = b
		return time.Duration((1 - b.tokens) / l.limit.PerSecond * float64(time.Second)), false
	}
	b.tokens--
	l.buckets[uid] = b
	return 0, true
}

// refilled does not go back in time when the caller's clock reading is older
// than another's.
func (b bucket) refilled(l Limit, now time.Time) bucket {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(l.Burst, b.tokens+d.Seconds()*l.PerSecond)
		b.at = now
	}
	return b
}

func (l *Limiter) tidy(now time.Time) {
	for uid, b := range l.buckets {
		if b.refilled(l.limit, now).tokens >= l.limit.Burst {
			delete(l.buckets, uid)
		}
	}
}

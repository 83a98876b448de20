package agent

import "time"

// Bounds say how long a fetched value may be served.
type bounds struct {
	FreshUntil  time.Time // served without a mark before this
	UsableUntil time.Time // served at all before this; never after RotatesAt
	RotatesAt   time.Time // zero if the upstream does not say
	exact       bool      // RotatesAt is the announced moment itself, without a margin
}

// margin is the most that a value is taken to end before the upstream says so:
// room for clocks that differ.
const margin = time.Minute

// boundsOf reckons the bounds of a value that an upstream vouched for at
// fetched and says it will change at expires (zero if it does not say). It is
// the one freshness rule: everything that serves a secret follows it.
func boundsOf(fetched, expires time.Time, ttl, maxStale time.Duration) bounds {
	b := bounds{FreshUntil: fetched.Add(ttl), UsableUntil: fetched.Add(max(ttl, maxStale))}
	if expires.IsZero() {
		return b
	}
	b.RotatesAt = rotatesAt(fetched, expires, ttl)
	b.exact = b.RotatesAt.Equal(expires)
	if b.RotatesAt.Before(b.FreshUntil) {
		b.FreshUntil = b.RotatesAt
	}
	if b.RotatesAt.Before(b.UsableUntil) {
		b.UsableUntil = b.RotatesAt
	}
	return b
}

// rotatesAt is the instant up to which a value that is to change at expires is
// trusted when the upstream has vouched for it at fetched.
//
// Ahead of the change it keeps a margin, at most a tenth of the time left, so
// that each look closer to the change trusts it closer to the change. Past the
// change the upstream is late (policies may put the real change off), and what
// it vouches for is trusted for as long again as it is late by half: soon after
// the announced time it is asked often, and after days seldom.
func rotatesAt(fetched, expires time.Time, ttl time.Duration) time.Time {
	if left := expires.Sub(fetched); left > 0 {
		early := min(margin, left/10)
		if left < 5*time.Second {
			early = 0
		}
		return expires.Add(-early)
	}
	late := fetched.Sub(expires)
	return fetched.Add(max(min(late/2, ttl), minPoll))
}

// minPoll is the least time between two looks at a value whose change is due.
const minPoll = 500 * time.Millisecond

// refreshAt is when a value is fetched again although nothing has failed: at
// the announced moment of its change when that is what ends its life, as looking
// earlier would only find the old one; else ahead of the end, at four fifths of
// the fresh life, less up to a tenth so that items do not move in step.
func (b bounds) refreshAt(fetched time.Time, share float64) time.Time {
	if b.exact && b.FreshUntil.Equal(b.RotatesAt) {
		return b.RotatesAt
	}
	life := b.FreshUntil.Sub(fetched)
	return fetched.Add(life*4/5 - time.Duration(share*float64(life/10)))
}

package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A keptSecret is the copy of a secret in this process.
type keptSecret struct {
	name string
	now  atomic.Pointer[Secret] // what is served; nil when there is nothing

	mu    sync.Mutex
	last  *keptState  // guarded by mu; nil when the agent has taken it back
	timer *time.Timer // guarded by mu; moves now when time changes what is served
}

// A keptState is one answer of the agent, with what time makes of it.
type keptState struct {
	fresh, stale *Secret // the same, without and with the mark
	until        time.Time
}

// lookAtClock is how often a copy is held against the wall clock, which a host
// that was suspended or set right has moved unseen by timers. Reads do not look:
// that alone would take longer than all the rest of them.
const lookAtClock = time.Second

// Secret returns a secret as it is now. The first call asks the agent; from
// then on the Client follows the secret in the background, and a call costs
// some nanoseconds, whether the agent is there or not, for as long as the agent
// allowed the value to be used.
func (c *Client) Secret(ctx context.Context, name string) (*Secret, error) {
	if k, ok := c.kept.Load(name); ok {
		if s := k.(*keptSecret).now.Load(); s != nil {
			return s, nil
		}
	}
	return c.ask(ctx, name)
}

// ask reads a secret from the agent and keeps it. Calls for the same secret
// share one request, which none of them can cancel for the others.
func (c *Client) ask(ctx context.Context, name string) (*Secret, error) {
	c.start()
	answer := c.flight.DoChan(name, func() (any, error) {
		s, err := c.ReadSecret(c.life, name)
		if err != nil {
			if k, ok := c.kept.Load(name); ok && definite(err) {
				k.(*keptSecret).drop()
			}
			return nil, err
		}
		// A secret that was never there is not followed: its name may be wrong.
		v, known := c.kept.LoadOrStore(name, &keptSecret{name: name})
		k := v.(*keptSecret)
		k.learn(s)
		if !known {
			c.background(func(ctx context.Context) { k.follow(ctx, c) })
		}
		return s, nil
	})
	select {
	case r := <-answer:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Secret), nil
	case <-ctx.Done():
		return nil, c.unreached(ctx, whatSecret(name), ctx.Err())
	}
}

// at is the secret as it may be used at now, or nil, and how long that holds.
func (st *keptState) at(now time.Time) (*Secret, time.Duration) {
	switch {
	case st == nil || !now.Before(st.until):
		return nil, 0
	case now.Before(st.fresh.FreshUntil) && st.fresh.FreshUntil.Before(st.until):
		return st.fresh, st.fresh.FreshUntil.Sub(now)
	case now.Before(st.fresh.FreshUntil):
		return st.fresh, st.until.Sub(now)
	}
	return st.stale, st.until.Sub(now)
}

// learn takes over an answer of the agent. Should answers have overtaken each
// other, the next poll, which names the version learned, puts it right at once.
func (k *keptSecret) learn(s *Secret) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = stateOf(s)
	k.age()
}

// stateOf works out how long an answer may be used.
func stateOf(s *Secret) *keptState {
	stale := *s
	stale.Stale = true
	until := s.FreshUntil
	if !s.UsableUntil.IsZero() {
		until = s.UsableUntil
	}
	if !s.RotatesAt.IsZero() && s.RotatesAt.Before(until) {
		until = s.RotatesAt
	}
	return &keptState{fresh: s, stale: &stale, until: until}
}

// age serves what may be served now, and comes back when that changes. The
// caller holds mu.
func (k *keptSecret) age() {
	if k.timer != nil {
		k.timer.Stop()
	}
	s, holds := k.last.at(time.Now())
	k.now.Store(s)
	if s != nil {
		k.timer = time.AfterFunc(min(holds, lookAtClock), func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.age()
		})
	}
}

// drop ends the service of the copy, as the agent takes it back.
func (k *keptSecret) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = nil
	k.age()
}

// known is the version that the agent gave last, and until when it is fresh.
func (k *keptSecret) known() (version string, fresh time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		return "", time.Time{}
	}
	return k.last.fresh.Version, k.last.fresh.FreshUntil
}

// follow keeps the copy right until ctx is done.
func (k *keptSecret) follow(ctx context.Context, c *Client) {
	defer k.drop()
	var back backOff
	for ctx.Err() == nil {
		version, fresh := k.known()
		// The answer comes when the version changes or the wait is over; the
		// dates of an unchanged version are wanted when the old ones end.
		wait := min(max(time.Until(fresh), hasty), pollWait)
		asked := time.Now()
		s, err := c.poll(ctx, k.name, version, wait)
		if s == nil && err == nil {
			s, err = c.ReadSecret(ctx, k.name)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			k.learn(s)
			if s.Version != version || time.Since(asked) >= wait/2 {
				back.reset()
				continue
			}
		case definite(err):
			k.drop()
		}
		if !back.wait(ctx, err) {
			return
		}
	}
}

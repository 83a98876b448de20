package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A keptSecret is the copy of a secret in this process.
type keptSecret struct {
	c    *Client
	name string
	now  atomic.Pointer[Secret] // what is served; nil when there is nothing

	mu      sync.Mutex
	last    *keptState  // guarded by mu; nil when the agent has taken it back
	changes int         // guarded by mu; how often the version of last was another
	due     time.Time   // guarded by mu; when the agent is asked for newer dates
	timer   *time.Timer // guarded by mu; moves now when time changes what is served
	ended   bool        // guarded by mu; it is followed no more
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

// staleAsk is how often a copy that is stale is asked about. A poll tells at once
// of another version, but not that the one of before is fresh again.
const staleAsk = time.Minute

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
		for {
			s, overtaken, err := c.fill(name)
			if !overtaken {
				return s, err
			}
		}
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

// fill reads a secret once. Another answer may have overtaken this one.
func (c *Client) fill(name string) (s *Secret, overtaken bool, err error) {
	k, changes := c.keptAs(name)
	s, err = c.ReadSecret(c.life, name)
	if err != nil {
		if k != nil && definite(err) {
			k.drop()
		}
		return nil, false, err
	}
	// A secret that was never there is not followed: its name may be wrong.
	v, known := c.kept.LoadOrStore(name, &keptSecret{c: c, name: name})
	k = v.(*keptSecret)
	if !k.learn(s, changes) {
		return nil, true, nil
	}
	if !known {
		c.background(k.follow)
	}
	return s, false, nil
}

// keptAs is the copy of a secret, nil if there is none, and what learn wants to
// know of an answer that is asked for now.
func (c *Client) keptAs(name string) (k *keptSecret, changes int) {
	v, ok := c.kept.Load(name)
	if !ok {
		return nil, 0
	}
	k = v.(*keptSecret)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k, k.changes
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

// learn takes over an answer of the agent. If the version has become another
// since it was asked for, and not that of the answer, nobody can say which of
// the two is newer: it is not taken, and the agent has to be asked again.
func (k *keptSecret) learn(s *Secret, changes int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	another := k.last == nil || k.last.fresh.Version != s.Version
	switch {
	case k.ended:
		return true
	case another && changes != k.changes:
		return false
	case another:
		k.changes++
	}
	k.last = stateOf(s)
	k.due = k.last.ask(time.Now())
	k.age()
	return true
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

// ask is when to ask for newer dates, after now: at nine tenths of the fresh life,
// when a healthy agent has them; if need be twice more, each time in the middle of
// what is left, and at its end; and then now and again.
func (st *keptState) ask(now time.Time) time.Time {
	end := st.fresh.FreshUntil
	tenth := end.Sub(st.fresh.FetchedAt) / 10
	for _, ahead := range []time.Duration{tenth, tenth / 2, tenth / 4, 0} {
		if at := end.Add(-ahead); at.After(now) {
			return at
		}
	}
	return now.Add(staleAsk)
}

// age serves what may be served now, asks for newer dates when that is due, and
// comes back when either changes. The caller holds mu.
func (k *keptSecret) age() {
	if k.timer != nil {
		k.timer.Stop()
	}
	now := time.Now()
	s, holds := k.last.at(now)
	k.now.Store(s)
	if s == nil {
		return // whoever needs it asks
	}
	if !now.Before(k.due) {
		k.due = k.last.ask(now)
		k.c.background(func(ctx context.Context) {
			_, _ = k.c.ask(ctx, k.name) // what goes wrong leaves the copy as it is, or drops it
		})
	}
	k.timer = time.AfterFunc(min(holds, k.due.Sub(now), lookAtClock), func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.age()
	})
}

// drop ends the service of the copy, as the agent takes it back.
func (k *keptSecret) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.clear()
}

// end is drop for good.
func (k *keptSecret) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.clear()
}

// clear leaves nothing to serve. The caller holds mu.
func (k *keptSecret) clear() {
	if k.last != nil {
		k.last = nil
		k.changes++
	}
	k.age()
}

// known is the version that the agent gave last, and what learn wants to know.
func (k *keptSecret) known() (version string, changes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		return "", k.changes
	}
	return k.last.fresh.Version, k.changes
}

// follow learns of each other version at once, until ctx is done or the agent
// says that the secret is not to be had: who needs it then has to ask, and that
// begins anew.
func (k *keptSecret) follow(ctx context.Context) {
	defer k.c.kept.CompareAndDelete(k.name, k)
	defer k.end()
	var back backOff
	for ctx.Err() == nil {
		version, changes := k.known()
		asked := time.Now()
		s, err := k.c.poll(ctx, k.name, version, pollWait)
		if ctx.Err() != nil || definite(err) {
			return
		}
		if s != nil {
			k.learn(s, changes) // else the next poll names the version learned, and is answered at once
		}
		if err == nil && (s != nil && s.Version != version || time.Since(asked) > hasty) {
			back.reset()
			continue
		}
		if !back.wait(ctx, err) {
			return
		}
	}
}

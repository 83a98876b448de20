package agent

import (
	"context"
	"time"
)

const (
	// clockCheck is how often the clocks are compared, and so how soon after
	// it wakes up a host notices that it was asleep.
	clockCheck = 5 * time.Second
	// lineUp is how long those who have work after a jump have to say so,
	// before the most urgent of them begins.
	lineUp = 200 * time.Millisecond
)

// watchClock has everything planned anew when the wall clock was set, or the
// host was asleep: then the clock that timers run by stood still.
func (a *Agent) watchClock(ctx context.Context) error {
	start := time.Now()
	return a.watchClocks(ctx, clocks{steady: func() time.Duration { return time.Since(start) }})
}

func (a *Agent) watchClocks(ctx context.Context, c clocks) error {
	for c.jump(time.Now()); sleep(ctx, clockCheck); {
		if d := c.jump(time.Now()); d != 0 {
			a.log.Warn("the clock was set or the host was asleep; everything is planned anew", "by", d.Round(time.Second).String())
			a.replan(ctx)
		}
	}
	return nil
}

// replan has every rotator look again at what is due. All line up before the
// most urgent goes.
func (a *Agent) replan(ctx context.Context) {
	for _, s := range a.services {
		s.turns.hold(true)
		defer s.turns.hold(false)
	}
	for _, r := range a.rotators {
		r.poke()
	}
	sleep(ctx, lineUp)
}

package agent

import (
	"context"
	"time"
)

const (
	// clockCheck is how often the clocks are compared, and so how soon after
	// it wakes up a host notices that it was asleep.
	clockCheck = 5 * time.Second
	// clockJump is how far the clocks may drift apart between two checks.
	clockJump = 2 * time.Second
	// lineUp is how long those who have work after a jump have to say so,
	// before the most urgent of them begins.
	lineUp = 200 * time.Millisecond
)

// watchClock has everything planned anew when the wall clock was set, or the
// host was asleep: then the clock that timers run by stood still (failure T07).
func (a *Agent) watchClock(ctx context.Context) error {
	for last := time.Now(); sleep(ctx, clockCheck); {
		now := time.Now()
		jump := now.Round(0).Sub(last.Round(0)) - now.Sub(last)
		last = now
		if jump.Abs() <= clockJump {
			continue
		}
		a.log.Warn("the clock was set or the host was asleep; everything is planned anew", "by", jump.Round(time.Second).String())
		a.replan(ctx)
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

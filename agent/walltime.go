package agent

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clocks tells when the wall clock was moved. What is true for how long is
// written down in wall-clock times, as they survive restarts and suspends; a
// clock that nobody can set says by how much they are off. The boot-time clock
// runs on through a suspend, and so sees only that the wall clock was set; the
// one that timers run by stands still, and so sees suspends too.
type clocks struct {
	steady func() time.Duration // since some fixed moment
	wall   time.Time            // at the last look
	at     time.Duration        // steady at the same moment
}

// setBy is the least that the wall clock has to be moved by to count as moved;
// what is less is a clock being steered.
const setBy = 2 * time.Second

// jump is by how much the wall clock was moved since the last look, forward if
// positive, or 0.
func (c *clocks) jump(now time.Time) time.Duration {
	now, at := now.Round(0), c.steady()
	d := now.Sub(c.wall) - (at - c.at)
	first := c.wall.IsZero()
	c.wall, c.at = now, at
	if first || d.Abs() < setBy {
		return 0
	}
	return d
}

// sinceBoot is the time since the host was started, suspends included.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // the kernel has had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// wallNow is the time without the reading of the monotonic clock that Go adds,
// which stands still while the host is suspended.
func wallNow() time.Time { return time.Now().Round(0) }

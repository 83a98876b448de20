package upstreamtest

import (
	"fmt"
	"sync"
	"time"
)

// A Clock is the wall clock of a simulator. The zero Clock shows the real time;
// once set it goes on from there at the usual speed.
type Clock struct {
	mu     sync.Mutex
	offset time.Duration // guarded by mu
}

// Now is the time that the simulator believes it is.
func (c *Clock) Now() time.Time { return time.Now().Add(c.Offset()) }

// Set makes it t now.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Round(0) drops the monotonic reading, which a set clock has no use for.
	c.offset = t.Sub(time.Now().Round(0))
}

// Advance puts the clock forward by d, or back if d is negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// Offset is how far the clock is ahead of the real time.
func (c *Clock) Offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// SetOffset makes the clock d ahead of the real time.
func (c *Clock) SetOffset(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = d
}

// A Duration is a time.Duration that is written as text in JSON: "90s".
type Duration time.Duration

// MarshalText writes d as time.Duration prints itself.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: want something like 90s or 12h", text)
	}
	*d = Duration(v)
	return nil
}

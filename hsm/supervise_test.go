package hsm

import (
	"testing"
	"time"
)

// TestWorkersAreReplacedEverMoreSlowly holds that workers are started at most once
// a second, and the more of them fail the less often, with jitter; those that
// could open the token wait less, because the next one will do so too.
func TestWorkersAreReplacedEverMoreSlowly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		failures    int
		opened      bool
		least, most time.Duration // from one start to the next
	}{
		{1, true, time.Second, time.Second},
		{2, true, 1500 * time.Millisecond, 2 * time.Second},
		{50, true, 1500 * time.Millisecond, 2 * time.Second},
		{1, false, time.Second, time.Second},
		{2, false, 1500 * time.Millisecond, 2 * time.Second},
		{4, false, 6 * time.Second, 8 * time.Second},
		{50, false, 22500 * time.Millisecond, 30 * time.Second},
	} {
		seen := map[time.Duration]bool{}
		for range 100 {
			wait := restartWait(tt.failures, tt.opened, 0)
			if wait < tt.least || wait > tt.most {
				t.Fatalf("after %d failures, opened %v: %v, want %v to %v", tt.failures, tt.opened, wait, tt.least, tt.most)
			}
			seen[wait] = true
		}
		if tt.least != tt.most && len(seen) < 10 {
			t.Errorf("after %d failures: %d different waits in 100, want jitter", tt.failures, len(seen))
		}
		if wait := restartWait(tt.failures, tt.opened, time.Hour); wait != 0 {
			t.Errorf("an hour after the last start: %v, want none", wait)
		}
	}
}

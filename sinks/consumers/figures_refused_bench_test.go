//go:build bench

package consumers

import "testing"

// TestFiguresKilledAmidRefusals: SIGKILL at 200 random moments of a consumer that takes
// up one delivery in four.
func TestFiguresKilledAmidRefusals(t *testing.T) {
	if n := refusedAndKilled(t, 200); n != 0 {
		t.Errorf("%d times left with what was never taken up", n)
	}
}

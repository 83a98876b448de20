package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"
)

// Pauses that have reached their longest still differ, so that agents which an
// outage has brought into step fall out of it. (T18)
func TestTheLongestPausesDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pauses []time.Duration
		s := NewTokenSource(TokenSourceConfig{Fetch: func(context.Context) (*oauth2.Token, error) { return nil, errors.New("down") }})
		for len(pauses) < 60 {
			_, _ = s.Token(t.Context())
			pauses = append(pauses, time.Until(s.Due()))
			time.Sleep(pauses[len(pauses)-1])
		}
		least, most := pauses[20], pauses[20]
		for _, d := range pauses[20:] {
			least, most = min(least, d), max(most, d)
		}
		if least < time.Second || most > time.Minute || most-least < most/4 {
			t.Errorf("between %v and %v", least, most)
		}
	})
}

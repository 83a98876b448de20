package ciphertrust

import (
	"testing"
	"time"
)

func TestLifetimesAsPropertiesHaveThem(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "10m": 10 * time.Minute, "12h": 12 * time.Hour, "30d": 30 * 24 * time.Hour, "90": 90 * time.Minute, " 5d ": 5 * 24 * time.Hour,
	} {
		if got, ok := parseLifetime(text); !ok || got != want {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"d", "-1d", "1w", "1.5h", "99999999999d"} {
		if got, ok := parseLifetime(text); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// The sentences of `ksctl login`.
func TestSpan(t *testing.T) {
	const day = 24 * time.Hour
	for want, d := range map[string]time.Duration{
		"30 days": 30 * day, "10 days": 10 * day, "10 hours": 10 * time.Hour, "10 days, 10 hours": 10*day + 10*time.Hour,
		"1 day, 1 hour, 1 minute": day + time.Hour + time.Minute, "less than a minute": time.Second,
	} {
		if got := Span(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// No refresh token is asked for without both limits.
func TestBothLimitsAreAlwaysAskedFor(t *testing.T) {
	r := tokenRequest{}.limited(0, 0)
	if r.Lifetime < 1 || r.RevokeUnused < 1 {
		t.Errorf("%+v", r)
	}
}

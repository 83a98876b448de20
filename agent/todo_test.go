package agent

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
)

// In the status an item in trouble says what it waits for, what that means, and
// what to do.
func TestTroubleIsExplained(t *testing.T) {
	end := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	host := newIdentity("host")
	a := &Agent{
		cfg:        &config.Config{Secrets: map[string]config.Secret{"db": {Upstream: "pam"}}},
		opened:     make(chan struct{}),
		identities: map[string]*identity{"host": host},
		services:   map[string]*service{"pam": {name: "pam", identity: host}},
	}
	never := func(want string) {
		t.Helper()
		for _, it := range []Item{{Kind: "secret", Name: "db"}, {Kind: "token", Name: "pam"}} {
			it.State = stateMissing
			if a.explain(&it); it.NextReason != want || it.Hint != "" {
				t.Errorf("%s never there: %q, %q; want %q", it.Kind, it.NextReason, it.Hint, want)
			}
		}
	}
	never("waits for the HSM")
	close(a.opened)
	never(`waits for the first certificate of identity "host"`)
	host.cert.Store(&tls.Certificate{})
	never("")

	for _, tt := range []struct {
		it   Item
		hint string // begins so
	}{
		{Item{Kind: "secret", Name: "db", State: stateFresh}, ""},
		{Item{Kind: "secret", Name: "db", State: stateStale, UsableUntil: end}, `apps get it, marked stale, until 2030-01-01T12:00:00Z; upstream "pam" has to answer before`},
		{Item{Kind: "secret", Name: "db", State: stateExpired}, `apps are refused it until upstream "pam" answers`},
		{Item{Kind: "secret", Name: "db", State: stateMissing, LastError: "denied"}, `apps are refused it until upstream "pam" gives it`},
		{Item{Kind: "identity", Name: "host", State: stateValid}, ""},
		{Item{Kind: "identity", Name: "host", State: stateExpiring, NotAfter: end}, "it has to be renewed before 2030-01-01T12:00:00Z; `signet renew host`"},
		{Item{Kind: "certificate", Name: "web", State: stateExpired}, "nobody accepts it any more; `signet renew web`"},
		{Item{Kind: "consumer", Name: "app.service", State: stateFailed, LastError: `consumer "app.service": reload: exit status 3`}, "its files are in place"},
		{Item{Kind: "file", Name: "/a", State: stateFailed}, ""},
		{Item{Kind: "identity", Name: "host", State: stateExpired, Hint: "enrol it"}, "enrol it"},
	} {
		it := tt.it
		a.explain(&it)
		if !strings.HasPrefix(it.Hint, tt.hint) || tt.hint == "" && it.Hint != "" {
			t.Errorf("%s %s: %q, want %q", it.Kind, it.State, it.Hint, tt.hint)
		}
		if strings.HasPrefix(it.LastError, it.Kind) {
			t.Errorf("%s: the error names it once more: %s", it.Kind, it.LastError)
		}
	}
}

// What is gone already is the end of the runway.
func TestRunway(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	fine := []Item{{Kind: "file", Name: "/a"}, {Kind: "secret", Name: "db", UsableUntil: now.Add(time.Hour)}, {Kind: "identity", Name: "host", NotAfter: now.Add(time.Minute)}}
	for _, tt := range []struct {
		name  string
		items []Item
		want  Runway
	}{
		{"nothing", fine[:1], Runway{}},
		{"what ends first", fine, Runway{60, now.Add(time.Minute), "identity host"}},
		{"expired", append(fine, Item{Kind: "secret", Name: "old", UsableUntil: now.Add(-time.Hour)}), Runway{0, now, "secret old"}},
		{"never there", append(fine, Item{Kind: "certificate", Name: "web"}), Runway{0, now, "certificate web"}},
	} {
		if got := runwayOf(tt.items, now); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

package agent

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/sinks"
)

// newIdle is an agent without an HSM, of which nothing runs; more is its upstreams
// and what follows.
func newIdle(t *testing.T, more string) *Agent {
	t.Helper()
	cfg, err := config.Parse("signet.yaml", []byte(fmt.Sprintf(`
state_dir: %[1]q
runtime_dir: %[1]q
hsm: {module: /nonexistent.so, token: t, worker: /nonexistent, pin: {file: /nonexistent}}
`, t.TempDir())+more))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.audit.Close() })
	return a
}

// In the status an item in trouble says what it waits for, what that means, and
// what to do.
func TestTroubleIsExplained(t *testing.T) {
	a := newIdle(t, `
upstreams:
  vaults: {type: manager, url: "https://localhost", account_id: 1}
  pam: {type: senhasegura, url: "https://localhost", identity: host, auth: {grant: client_credentials, client_id: x, client_secret: {file: /nonexistent}}}
identities: {host: {issuer: vaults, subject: {common_name: host1}}}
secrets: {db: {upstream: pam, credential: x}}
`)
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	check := func(kind, name, state, reason, hint string) { // which begins so
		t.Helper()
		items := a.status(now).Items
		i := slices.IndexFunc(items, func(it Item) bool { return it.Kind == kind && it.Name == name })
		if i < 0 {
			t.Fatalf("no %s %q in the status", kind, name)
		}
		it := items[i]
		if it.State != state || it.NextReason != reason || !strings.HasPrefix(it.Hint, hint) || hint == "" && it.Hint != "" {
			t.Errorf("%s is %s (%q, %q), want %s (%q, %q)", kind, it.State, it.NextReason, it.Hint, state, reason, hint)
		}
		if strings.HasPrefix(it.LastError, kind) {
			t.Errorf("%s: the error names it once more: %s", kind, it.LastError)
		}
	}
	never := func(reason string) {
		t.Helper()
		check("secret", "db", stateMissing, reason, "")
		check("token", "pam", stateMissing, reason, "")
	}
	never("waits for the HSM")
	close(a.opened)
	never(`waits for the first certificate of identity "host"`)
	a.identities["host"].cert.Store(&tls.Certificate{})
	never("")

	hour := func(n time.Duration) time.Time { return now.Add(n * time.Hour) }
	for _, tt := range []struct {
		held        held
		state, hint string
	}{
		{held{Secret: sinks.Secret{FetchedAt: hour(-1), FreshUntil: hour(1), UsableUntil: hour(2)}}, stateFresh, ""},
		{held{Secret: sinks.Secret{FetchedAt: hour(-2), FreshUntil: hour(-1), UsableUntil: hour(1)}}, stateStale,
			`apps get it, marked stale, until 2030-01-01T13:00:00Z; upstream "pam" has to answer before`},
		{held{Secret: sinks.Secret{FetchedAt: hour(-3), FreshUntil: hour(-2), UsableUntil: hour(-1)}}, stateExpired,
			`apps are refused it until upstream "pam" answers`},
		{held{bad: &failures{Count: 1, Last: errors.New(`secret "db": fetch: denied`)}}, stateMissing,
			`apps are refused it until upstream "pam" gives it`},
	} {
		a.refresher.items["db"].held = &tt.held
		check("secret", "db", tt.state, "", tt.hint)
	}
	for _, tt := range []struct {
		received, end time.Time
		state, hint   string
	}{
		{hour(-1), hour(100), stateValid, ""},
		{hour(-100), hour(1), stateExpiring, "it has to be renewed before 2030-01-01T13:00:00Z; `signet renew host`"},
		{hour(-100), hour(-1), stateExpired, "nobody accepts it any more; `signet renew host`"},
	} {
		a.rotators["host"].snap.Store(&snapshot{record: record{Current: version{KeyID: "1", ReceivedAt: tt.received, NotAfter: tt.end}}})
		check("identity", "host", tt.state, "", tt.hint)
	}
	for _, tt := range []struct {
		it   Item
		hint string
	}{
		// Whether it is reloaded for files or for its credentials.
		{Item{Kind: "consumer", Name: "app.service", State: stateFailed, LastError: `consumer "app.service": reload: exit status 3`},
			"it may still work with what it had before; its own log says why; the reload is tried again by itself"},
		{Item{Kind: "file", Name: "/a", State: stateFailed}, ""},
		{Item{Kind: "identity", Name: "host", State: stateExpired, Hint: "enrol it"}, "enrol it"}, // which its part has said
	} {
		if a.explain(&tt.it); tt.it.Hint != tt.hint || strings.HasPrefix(tt.it.LastError, tt.it.Kind) {
			t.Errorf("%s: %q, want %q; %s", tt.it.Kind, tt.it.Hint, tt.hint, tt.it.LastError)
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

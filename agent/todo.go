package agent

import (
	"fmt"
	"strings"
	"time"
)

// explain says of an item in trouble what its error leaves open: what it waits
// for, what the trouble means to apps, and what somebody can do about it.
func (a *Agent) explain(it *Item) {
	from := it.Name // the upstream, of a token
	if it.Kind == "secret" {
		from = a.refresher.items[it.Name].spec.Upstream
	}
	// Errors name their item, for the log. Here it is named already.
	it.LastError = strings.TrimPrefix(it.LastError, fmt.Sprintf("%s %q: ", it.Kind, it.Name))
	if it.State == stateMissing && it.LastError == "" && it.NextReason == "" {
		it.NextReason = a.waitsOn(it.Kind, from)
	}
	if it.Hint == "" {
		it.Hint = todo(it, from)
	}
}

// waitsOn says what an item that was never there waits for, or "".
func (a *Agent) waitsOn(kind, from string) string {
	if kind == "file" || kind == "consumer" {
		return "" // the status of its item says it
	}
	if !a.isOpen() {
		return "waits for the HSM"
	}
	if s := a.services[from]; s != nil && s.identity != nil && s.identity.cert.Load() == nil {
		return fmt.Sprintf("waits for the first certificate of identity %q", s.identity.name)
	}
	return ""
}

// todo says what the trouble of an item means, and what to do about it, or "".
// From is the upstream of a secret.
func todo(it *Item, from string) string {
	switch it.Kind + " " + it.State {
	case "secret " + stateStale:
		return fmt.Sprintf("apps get it, marked stale, until %s; upstream %q has to answer before", instant(it.UsableUntil), from)
	case "secret " + stateExpired:
		return fmt.Sprintf("apps are refused it until upstream %q answers again", from)
	case "secret " + stateMissing:
		if it.LastError != "" {
			return fmt.Sprintf("apps are refused it until upstream %q gives it", from)
		}
	case "identity " + stateExpiring, "certificate " + stateExpiring:
		return fmt.Sprintf("it has to be renewed before %s; `signet renew %s` tries at once", instant(it.NotAfter), it.Name)
	case "identity " + stateExpired, "certificate " + stateExpired:
		return fmt.Sprintf("nobody accepts it any more; `signet renew %s` tries at once", it.Name)
	case "consumer " + stateFailed:
		return "it may still work with what it had before; its own log says why; the reload is tried again by itself"
	}
	return ""
}

// instant is a time for people.
func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }

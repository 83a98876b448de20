package agent

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// The states of items in `signet status`.
const (
	stateFresh   = "fresh"
	stateStale   = "stale"
	stateExpired = "expired"
	stateMissing = "missing" // never there, or purged
	stateValid   = "valid"
	stateWaiting = "waiting" // for somebody to enrol it
	stateStuck   = "stuck"   // until an administrator has done something
)

// Status is the answer of `signet status --json`. Its names are stable.
type Status struct {
	Version   string      `json:"version"` // of the agent
	StartedAt time.Time   `json:"started_at"`
	Ready     bool        `json:"ready"`
	Reason    string      `json:"reason,omitempty"` // why it is not
	HSM       []HSMStatus `json:"hsm"`
	Items     []Item      `json:"items"`
	Runway    Runway      `json:"runway"`
	Notices   []string    `json:"notices,omitempty"` // what an operator should know, such as a damaged state file
}

// HSMStatus is the state of a token.
type HSMStatus struct {
	Name     string `json:"name"`
	Open     bool   `json:"open"`
	Label    string `json:"label,omitempty"`
	Serial   string `json:"serial,omitempty"`
	Module   string `json:"module,omitempty"`
	Restarts int    `json:"restarts"`
	Error    string `json:"error,omitempty"`
}

// Item is the state of one thing that the agent keeps. Fields that say nothing
// of its kind are left out.
type Item struct {
	Kind        string    `json:"kind"` // secret, certificate, identity, token or file
	Name        string    `json:"name"`
	State       string    `json:"state"`
	Version     string    `json:"version,omitempty"`
	Generation  int       `json:"generation,omitempty"` // of the key
	Serial      string    `json:"serial,omitempty"`
	FetchedAt   time.Time `json:"fetched_at,omitzero"`
	FreshUntil  time.Time `json:"fresh_until,omitzero"`
	UsableUntil time.Time `json:"usable_until,omitzero"`
	RotatesAt   time.Time `json:"rotates_at,omitzero"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	NextAction  string    `json:"next_action,omitempty"`
	NextAt      time.Time `json:"next_at,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Failures    int       `json:"failures,omitempty"` // in a row
	RetryAt     time.Time `json:"retry_at,omitzero"`
	// Hint is what a person has to do, if anything.
	Hint string `json:"hint,omitempty"`
}

// Runway is how long everything still works if every upstream stopped now, and
// what breaks first.
type Runway struct {
	Seconds float64   `json:"seconds"`
	Until   time.Time `json:"until,omitzero"`
	First   string    `json:"first,omitempty"` // "secret db"
}

func (a *Agent) status(now time.Time) *Status {
	s := &Status{Version: a.opt.Version, StartedAt: a.started, Ready: true, Notices: a.notices}
	if err := a.ready(now); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(a.tokens)) {
		s.HSM = append(s.HSM, a.hsmStatus(name))
	}
	for _, name := range slices.Sorted(maps.Keys(a.rotators)) {
		s.Items = append(s.Items, a.certificateItem(name, now))
	}
	for _, name := range slices.Sorted(maps.Keys(a.services)) {
		if it, ok := a.services[name].item(); ok {
			s.Items = append(s.Items, it)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Secrets)) {
		s.Items = append(s.Items, a.secretItem(name, now))
	}
	s.Items = append(s.Items, a.fileItems()...)
	s.Runway = runwayOf(s.Items, now)
	return s
}

func (a *Agent) hsmStatus(name string) HSMStatus {
	st := a.tokens[name].Status()
	h := HSMStatus{Name: name, Open: st.Open, Label: st.Label, Serial: st.Serial, Module: st.Module, Restarts: st.Restarts}
	if st.Err != nil {
		h.Error = withHint(st.Err)
	}
	return h
}

func (a *Agent) secretItem(name string, now time.Time) Item {
	h, due := a.refresher.snapshot(name)
	s := Item{Kind: "secret", Name: name, State: stateMissing, NextAction: "fetch", NextAt: due}
	if h == nil {
		return s
	}
	s.Failures, s.LastErrorAt, s.RetryAt = h.Failures, h.ErrorAt, h.RetryAt
	if h.Error != nil {
		s.LastError = withHint(h.Error)
	}
	if h.FetchedAt.IsZero() {
		return s
	}
	b := a.refresher.items[name].spec.bounds(h)
	s.Version, s.FetchedAt, s.FreshUntil, s.UsableUntil, s.RotatesAt = h.Version, h.FetchedAt, b.FreshUntil, b.UsableUntil, b.RotatesAt
	switch {
	case now.Before(b.FreshUntil):
		s.State = stateFresh
	case now.Before(b.UsableUntil):
		s.State = stateStale
	default:
		s.State = stateExpired
	}
	return s
}

func (a *Agent) certificateItem(name string, now time.Time) Item {
	r := a.rotators[name]
	s := Item{Kind: "certificate", Name: name, State: stateMissing}
	if _, ok := a.identities[name]; ok {
		s.Kind = "identity"
	}
	snap := r.snap.Load()
	if snap == nil {
		return s
	}
	s.Generation, s.NotAfter, s.Serial = snap.Current.Generation, snap.Current.NotAfter, serialOf(snap.Current.Chain)
	s.NextAction, s.NextAt = string(snap.Step), snap.At
	s.LastError, s.LastErrorAt, s.Failures, s.RetryAt, s.Hint = snap.Error, snap.ErrorAt, snap.Failures, snap.RetryAt, snap.Lost
	switch cur := snap.Current; {
	case snap.Lost != "" && !now.Before(cur.NotAfter):
		s.State = stateStuck
	case cur.exists() && now.Before(cur.NotAfter):
		s.State = stateValid
	case cur.exists():
		s.State = stateExpired
	case snap.Next.CSR != nil && r.spec.OneTime:
		s.State, s.NextAction = stateWaiting, "enroll"
		s.Hint = fmt.Sprintf("run `signet enroll %s` with the one-time credentials", name)
	}
	if s.NextAction == string(stepWait) {
		s.NextAction = "renew"
		if snap.due().Equal(snap.Current.RotateAt) {
			s.NextAction = "rotate"
		}
		s.NextAt = snap.due()
	}
	return s
}

// runwayOf finds what ends first. What is down already ends now.
func runwayOf(items []Item, now time.Time) Runway {
	var r Runway
	for _, it := range items {
		until := it.UsableUntil
		switch it.Kind {
		case "secret":
		case "identity", "certificate":
			until = it.NotAfter
		default:
			continue // an access token is got again as long as the rest holds, and files stay
		}
		if until = later(until, now); r.First == "" || until.Before(r.Until) {
			r.Until, r.First = until, it.Kind+" "+it.Name
		}
	}
	if r.First != "" {
		r.Seconds = r.Until.Sub(now).Seconds()
	}
	return r
}

// ready says why the host is not ready, or nil: the token is open and every
// identity has a certificate that is not within its last tenth.
func (a *Agent) ready(now time.Time) error {
	for name, t := range a.tokens {
		if st := t.Status(); !st.Open {
			return &refusal{"unavailable", fmt.Sprintf("the token of hsm %q is not open", name)}
		}
	}
	select {
	case <-a.opened:
	default:
		return &refusal{"unavailable", "the data key is not unwrapped yet"}
	}
	for _, name := range slices.Sorted(maps.Keys(a.identities)) {
		snap := a.rotators[name].snap.Load()
		switch {
		case snap == nil || !snap.Current.exists():
			return &refusal{"unavailable", fmt.Sprintf("identity %q has no certificate yet", name)}
		case !now.Before(snap.Current.lastTenth()):
			return &refusal{"unavailable", fmt.Sprintf("the certificate of identity %q ends at %s and could not be renewed", name, snap.Current.NotAfter.Format(time.RFC3339))}
		}
	}
	return nil
}

// lastTenth is when the last tenth of a certificate's life begins.
func (v version) lastTenth() time.Time {
	return v.NotAfter.Add(-v.NotAfter.Sub(v.ReceivedAt) / 10)
}

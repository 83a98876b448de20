package agent

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// The states of items in `signet status`.
const (
	stateFresh   = "fresh"
	stateStale   = "stale"
	stateExpired = "expired"
	stateMissing = "missing" // never there, or purged
	stateValid   = "valid"
	// stateExpiring is valid, with the end near and no replacement yet.
	stateExpiring = "expiring"
	// stateFallback is valid, but older than one that is refused.
	stateFallback = "fallback"
	stateWaiting  = "waiting" // for somebody to enrol it
	stateStuck    = "stuck"   // until an administrator has done something
)

// Status is the answer of `signet status --json`. Its names are stable.
type Status struct {
	Version   string      `json:"version"` // of the agent
	StartedAt time.Time   `json:"started_at"`
	Ready     bool        `json:"ready"`
	Reason    string      `json:"reason,omitempty"` // why it is not
	HSM       []HSMStatus `json:"hsm"`
	Items     []Item      `json:"items"`
	// Upstreams are those that the caller may call through the agent.
	Upstreams []Upstream `json:"upstreams,omitempty"`
	Runway    Runway     `json:"runway"`
	Notices   []string   `json:"notices,omitempty"` // what an operator should know, such as a damaged state file
}

// Upstream is one that is configured.
type Upstream struct {
	Name      string `json:"name"`
	Type      string `json:"type"`
	AccountID int64  `json:"account_id,omitempty"`
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
	Kind        string    `json:"kind"` // secret, certificate, identity, token, file or consumer
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
	// NextReason is why just then, where that needs saying.
	NextReason string `json:"next_reason,omitempty"`
	// Making is how a new version is being asked for: register, renew or rotate.
	Making string `json:"making,omitempty"`
	// Refused is the serial number of a newer certificate that was in use before
	// and is refused by its issuer.
	Refused string `json:"refused,omitempty"`
	// Notice is what the issuer has noticed about it.
	Notice      string    `json:"notice,omitempty"`
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Failures    int       `json:"failures,omitempty"` // in a row
	RetryAt     time.Time `json:"retry_at,omitzero"`
	// ReloadedAt and ProvenAt are when a consumer last took up its files, and
	// was last seen to serve them.
	ReloadedAt time.Time `json:"reloaded_at,omitzero"`
	ProvenAt   time.Time `json:"proven_at,omitzero"`
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
	s := &Status{Version: a.opt.Version, StartedAt: a.started, Ready: true, Notices: append(a.auditNotices(), a.notices...)}
	if err := a.ready(now); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(a.tokens)) {
		s.HSM = append(s.HSM, a.hsmStatus(name))
		if st := a.tokens[name].Status(); st.Open && len(st.Lost)+len(st.Unfit) > 0 { // not all who see it may know their names
			s.Notices = append(s.Notices, fmt.Sprintf("hsm %q: keys that cannot be used: %d; `signet doctor` says which and why", name, len(st.Lost)+len(st.Unfit)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.rotators)) {
		s.Items = append(s.Items, a.certificateItem(name, now))
	}
	for _, name := range slices.Sorted(maps.Keys(a.services)) {
		u := a.cfg.Upstreams[name]
		s.Upstreams = append(s.Upstreams, Upstream{name, u.Type, u.AccountID})
		if it, ok := a.services[name].item(); ok {
			s.Items = append(s.Items, it)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.refresher.items)) {
		s.Items = append(s.Items, a.secretItem(name, now))
	}
	s.Items = append(s.Items, a.fileItems()...)
	s.Items = append(s.Items, a.consumerItems()...)
	if n := len(a.astray()); n > 0 {
		s.Notices = append(s.Notices, fmt.Sprintf("keys in use that are on a token which is not configured: %d; `signet doctor` says which, and what to do", n))
	}
	for i := range s.Items {
		a.explain(&s.Items[i])
	}
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
	f := h.failures()
	s.Failures, s.LastErrorAt, s.RetryAt = f.Count, f.At, f.RetryAt
	if f.Last != nil {
		s.LastError = withHint(f.Last)
	}
	if h.FetchedAt.IsZero() {
		return s
	}
	s.Version, s.FetchedAt, s.FreshUntil, s.UsableUntil, s.RotatesAt = h.Version, h.FetchedAt, h.FreshUntil, h.UsableUntil, h.RotatesAt
	switch {
	case !h.Stale(now):
		s.State = stateFresh
	case !h.Expired(now):
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
	s.LastError, s.LastErrorAt, s.Failures, s.RetryAt = snap.Error, snap.ErrorAt, snap.Failures, snap.RetryAt
	if s.LastError == "" && snap.Missing != "" {
		s.LastError = "not every sink has it: " + snap.Missing
	}
	s.State, s.NextAction, s.NextAt, s.NextReason = snap.state(now), string(snap.Step), snap.At, snap.Why
	if snap.Next.exists() {
		s.Making = snap.Next.Kind.String()
	}
	switch {
	case snap.Lost != "":
		s.Hint = snap.Lost
	case s.State == stateMissing && snap.Next.CSR != nil && r.spec.OneTime:
		s.State, s.NextAction = stateWaiting, "enroll"
		s.Hint = fmt.Sprintf("run `signet enroll %s` with the one-time credentials", name)
	case snap.Fallback.Refused != "":
		s.Refused = snap.Fallback.Refused
		s.Hint = fmt.Sprintf("the newer certificate %s is refused (%s); this older one is used until that one works or another is issued; ask the issuer's administrator why",
			s.Refused, snap.Fallback.Why)
	case snap.Notice != "":
		s.Hint = snap.Notice
	}
	if w := a.expiries[name]; w != nil {
		s.Notice = w.notice(snap.Current.NotAfter)
	}
	if s.NextAction == string(stepWait) {
		s.NextAction, s.NextAt = snap.waitsFor(), snap.Due
		if !snap.RetryAt.IsZero() && snap.Next.exists() {
			s.NextAt = snap.RetryAt
		}
	}
	return s
}

// state is what the certificate in use is worth at now.
func (s *snapshot) state(now time.Time) string {
	switch cur := s.Current; {
	case s.Lost != "" && (!cur.exists() || s.Next.Kind != upstream.Renew):
		return stateStuck
	case !cur.exists():
		return stateMissing
	case !now.Before(cur.NotAfter):
		return stateExpired
	case !now.Before(cur.urgentAt()):
		return stateExpiring
	case s.Fallback.Refused != "":
		return stateFallback
	}
	return stateValid
}

// waitsFor is what will be done when the wait is over.
func (s *snapshot) waitsFor() string {
	switch {
	case s.Lost != "" && s.Next.Kind == upstream.Register:
		return "enroll"
	case s.Next.exists():
		return s.Next.Kind.String()
	}
	return s.kind(s.Due).String()
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

// ready says why the host is not ready, or nil: the token is open, what is given can
// be recorded, and every identity has a certificate that is not within its last
// tenth.
func (a *Agent) ready(now time.Time) error {
	for name, t := range a.tokens {
		if st := t.Status(); !st.Open {
			return &refusal{"unavailable", fmt.Sprintf("the token of hsm %q is not open", name)}
		}
	}
	if err := a.notOpen(); err != nil {
		return err
	}
	if a.audit.Refusing() {
		return a.audit.Err()
	}
	for _, name := range slices.Sorted(maps.Keys(a.identities)) {
		if err := a.rotators[name].snap.Load().usable(name, now); err != nil {
			return err
		}
	}
	for _, k := range a.astray() {
		if a.identities[k.Name] != nil && a.rotators[k.Name].snap.Load().Current.KeyID == k.ID {
			return strayError{k}
		}
	}
	return nil
}

// usable says why an identity is of no use to a ready host, or nil.
func (s *snapshot) usable(name string, now time.Time) error {
	switch {
	case s == nil || !s.Current.exists():
		return &refusal{"unavailable", fmt.Sprintf("identity %q has no certificate yet", name)}
	case s.state(now) == stateStuck:
		return &refusal{"unavailable", fmt.Sprintf("identity %q: %s", name, s.Lost)}
	case !now.Before(s.Current.lastTenth()):
		return &refusal{"unavailable", fmt.Sprintf("the certificate of identity %q ends at %s and could not be renewed", name, instant(s.Current.NotAfter))}
	}
	return nil
}

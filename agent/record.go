package agent

import (
	"bytes"
	"crypto/x509"
	"hash/fnv"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
)

// A record is everything the agent remembers about one certificate. It is on
// disk before each step that cannot be taken back, so that what to do next can
// always be read off from facts, and never depends on where the program was
// when it stopped.
type record struct {
	Current version   // what apps and upstreams are shown; zero before the first
	Next    version   // what is being made, if anything
	Old     []version // what it replaced, oldest first; kept for a grace time

	// Asked is what an operator asked for and has not got yet.
	Asked asked `json:",omitempty"`

	// Fallback says why Current is not the newest certificate that worked.
	Fallback fallback `json:",omitzero"`

	Failures int       `json:",omitempty"` // in a row
	Failed   step      `json:",omitempty"` // the step that the last failure was of
	RetryAt  time.Time `json:",omitzero"`  // after a failure, no step is taken before this
	// HoldOff is until when the issuer has asked to be left alone: RetryAt is
	// never brought forward to before it.
	HoldOff time.Time `json:",omitzero"`
	NoToken bool      `json:",omitempty"` // the last failure was for want of an access token
	Error   string    `json:",omitempty"` // the last failure, until a success
	ErrorAt time.Time `json:",omitzero"`
	// Lost says what an administrator has to do where a single-use call was
	// carried out and its answer lost. A registration is not tried again until
	// new credentials come; whether a rotation is really lost is asked again
	// every hour, as a disabled account looks the same.
	Lost string `json:",omitempty"`
}

// A version is one key pair and, once issued, its certificate.
type version struct {
	KeyID      string               // in the keyring; "" in the zero version, which is none
	Generation int                  // of the key: host#1 is 1
	KeyMade    time.Time            `json:",omitzero"`
	Kind       upstream.RequestKind // how its certificate was asked for
	CSR        []byte               `json:",omitempty"` // made, and so is the key
	// Sent says that the request is about to be sent, or was. Whoever finds it
	// set after a start must take it that it may have been carried out.
	Sent bool `json:",omitempty"`
	// RequestID is what the issuer may remember the request by: it is on disk
	// before the request is sent, and a new one for each that is not the same.
	RequestID   string    `json:",omitempty"`
	Until       time.Time `json:",omitzero"`  // the end that was asked for; zero = the issuer chooses
	Compromised bool      `json:",omitempty"` // the key that this one replaces is
	// Refused is a chain that came and was not believed. It is looked at again
	// before anything is asked again: a clock may have been wrong.
	Refused    [][]byte  `json:",omitempty"`
	Chain      [][]byte  `json:",omitempty"` // leaf first; nil until issued and checked
	Account    int64     `json:",omitempty"` // at the issuer, where it has accounts
	ReceivedAt time.Time `json:",omitzero"`
	NotBefore  time.Time `json:",omitzero"`  // of the leaf
	NotAfter   time.Time `json:",omitzero"`  // of the leaf
	RenewAt    time.Time `json:",omitzero"`  // reckoned once, when the chain arrives
	RotateAt   time.Time `json:",omitzero"`  // when the key is due; zero if never
	Proven     bool      `json:",omitempty"` // it worked once
	Warned     bool      `json:",omitempty"` // it was said that its end is near
	DropAt     time.Time `json:",omitzero"`  // when it may be forgotten; set on replacement
}

func (v version) exists() bool { return v.KeyID != "" }

// anew is v with its key and nothing asked for yet.
func (v version) anew() version {
	v.CSR, v.Sent, v.RequestID, v.Refused = nil, false, "", nil
	return v
}

// urgentAt is when the end of the certificate is near: a fifth of its life
// before it, or 30 days if that is less. From then on it is said aloud, and no
// window is waited for any more.
func (v version) urgentAt() time.Time {
	return v.NotAfter.Add(-min(30*day, v.NotAfter.Sub(v.ReceivedAt)/5))
}

// lastTenth is when the last tenth of the certificate's life begins.
func (v version) lastTenth() time.Time {
	return v.NotAfter.Add(-v.NotAfter.Sub(v.ReceivedAt) / 10)
}

// asked is what an operator can ask for.
type asked string

const (
	askedNothing     asked = ""
	askedRenew       asked = "renew"
	askedRotate      asked = "rotate"
	askedCompromised asked = "rotate --compromised"
	askedEnroll      asked = "enroll" // again, with a new account
)

// A step is the one thing to do now.
type step string

const (
	stepWait    step = "wait"    // nothing, until the time that next gives
	stepReserve step = "reserve" // choose the next key's ID and write it down
	stepMake    step = "make"    // make that key if it is not there, and its request
	stepSubmit  step = "submit"  // send the request, check what comes back
	stepProve   step = "prove"   // see it work
	stepPublish step = "publish" // hand Next to the sinks, then call it Current
	stepRetire  step = "retire"  // forget Old[0], and destroy its key if no other version has it
	stepWarn    step = "warn"    // say that the end of Current is near
	stepCheck   step = "check"   // see whether Current still works, or one of Old
)

// circumstances are what next has to know besides the record.
type circumstances struct {
	// enrolled says whether a first certificate can be asked for: issuers that
	// want one-time credentials cannot be asked before somebody brings them.
	enrolled bool
	doubted  bool          // somebody was refused with Current
	window   config.Window // when replacing is preferred; zero = any time
	share    float64       // of this host and item, to spread hosts over the window
}

// next reports what to do at now, and for stepWait until when, which is always
// after now. It has no effects and reads no clock.
func (r *record) next(now time.Time, c circumstances) (step, time.Time) {
	warn := !r.Current.Warned && r.Current.exists()
	if warn && !now.Before(r.Current.urgentAt()) {
		return stepWarn, now
	}
	step, at := r.work(now, c)
	if step == stepWait && warn && r.Current.urgentAt().Before(at) {
		at = r.Current.urgentAt()
	}
	return step, at
}

// work is next without the warning.
func (r *record) work(now time.Time, c circumstances) (step, time.Time) {
	switch {
	case r.Lost != "" && r.Next.Kind == upstream.Register:
		return stepWait, now.Add(waitForOperator)
	case r.pausedUntil(now).After(now):
		return stepWait, r.RetryAt
	}
	switch n := r.Next; {
	case n.Chain != nil && n.Proven:
		return stepPublish, now
	case n.Chain != nil:
		return stepProve, now
	case c.doubted && r.checkable():
		return stepCheck, now
	case n.CSR != nil && n.Kind == upstream.Register && !c.enrolled:
		return stepWait, now.Add(waitForOperator)
	case n.CSR != nil:
		return stepSubmit, now
	case n.exists():
		return stepMake, now
	case len(r.Old) > 0 && !now.Before(r.Old[0].DropAt):
		return stepRetire, now
	}
	until, _ := r.due(now, c)
	if r.Asked != askedNothing || !now.Before(until) {
		return stepReserve, now
	}
	if len(r.Old) > 0 && r.Old[0].DropAt.Before(until) {
		until = r.Old[0].DropAt
	}
	return stepWait, until
}

// pausedUntil is RetryAt, unless the clock was set back since: then it means
// nothing any more.
func (r *record) pausedUntil(now time.Time) time.Time {
	if now.Before(r.ErrorAt.Add(-skew)) {
		return time.Time{}
	}
	return r.RetryAt
}

// hasten tries again at once, or as soon as the issuer lets us: what was missing
// may have come.
func (r *record) hasten() {
	if r.HoldOff.Before(r.RetryAt) {
		r.RetryAt = r.HoldOff
	}
}

// waitForOperator is how long next waits for what only a person can bring; it
// bounds nothing, as whoever brings it wakes the rotator.
const waitForOperator = 24 * time.Hour

// ripe is when Current has to be replaced; long past where there is none.
func (r *record) ripe() time.Time {
	at := r.Current.RenewAt
	if rot := r.Current.RotateAt; !rot.IsZero() && rot.Before(at) {
		at = rot
	}
	return at
}

// due is when Current will be replaced, seen from now, and why just then where
// that needs saying.
func (r *record) due(now time.Time, c circumstances) (time.Time, string) {
	if !r.Current.exists() {
		return time.Time{}, ""
	}
	if r.Fallback.Refused != "" {
		return r.Fallback.back(now), reasonFallback
	}
	return c.plan(r.ripe(), r.Current.urgentAt(), now)
}

// The reasons that a plan can have.
const (
	reasonWindow   = "waits for the renewal window"
	reasonFallback = "asks for the newer certificate again, which was refused"
	reasonDeadline = "does not wait for the renewal window, which comes too near the end of the certificate"
)

// plan moves what is ripe into the window, spread over it by the share of this
// host. What would come after the deadline is done at the deadline instead.
func (c circumstances) plan(ripe, deadline, now time.Time) (time.Time, string) {
	if c.window.IsZero() {
		return ripe, ""
	}
	// The window is meant by the clock on this host's wall.
	start, end := c.window.Opening(later(ripe, now).In(now.Location()))
	at, why := start.Add(time.Duration(c.share*float64(end.Sub(start))*9/10)), reasonWindow
	if !ripe.Before(start) {
		at, why = ripe, ""
	}
	if deadline.Before(at) {
		return later(ripe, deadline), reasonDeadline
	}
	return at, why
}

// kind says how Current is to be replaced at now: by the same key unless the
// key is due or was asked to go. When the end is near the key is not changed on
// schedule: to have a certificate comes first.
func (r *record) kind(now time.Time) upstream.RequestKind {
	rot := r.Current.RotateAt
	switch {
	case !r.Current.exists(), r.Asked == askedEnroll:
		return upstream.Register
	case r.Asked == askedRotate, r.Asked == askedCompromised:
		return upstream.Rotate
	case !rot.IsZero() && !now.Before(rot) && now.Before(r.Current.urgentAt()):
		return upstream.Rotate
	}
	return upstream.Renew
}

// settled forgets what failed before a step that went well. To warn is no such
// step. A failure of another step is not over with a check; nor is one to prove a
// certificate when it was asked for again, or an issuer that gives the same each
// time would be asked without end.
func (r *record) settled(s step) {
	if s == stepWarn {
		return
	}
	r.RetryAt, r.HoldOff, r.NoToken, r.Lost = time.Time{}, time.Time{}, false, ""
	if s == stepCheck && r.Failed != stepCheck || s == stepSubmit && r.Failed == stepProve {
		return
	}
	r.Failures, r.Failed, r.Error, r.ErrorAt = 0, "", "", time.Time{}
}

// yields reports whether what is under way is given up for what is asked: a
// renewal for a new key, unless its certificate is there already, and for a
// compromised key all but a request that works once.
func (r *record) yields(to asked, again bool) bool {
	n := r.Next
	switch {
	case !n.exists() || to == askedRenew:
		return false
	case n.Kind == upstream.Renew:
		return n.Chain == nil || to == askedCompromised
	}
	return n.Kind == upstream.Rotate && to == askedCompromised && (!n.Sent || again)
}

// giveUpNext leaves the key of Next to be retired.
func (r *record) giveUpNext(now time.Time) {
	n := r.Next
	n.DropAt = now
	r.Next, r.Old = version{}, append([]version{n}, r.Old...)
}

// holding is the version that has leaf in use, or had it before; zero if none.
func (r *record) holding(leaf *x509.Certificate) version {
	for _, v := range append([]version{r.Current}, r.Old...) {
		if len(v.Chain) > 0 && bytes.Equal(v.Chain[0], leaf.Raw) {
			return v
		}
	}
	return version{}
}

// keys are the keys that the record names.
func (r *record) keys() []string {
	var ids []string
	for _, v := range append([]version{r.Current, r.Next}, r.Old...) {
		if v.exists() {
			ids = append(ids, v.KeyID)
		}
	}
	return ids
}

// keyInUse reports whether a version other than skip (an index of Old) has the key.
func (r *record) keyInUse(id string, skip int) bool {
	if r.Current.KeyID == id || r.Next.KeyID == id {
		return true
	}
	for i, v := range r.Old {
		if i != skip && v.KeyID == id {
			return true
		}
	}
	return false
}

// renewAt reckons when to replace a certificate: at two thirds of its life or
// 30 days before its end, whichever is earlier, less up to a tenth of its life
// so that hosts installed together do not renew together. A certificate is not
// replaced in the first third of its life. The life is counted from when the
// certificate was received: some issuers date it back (the Manager, a day).
func renewAt(received, notAfter time.Time, share float64) time.Time {
	life := notAfter.Sub(received)
	if life <= 0 {
		return received
	}
	at := life * 2 / 3
	if early := life - 30*day; early > 0 {
		at = min(at, max(early, life/3+life/10))
	}
	return received.Add(at - time.Duration(share*float64(life/10)))
}

const day = 24 * time.Hour

// rotateAt reckons when a key made at made is to be replaced; zero if never.
func rotateAt(made time.Time, every time.Duration, share float64) time.Time {
	if every <= 0 {
		return time.Time{}
	}
	return made.Add(every - time.Duration(share*float64(every/10)))
}

// share is a number in [0,1) that is always the same for one item on one host
// and spread evenly over hosts: the jitter of everything planned long ahead.
func share(host, item string) float64 {
	h := fnv.New64a()
	h.Write([]byte(host))
	h.Write([]byte{0})
	h.Write([]byte(item))
	// fnv spreads the last bytes badly into the high bits; multiply once more.
	x := h.Sum64() * 0x9E3779B97F4A7C15
	x ^= x >> 32
	x *= 0xD6E8FEB86659FD93
	return float64(x>>11) / (1 << 53)
}

// wall is the time on the wall. Everything in a record is reckoned with it
// alone: the clock that Go compares by otherwise stands still while the host is
// asleep, and certificates do not.
func wall() time.Time { return time.Now().Round(0) }

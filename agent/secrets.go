package agent

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// A secretSpec is what the configuration says of one secret.
type secretSpec struct {
	Upstream string
	TTL      time.Duration // 0 = what the upstream suggests, else config.DefaultTTL
	MaxStale time.Duration
}

// A held is what the agent knows of one secret. It is immutable: each answer or
// failure makes a new one. There are many, and of most there is no more to know
// than what sinks are handed.
type held struct {
	sinks.Secret // as it is published; FetchedAt is zero before the first answer and after a purge
	Expires      time.Time
	TTL          time.Duration // the upstream's suggestion
	bad          *failures     // nil is none
}

// Failures are those since the last success.
type failures struct {
	Count   int
	RetryAt time.Time
	Last    error
	At      time.Time     // of the last
	Gone    upstream.Code // why the value was purged; "" if it was not
}

func (h *held) failures() failures {
	if h.bad == nil {
		return failures{}
	}
	return *h.bad
}

// ttl is how long an answer is taken to be true when nothing else ends it.
func (s secretSpec) ttl(suggested time.Duration) time.Duration {
	switch {
	case s.TTL > 0:
		return s.TTL
	case suggested > 0:
		return suggested
	}
	return config.DefaultTTL
}

func (s secretSpec) bounds(h *held) bounds {
	return boundsOf(h.FetchedAt, h.Expires, s.ttl(h.TTL), s.MaxStale)
}

// bound says in h, which nobody else has yet, until when it may be served.
func (s secretSpec) bound(h *held) *held {
	b := s.bounds(h)
	h.FreshUntil, h.UsableUntil, h.RotatesAt = b.FreshUntil, b.UsableUntil, b.RotatesAt
	return h
}

// due is when the secret is to be fetched next.
func (s secretSpec) due(h *held, share float64) time.Time {
	if f := h.failures(); f.Count > 0 || h.FetchedAt.IsZero() {
		return f.RetryAt
	}
	return s.bounds(h).refreshAt(h.FetchedAt, share)
}

// answered is what is held after an upstream's answer, and whether the value
// is another than before.
func (h *held) answered(a upstream.Secret, asked time.Time) (*held, bool) {
	n := &held{Expires: a.Expires, TTL: a.TTL,
		Secret: sinks.Secret{Name: h.Name, Version: h.Version, Fields: sinks.FieldsOf(a.Fields), FetchedAt: asked}}
	same := !h.FetchedAt.IsZero() && slices.EqualFunc(h.Fields, n.Fields, func(f, g sinks.Field) bool {
		return f.Name == g.Name && f.Value.Equal(g.Value)
	})
	if same && a.Expires.IsZero() && asked.After(h.Expires.Add(-margin)) {
		n.Expires = h.Expires // some upstreams announce a change no more when they are late with it
	}
	switch {
	case same:
		return n, false
	case a.Version != "" && a.Version != h.Version:
		n.Version = a.Version
	default:
		n.Version = newVersion()
	}
	return n, true
}

// newVersion names a value whose upstream has no versions. It is not counted: the
// last count may be lost with the file that it was in, and a name that another
// value had before would be taken for that one by who has it still.
func newVersion() string { return strings.ToLower(rand.Text()[:12]) }

// failed is what is held after a failure: the value as it was, or, after a
// definite refusal, none.
func (h *held) failed(err error, now time.Time, wait time.Duration) *held {
	n, f := *h, h.failures()
	f.Count++
	f.Last, f.At, f.RetryAt = err, now, now.Add(wait)
	if gone(err) {
		n.Fields, n.FetchedAt, f.Gone = nil, time.Time{}, upstream.CodeOf(err)
	}
	n.bad = &f
	return &n
}

// gone reports whether an upstream has said that there is no value any more, at
// least for this host.
func gone(err error) bool {
	c := upstream.CodeOf(err)
	return c == upstream.Denied || c == upstream.NotFound
}

// justStale is a held that claims to be fetched later than now. That tells that
// the clock was set back while the agent was away, and nothing of its age: it is
// taken to have just become stale.
func (h *held) justStale(now time.Time, ttl time.Duration) *held {
	n := *h
	n.FetchedAt = now.Add(-ttl)
	return &n
}

// shifted is what is held after the wall clock was set by d.
func (h *held) shifted(d time.Duration) *held {
	n, f := *h, h.failures()
	for _, t := range []*time.Time{&n.FetchedAt, &f.RetryAt, &f.At} {
		if !t.IsZero() {
			*t = t.Add(d)
		}
	}
	if h.bad != nil {
		n.bad = &f
	}
	return &n
}

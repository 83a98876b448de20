package agent

import (
	"maps"
	"strconv"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/secret"
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
// failure makes a new one.
type held struct {
	Version   string
	Count     uint64 // of versions, where the upstream has none of its own
	Fields    map[string]secret.Value
	FetchedAt time.Time // zero before the first answer and after a purge
	Expires   time.Time
	TTL       time.Duration // the upstream's suggestion

	Failures int
	RetryAt  time.Time
	Error    error // the last failure, until a success
	ErrorAt  time.Time
	Gone     upstream.Code // why it was purged; "" if it was not
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

// due is when the secret is to be fetched next.
func (s secretSpec) due(h *held, share float64) time.Time {
	if h.Failures > 0 || h.FetchedAt.IsZero() {
		return h.RetryAt
	}
	return s.bounds(h).refreshAt(h.FetchedAt, share)
}

// item is the secret as sinks are handed it.
func (s secretSpec) item(name string, h *held) *sinks.Secret {
	b := s.bounds(h)
	return &sinks.Secret{
		Name: name, Version: h.Version, Fields: h.Fields, FetchedAt: h.FetchedAt,
		FreshUntil: b.FreshUntil, UsableUntil: b.UsableUntil, RotatesAt: b.RotatesAt,
	}
}

// answered is what is held after an upstream's answer, and whether the value
// is another than before.
func (h *held) answered(a upstream.Secret, asked time.Time) (*held, bool) {
	n := &held{Version: h.Version, Count: h.Count, Fields: a.Fields, FetchedAt: asked, Expires: a.Expires, TTL: a.TTL}
	same := !h.FetchedAt.IsZero() && maps.EqualFunc(h.Fields, a.Fields, secret.Value.Equal)
	switch {
	case same && (a.Version == "" || a.Version == h.Version):
		n.Fields = h.Fields
		return n, false
	case a.Version != "" && a.Version != h.Version:
		n.Version = a.Version
	default:
		n.Count++
		n.Version = strconv.FormatUint(n.Count, 10)
		if n.Version == h.Version { // the upstream's own versions were numbers
			n.Count++
			n.Version = strconv.FormatUint(n.Count, 10)
		}
	}
	return n, true
}

// failed is what is held after a failure: the value as it was, or, after a
// definite refusal, none.
func (h *held) failed(err error, now time.Time, wait time.Duration) *held {
	n := *h
	n.Failures++
	n.Error, n.ErrorAt, n.RetryAt = err, now, now.Add(wait)
	if c := upstream.CodeOf(err); c == upstream.Denied || c == upstream.NotFound {
		n.Fields, n.FetchedAt, n.Gone = nil, time.Time{}, c
	}
	return &n
}

// notAhead is a held that was read from the store at now. One that claims to be
// fetched later than now tells that the clock was set back while the agent was
// away, and nothing of its age: it is taken to have just become stale.
func (h *held) notAhead(now time.Time, ttl time.Duration) *held {
	if !h.FetchedAt.After(now) {
		return h
	}
	n := *h
	n.FetchedAt = now.Add(-ttl)
	return &n
}

// shifted is what is held after the wall clock was set by d.
func (h *held) shifted(d time.Duration) *held {
	n := *h
	for _, t := range []*time.Time{&n.FetchedAt, &n.RetryAt, &n.ErrorAt} {
		if !t.IsZero() {
			*t = t.Add(d)
		}
	}
	return &n
}

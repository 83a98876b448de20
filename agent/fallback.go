package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// A fallback remembers that a certificate which had worked was refused, and that
// an older one of the same key was taken up again.
type fallback struct {
	Refused string    `json:",omitempty"` // serial number of the newer one; "" = Current is the newest
	Why     string    `json:",omitempty"` // what the issuer said
	At      time.Time `json:",omitzero"`  // of the last one
	Times   int       `json:",omitempty"` // in a row, with no day between two
	BackAt  time.Time `json:",omitzero"`  // when the newer one is asked for again
}

// checkEvery is the least time between two doubts of a certificate that are
// taken up: whoever is refused all the time must not have it proven all the time.
const checkEvery = time.Minute

// doubt says that the certificate in use was refused somewhere.
func (r *rotator) doubt() {
	select {
	case r.doubts <- struct{}{}:
	default:
	}
}

// suspect takes up a doubt. Only an issuer that certificates can be proven with
// can settle it.
func (r *rotator) suspect() {
	_, ok := r.issuer.(prover)
	if ok && r.clock().Sub(r.checked).Abs() >= checkEvery {
		r.doubted = true
	}
}

// checkable reports whether a doubt of Current can be settled now. While a new
// key may have been certified it cannot: that would be reason enough for Current
// to be refused, and submit finds out. A renewal takes turns with a check that
// fails: its answer may be there already, and end the doubt.
func (r *record) checkable() bool {
	n := r.Next
	return r.Current.exists() &&
		(!n.exists() || n.Kind == upstream.Renew && r.Failed != stepCheck || n.Kind == upstream.Rotate && !n.Sent)
}

// check proves the certificate in use, which somebody was refused with. If the
// issuer does not take it any more, the newest of those before it that works is
// made Next, to be published as any other.
func (r *rotator) check(ctx context.Context, rec record) (record, error) {
	now := r.clock()
	r.checked = now
	err := r.works(ctx, rec.Current)
	if err == nil {
		r.doubted = false
		return rec, nil
	}
	if !upstream.CertificateRefused(err) {
		return rec, fmt.Errorf("prove the certificate in use: %w", err)
	}
	for i, v := range slices.Backward(rec.Old) {
		if rec.mayFallBackTo(v, now) && r.works(ctx, v) == nil {
			return rec.fallBack(i, err.Error(), now), nil
		}
	}
	return rec, fmt.Errorf("the certificate in use is refused, and there is no older one that works: %w", err)
}

// mayFallBackTo reports whether an older version may be used again. Those of
// another key may not: a rotation revokes them, or is the end of a key that is
// known to others.
func (r *record) mayFallBackTo(v version, now time.Time) bool {
	compromised := r.Asked == askedCompromised || r.Next.Compromised
	return !compromised && v.Chain != nil && v.KeyID == r.Current.KeyID && now.Before(v.NotAfter)
}

// fallBack makes Old[i] the next version. A renewal that was under way is begun
// anew with it, and so is a rotation that was not sent yet.
func (r *record) fallBack(i int, why string, now time.Time) record {
	rec := *r
	v := rec.Old[i]
	rec.Old = slices.Delete(slices.Clone(rec.Old), i, i+1)
	if rec.Next.Kind == upstream.Rotate {
		rec.giveUpNext(now)
		rec.Asked = askedRotate
	}
	v.Kind, v.DropAt = upstream.Renew, time.Time{}
	rec.Next = v

	f := &rec.Fallback
	if now.Sub(f.At).Abs() > day {
		f.Times = 0
	}
	f.Times++
	f.Refused, f.Why, f.At = serialOf(rec.Current.Chain), why, now
	// From a minute on: where only some of the issuer's servers know the newer
	// one, the two would change places all the time.
	f.BackAt = now.Add(backoff(f.Times+6, v.NotAfter.Sub(v.ReceivedAt)))
	return rec
}

// over is the fallback once another certificate than the older one is in use.
// How often it was needed lately is not forgotten.
func (f fallback) over() fallback { return fallback{At: f.At, Times: f.Times} }

// back is when the newer certificate is asked for again; now, if the clock was
// set back since.
func (f fallback) back(now time.Time) time.Time {
	if now.Before(f.At.Add(-skew)) {
		return now
	}
	return f.BackAt
}

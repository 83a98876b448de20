package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"reflect"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// begin takes up where the last process stopped: what was served is served
// again, what was reserved and never written down is tidied away, and what the
// configuration has changed meanwhile is seen.
func (r *rotator) begin(ctx context.Context) error {
	if r.rec.Current.Chain != nil {
		if err := r.publish(ctx, r.rec.Current); err != nil {
			r.missing = withHint(err)
			r.log.Warn("certificate not published at start; it is tried again", "certificate", r.name, "err", err)
		}
	}
	if err := r.keys.Forget(ctx, r.name, r.rec.keys()); err != nil {
		// They are of no harm where they are, and the next start tries again.
		r.log.Warn("reserved keys not tidied away", "certificate", r.name, "err", err)
	}
	r.replaced(r.rec)
	rec := r.rec
	if n := &rec.Next; n.CSR != nil && n.Chain == nil && n.Refused == nil && !n.Sent {
		n.CSR = nil // it is made again with the names of today
	}
	r.notice = ""
	if cur := rec.Current; cur.exists() {
		rec = r.compare(rec)
	}
	if rec.Lost != "" && rec.Next.Kind == upstream.Register && r.creds != nil {
		// New credentials may be in the file. It stays uncertain whether the
		// old ones were used, so the issuer finds out.
		if _, ok, err := r.creds(); ok && err == nil {
			rec.Lost, rec.Next.CSR, rec.RetryAt = "", nil, time.Time{}
		}
	} else if rec.Current.exists() && rec.Next.Kind != upstream.Register {
		r.burnCredentials()
	}
	if reflect.DeepEqual(rec, r.rec) {
		return nil // what is served must not hang on a disk that is full
	}
	return r.keep(ctx, rec)
}

// catchUp publishes what could not be at the start, such as a certificate that is
// stored on a token which was away. It is tried when something has changed, and
// every minute, and said when the reason is another one.
func (r *rotator) catchUp(ctx context.Context) {
	if r.missing == "" {
		return
	}
	before := r.missing
	switch err := r.publish(ctx, r.rec.Current); {
	case err == nil:
		r.missing = ""
		r.log.Info("certificate published after all", "certificate", r.name)
	case ctx.Err() != nil:
	case withHint(err) != before:
		r.missing = withHint(err)
		r.log.Warn("certificate still not published; it is tried again", "certificate", r.name, "err", err)
	}
}

// compare holds the certificate in use against the configuration.
func (r *rotator) compare(rec record) record {
	leaf, err := x509.ParseCertificate(rec.Current.Chain[0])
	if err != nil {
		return rec // it was parsed before it was kept; publish has complained
	}
	differs := checkNames(leaf, r.spec.Subject, r.spec.Names)
	switch {
	case r.spec.Account != 0 && rec.Current.Account != 0 && rec.Current.Account != r.spec.Account:
		r.notice = fmt.Sprintf("the certificate is of account %d, and the configuration names %d; enrol again with the credentials of that one, or change account_id back",
			rec.Current.Account, r.spec.Account)
	case differs == nil:
	case r.spec.AsIs:
		r.notice = fmt.Sprintf("not as configured: %v; a renewal keeps the names, `signet rotate %s` changes them", differs, r.name)
	case rec.Asked == askedNothing && !rec.Next.exists():
		r.log.Info("certificate is not as configured; it is issued anew", "certificate", r.name, "why", differs)
		rec.Asked = askedRenew
	}
	return rec
}

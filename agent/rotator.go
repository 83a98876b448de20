package agent

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// An issuer turns a certificate request into a chain. It is all that a rotator
// needs of a CA; the clients in upstream are the real ones.
type issuer interface {
	// Issue asks for a certificate. It must be safe to call again with the
	// same request and Uncertain set.
	Issue(ctx context.Context, req upstream.CertificateRequest) (upstream.Issued, error)
	// Prove uses the certificate for real, where the issuer can be asked; an
	// error means that it did not work.
	Prove(ctx context.Context, cert tls.Certificate) error
}

// A keyring holds the private keys of certificates: the HSM, or memory for
// those that are delivered in files.
type keyring interface {
	// Reserve writes down that a key of this name is about to be made.
	Reserve(name string) (id string, generation int, err error)
	// Ensure makes the reserved key unless it is there, and vouches for it.
	Ensure(ctx context.Context, id string) (crypto.Signer, error)
	// Signer is the key that has been made and whose public half is pub.
	Signer(id string, pub crypto.PublicKey) crypto.Signer
	// Retire destroys a key that nothing uses any more. Retiring it again does
	// nothing.
	Retire(ctx context.Context, id string) error
}

// A rotator keeps one certificate fresh.
type rotator struct {
	name   string
	host   string // spreads hosts with the same configuration
	spec   certificateSpec
	keys   keyring
	issuer issuer
	// publish hands a version to the sinks, and waits until they have it.
	// Publishing the same version again does nothing.
	publish func(context.Context, version) error
	save    func(record) error
	log     *slog.Logger
	emit    func(event)
	asks    chan ask                          // from other goroutines
	wake    chan struct{}                     // something that was waited for may be there
	snap    atomic.Pointer[snapshot]          // for other goroutines
	creds   func() (credentials, bool, error) // one-time credentials from a file; nil if none is configured
	burn    func() error                      // destroys that file

	rec     record       // owned by run
	given   *credentials // owned by run: brought by an operator, used once
	waiting []ask        // owned by run: answered at the next success or failure
}

// A certificateSpec is what the configuration says of one certificate.
type certificateSpec struct {
	CommonName  string
	Names       names
	Usage       x509.ExtKeyUsage
	Life        time.Duration // 0 = the issuer's default
	RotateEvery time.Duration // 0 = only when asked
	Grace       time.Duration
	Roots       *x509.CertPool // of the issuer, if known
	OneTime     bool           // the issuer wants one-time credentials for the first
}

// credentials are the one-time credentials of a first registration.
type credentials struct {
	Username string
	Password secret.Value
}

// An ask is something an operator wants of a rotator. Done receives one answer.
type ask struct {
	What  asked
	Creds *credentials // for an enrolment
	Done  chan error
}

// A snapshot is what others may know of a rotator.
type snapshot struct {
	record
	Step step
	At   time.Time // of the next step
}

// run takes steps until ctx is done; one that has succeeded is still written
// down then. A step that fails is tried again later, while apps keep what they
// were last served. Only state that cannot be written down ends the run, because
// the next step would then not be safe to repeat.
func (r *rotator) run(ctx context.Context) error {
	if r.rec.Current.Chain != nil {
		if err := r.publish(ctx, r.rec.Current); err != nil {
			r.log.Warn("certificate not published at start", "certificate", r.name, "err", err)
		}
		r.burnCredentials()
	}
	for ctx.Err() == nil {
		enrolled := r.enrollable()
		step, at := r.rec.next(time.Now(), enrolled)
		r.snap.Store(&snapshot{r.rec, step, at})
		if step == stepWait {
			if err := r.wait(ctx, at); err != nil {
				return err
			}
			continue
		}
		rec, err := r.take(ctx, step)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			rec = r.failed(rec, step, err)
		} else {
			rec.Failures, rec.RetryAt, rec.Error, rec.ErrorAt, rec.Lost = 0, time.Time{}, "", time.Time{}, ""
		}
		if err := r.keep(rec); err != nil {
			return err
		}
		r.answer(step, err)
	}
	return nil
}

// keep writes rec down and makes it the one to go on from.
func (r *rotator) keep(rec record) error {
	if err := r.save(rec); err != nil {
		return fmt.Errorf("certificate %q: write state: %w", r.name, err)
	}
	r.rec = rec
	return nil
}

// enrollable reports whether a first certificate can be asked for now.
func (r *rotator) enrollable() bool {
	if !r.spec.OneTime || r.given != nil {
		return true
	}
	if r.rec.Next.Kind != upstream.Register || r.rec.Next.CSR == nil || r.creds == nil {
		return false
	}
	c, ok, err := r.creds()
	if err != nil {
		r.log.Warn("one-time credentials not readable", "certificate", r.name, "err", err)
	}
	if ok {
		r.given = &c
	}
	return ok
}

// burnCredentials destroys the one-time credentials once they are of no use.
func (r *rotator) burnCredentials() {
	r.given = nil
	if r.burn == nil {
		return
	}
	if err := r.burn(); err != nil {
		r.log.Error("one-time credentials not destroyed; delete the file", "certificate", r.name, "err", err)
	}
}

// failed is the record after a step that failed: what is known of the failure,
// and when to try again.
func (r *rotator) failed(rec record, s step, err error) record {
	now := time.Now()
	rec.Failures++
	rec.Error, rec.ErrorAt = err.Error(), now
	wait := backoff(rec.Failures, rec.Current.NotAfter.Sub(rec.Current.ReceivedAt))
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		wait = max(wait, e.RetryAfter)
		if e.Code == upstream.Lost {
			rec.Lost = e.Error() + "; " + e.Hint()
			wait = max(wait, time.Hour)
		}
	}
	rec.RetryAt = now.Add(wait)
	r.log.Warn("certificate step failed", "certificate", r.name, "step", string(s), "err", err,
		"tries", rec.Failures, "retry_at", rec.RetryAt, "serving_until", rec.Current.NotAfter)
	r.emit(event{Type: eventRenewalFailed, Name: r.name, Error: rec.Error, At: now})
	return rec
}

// backoff is the time to wait after n failures in a row: from a second,
// doubling up to an hour or a twentieth of the certificate's life, and a random
// half of that again, which is never nothing (failure T18).
func backoff(n int, life time.Duration) time.Duration {
	limit := time.Hour
	if life > 0 {
		limit = min(limit, max(life/20, 5*time.Second))
	}
	wait := min(time.Second<<min(n-1, 12), limit)
	return wait/2 + rand.N(wait/2) + 1
}

// wait waits until at, for a question, or for ctx. The only error is that the
// state cannot be written down.
func (r *rotator) wait(ctx context.Context, at time.Time) error {
	// A wall clock that is set, or a host that was asleep, must not put a step
	// off: nothing is waited for longer than a minute at a stretch (rule T07).
	t := time.NewTimer(min(time.Until(at), time.Minute))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-r.wake:
		if !r.rec.RetryAt.IsZero() {
			r.rec.RetryAt = time.Time{}
		}
	case a := <-r.asks:
		return r.ask(a)
	}
	return nil
}

// ask takes up what an operator wants.
func (r *rotator) ask(a ask) error {
	rec := r.rec
	rec.RetryAt = time.Time{}
	switch {
	case a.Creds != nil && rec.Current.exists():
		a.Done <- &refusal{"invalid", fmt.Sprintf("%q is enrolled already; to replace its key, use `signet rotate %s`", r.name, r.name)}
		return nil
	case a.Creds != nil:
		r.given = a.Creds
		rec.Lost, rec.Next.Sent = "", false // new credentials are a new account: nothing was sent on its behalf
	case !rec.Current.exists():
		a.Done <- &refusal{"invalid", fmt.Sprintf("%q has no certificate yet; enrol it first with `signet enroll %s`", r.name, r.name)}
		return nil
	case rec.Lost != "":
		a.Done <- &refusal{"unavailable", rec.Lost}
		return nil
	case rec.Next.exists():
		// One is being made already: it serves an ask to renew. A new key is
		// made after it.
		if a.What != askedRenew {
			rec.Asked = a.What
		}
	default:
		rec.Asked = a.What
	}
	if err := r.keep(rec); err != nil {
		a.Done <- err
		return err
	}
	r.waiting = append(r.waiting, a)
	return nil
}

// answer tells those who wait how it went: at the first failure, and when there
// is nothing left to do.
func (r *rotator) answer(s step, err error) {
	if err == nil && (s != stepPublish || r.rec.Asked != askedNothing) {
		return
	}
	for _, a := range r.waiting {
		a.Done <- err
	}
	r.waiting = nil
}

// Do puts an ask to the rotator and waits for the answer.
func (r *rotator) do(ctx context.Context, a ask) error {
	a.Done = make(chan error, 1)
	select {
	case r.asks <- a:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-a.Done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// poke wakes the rotator, for example when the token has come back.
func (r *rotator) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

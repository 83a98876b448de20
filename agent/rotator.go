package agent

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
)

// An issuer turns a certificate request into a chain. It is all that a rotator
// needs of a CA; the clients in upstream are the real ones.
type issuer interface {
	// Issue asks for a certificate. It must be safe to call again with the
	// same request and Uncertain set.
	Issue(ctx context.Context, req upstream.CertificateRequest) (upstream.Issued, error)
}

// A prover is an issuer that can be asked whether a certificate works. Those of
// other issuers are believed once they were checked.
type prover interface {
	// Prove uses the certificate for real; an error means that it did not work.
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
	// Replaced writes down that a successor of the key is in use. The key signs on
	// until it is retired.
	Replaced(id string) error
	// Retire destroys a key that nothing uses any more. Retiring it again does
	// nothing.
	Retire(ctx context.Context, id string) error
	// Forget retires what was reserved for name and never made, but those in
	// keep: nobody remembers the rest any more.
	Forget(ctx context.Context, name string, keep []string) error
}

// A rotator keeps one certificate fresh.
type rotator struct {
	name   string
	host   string // spreads hosts with the same configuration
	spec   certificateSpec
	keys   keyring
	issuer issuer
	turns  *turns // of the issuer; nil = no limit
	// publish hands a version to the sinks, and waits until they have it.
	// Publishing the same version again does nothing.
	publish func(context.Context, version) error
	save    func(record) error
	clock   func() time.Time // wall
	log     *slog.Logger
	emit    func(event)
	asks    chan ask                          // from other goroutines
	wake    chan struct{}                     // something that was waited for may be there
	doubts  chan struct{}                     // somebody was refused with the certificate in use
	snap    atomic.Pointer[snapshot]          // for other goroutines
	creds   func() (credentials, bool, error) // one-time credentials from a file; nil if none is configured
	burn    func() error                      // destroys that file

	rec     record       // owned by run
	notice  string       // owned by run: what does not fit the configuration
	given   *credentials // owned by run: brought by an operator, used once
	waiting []ask        // owned by run: answered at the next success or failure
	turn    bool         // owned by run: it has one of turns
	doubted bool         // owned by run: a doubt was taken up and is not settled
	checked time.Time    // owned by run: when one was last looked into
	missing string       // owned by run: why not every sink has what is in use; "" if they have
}

// A certificateSpec is what the configuration says of one certificate.
type certificateSpec struct {
	Subject     pkix.Name
	Names       names
	Usage       x509.ExtKeyUsage
	Options     upstream.Options // CA, purpose, profile and life
	RotateEvery time.Duration    // 0 = only when asked
	Grace       time.Duration
	Window      config.Window  // when replacing is preferred; zero = any time
	Roots       *x509.CertPool // of the issuer, if known
	OneTime     bool           // the issuer wants one-time credentials for the first
	// AsIs says that the issuer renews without a new request, so that a renewed
	// certificate has the names of the one before.
	AsIs bool
	// Again says that the issuer can be asked for another certificate at any
	// time, and that it costs nothing but that one.
	Again   bool
	CA      bool  // a CA's certificate is wanted
	Account int64 // at the issuer, where it has accounts
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
	Step   step
	At     time.Time // of the next step
	Due    time.Time // when Current will be replaced
	Why    string    // it is due just then, where that needs saying
	Notice string    // what does not fit the configuration
	// Missing is why not every sink has Current; "" if they have.
	Missing string
}

// run takes steps until ctx is done; one that has succeeded is still written
// down then. A step that fails is tried again later, while apps keep what they
// were last served. No step is taken before the one before it is written down,
// because it would not be safe to repeat; the only error is that this was not
// possible to the end.
func (r *rotator) run(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	step, at := r.look()
	for ctx.Err() == nil {
		if step == stepWait {
			r.wait(ctx, at)
			r.catchUp(ctx)
			step, at = r.look()
			continue
		}
		var err error
		step, at, err = r.work(ctx, step)
		r.giveTurn()
		if err != nil {
			return err
		}
	}
	return nil
}

// work takes steps until there is nothing to do but wait, all in one turn: who
// is in the midst of it does not stand back for somebody less urgent.
func (r *rotator) work(ctx context.Context, s step) (step, time.Time, error) {
	for {
		r.turn = r.turn || r.turns.take(ctx, r.rec.Current.NotAfter)
		if !r.turn {
			return s, time.Time{}, nil
		}
		rec, err := r.take(ctx, s)
		if err != nil && ctx.Err() != nil {
			return s, time.Time{}, nil
		}
		if err != nil {
			rec = r.failed(rec, s, err)
		} else {
			rec.settled(s)
		}
		if err := r.keep(ctx, rec); err != nil {
			return s, time.Time{}, err
		}
		next, at := r.look() // who gets an answer sees in the status what it was about
		r.answer(s, err)
		if next == stepWait || ctx.Err() != nil {
			return next, at, nil
		}
		s = next
	}
}

// giveTurn lets another of the same issuer's rotators work.
func (r *rotator) giveTurn() {
	if r.turn {
		r.turns.give()
	}
	r.turn = false
}

// look decides what is to be done now, and tells others.
func (r *rotator) look() (step, time.Time) {
	now := r.clock()
	c := circumstances{enrolled: r.enrollable(), doubted: r.doubted, window: r.spec.Window, share: share(r.host, r.name)}
	step, at := r.rec.next(now, c)
	due, why := r.rec.due(now, c)
	if step == stepReserve && why != "" {
		r.log.Info("certificate due", "certificate", r.name, "reason", why, "not_after", r.rec.Current.NotAfter)
	}
	r.snap.Store(&snapshot{record: r.rec, Step: step, At: at, Due: due, Why: why, Notice: r.notice, Missing: r.missing})
	return step, at
}

// keep writes rec down and makes it the one to go on from. Where it cannot be
// written, as on a full disk, it waits until it can: what an issuer has answered
// is worth more than any other step, and is known in this process alone. The
// only error is that ctx has ended before.
func (r *rotator) keep(ctx context.Context, rec record) error {
	for n := 1; ; n++ {
		err := r.save(rec)
		if err == nil {
			if n > 1 {
				r.log.Info("state written again", "certificate", r.name)
			}
			r.rec = rec
			return nil
		}
		err = fmt.Errorf("certificate %q: write state: %w", r.name, err)
		if ctx.Err() != nil {
			return err
		}
		if n == 1 {
			r.log.Error("state cannot be written; it is held in memory until it can", "certificate", r.name, "err", err)
		}
		r.hold(ctx, rec, n, err)
	}
}

// hold waits before state is written again, and says so to all who ask.
func (r *rotator) hold(ctx context.Context, rec record, n int, err error) {
	r.giveTurn()
	now := r.clock()
	rec.Error, rec.ErrorAt, rec.RetryAt = err.Error(), now, now.Add(backoff(n, time.Minute))
	for _, a := range r.waiting {
		a.Done <- err // it may come to a good end yet, but not while somebody waits
	}
	r.waiting = nil
	r.snap.Store(&snapshot{record: rec, Step: stepWait, At: rec.RetryAt, Due: rec.RetryAt, Notice: r.notice, Missing: r.missing})
	t := time.NewTimer(rec.RetryAt.Sub(now))
	defer t.Stop()
	for {
		select {
		case a := <-r.asks:
			a.Done <- err
			continue
		case <-ctx.Done():
		case <-t.C:
		}
		return
	}
}

// failed is the record after a step that failed: what is known of the failure,
// and when to try again.
func (r *rotator) failed(rec record, s step, err error) record {
	now := r.clock()
	rec.Failures++
	rec.Failed, rec.Error, rec.ErrorAt = s, err.Error(), now
	wait := backoff(rec.Failures, rec.Current.NotAfter.Sub(rec.Current.ReceivedAt))
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		wait = max(wait, e.RetryAfter)
		if e.Code == upstream.Lost {
			rec.Lost = e.Error() + "; " + e.Hint()
			wait = max(wait, time.Hour)
		}
	}
	rec.RetryAt, rec.HoldOff, rec.NoToken = now.Add(wait), now.Add(holdOff(err)), wantsToken(err)
	n := rec.Next
	if s == stepSubmit && n.Kind != upstream.Register && rec.Lost == "" && upstream.CertificateRefused(err) {
		r.suspect()
	}
	if n.Kind == upstream.Rotate && !n.Sent && definite(err) && !now.Before(rec.Current.urgentAt()) {
		// The issuer will not have this new key, and the end is near: what can
		// be had is the old key renewed.
		rec.giveUpNext(now)
	}
	attrs := []any{"certificate", r.name, "step", string(s), "err", err,
		"tries", rec.Failures, "retry_at", rec.RetryAt, "serving_until", rec.Current.NotAfter}
	if h := hintOf(err); h != "" {
		attrs = append(attrs, "hint", h)
	}
	r.log.Warn("certificate step failed", attrs...)
	r.emit(event{Type: eventRenewalFailed, Name: r.name, Generation: rec.Current.Generation, Serial: serialOf(rec.Current.Chain),
		NotAfter: rec.Current.NotAfter, Error: rec.Error, Tries: rec.Failures, Next: rec.RetryAt, At: now})
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

// wait waits until at, for a question, or for ctx.
func (r *rotator) wait(ctx context.Context, at time.Time) {
	// A wall clock that is set, or a host that was asleep, must not put a step
	// off: nothing is waited for longer than a minute at a stretch (rule T07).
	t := time.NewTimer(min(at.Sub(r.clock()), time.Minute))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
		if r.clock().Sub(at) > setBy {
			// So late it is because the clock was moved. That is noticed soon, and
			// then all line up; who goes now goes before somebody more urgent.
			t.Reset(clockCheck)
			select {
			case <-ctx.Done():
			case <-t.C:
			case <-r.wake:
				r.rec.hasten()
			}
		}
	case <-r.wake:
		r.rec.hasten()
	case <-r.doubts:
		r.suspect()
	case a := <-r.asks:
		r.ask(a)
	}
}

// ask takes up what an operator wants.
func (r *rotator) ask(a ask) {
	rec := r.rec
	rec.RetryAt = time.Time{}
	switch {
	case a.Creds != nil && !r.mayEnroll():
		a.Done <- &refusal{"invalid", fmt.Sprintf("%q is enrolled already; to replace its key, use `signet rotate %s`", r.name, r.name)}
		return
	case a.Creds != nil:
		r.given = a.Creds
		rec = rec.enrollAnew()
	case !rec.Current.exists() && !r.spec.OneTime && a.What == askedRenew:
		// The first one is on its way without being asked for.
	case !rec.Current.exists():
		verb := "renew"
		if r.spec.OneTime {
			verb = "enroll"
		}
		a.Done <- &refusal{"invalid", fmt.Sprintf("%q has no certificate yet; get it first with `signet %s %s`", r.name, verb, r.name)}
		return
	case rec.Lost != "":
		a.Done <- &refusal{"unavailable", rec.Lost}
		return
	case rec.yields(a.What, r.spec.Again):
		rec.giveUpNext(r.clock())
		rec.Asked = a.What
	case rec.Next.exists():
		// One is being made already: it serves an ask to renew. A new key is
		// made after it.
		if a.What != askedRenew {
			rec.Asked = a.What
		}
	default:
		rec.Asked = a.What
	}
	if err := r.save(rec); err != nil {
		a.Done <- fmt.Errorf("%q: write state: %w", r.name, err)
		return
	}
	r.rec = rec
	r.waiting = append(r.waiting, a)
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

// inUse is the chain that was last told to be in use; nil if none.
func (r *rotator) inUse() [][]byte {
	if s := r.snap.Load(); s != nil {
		return s.Current.Chain
	}
	return nil
}

// poke wakes the rotator, for example when the token has come back.
func (r *rotator) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

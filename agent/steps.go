package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// names are the subject alternative names of a certificate.
type names struct {
	DNS    []string
	IPs    []net.IP
	Emails []string
	URIs   []*url.URL
}

// take carries out one step and returns the record as it is after it. Every
// step can be repeated: a crash between take and save repeats it.
func (r *rotator) take(ctx context.Context, s step) (record, error) {
	rec := r.rec
	var err error
	switch s {
	case stepReserve:
		rec, err = r.reserve(rec)
	case stepMake:
		rec.Next, err = r.make(ctx, rec.Next)
	case stepSubmit:
		rec.Next, err = r.submit(ctx, rec.Next)
	case stepProve:
		rec.Next, err = r.prove(ctx, rec.Next)
	case stepPublish:
		rec, err = r.publishNext(ctx, rec)
	case stepRetire:
		rec, err = r.retire(ctx, rec)
	case stepWarn:
		rec = r.warn(rec)
	case stepCheck:
		rec, err = r.check(ctx, rec)
	}
	return rec, err
}

func (r *rotator) reserve(rec record) (record, error) {
	now := r.clock()
	v := version{Kind: rec.kind(now), Compromised: rec.Asked == askedCompromised}
	if v.Kind == upstream.Renew {
		v.KeyID, v.Generation, v.KeyMade = rec.Current.KeyID, rec.Current.Generation, rec.Current.KeyMade
	} else {
		id, gen, err := r.keys.Reserve(r.name)
		if err != nil {
			return rec, fmt.Errorf("reserve a key: %w", err)
		}
		v.KeyID, v.Generation, v.KeyMade = id, gen, now
	}
	rec.Next, rec.Asked = v, askedNothing
	return rec, nil
}

func (r *rotator) make(ctx context.Context, v version) (version, error) {
	key, err := r.keys.Ensure(ctx, v.KeyID)
	if err != nil {
		return v, fmt.Errorf("make key %s#%d: %w", r.name, v.Generation, err)
	}
	v.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     r.spec.Subject,
		DNSNames:    r.spec.Names.DNS,
		IPAddresses: r.spec.Names.IPs, EmailAddresses: r.spec.Names.Emails, URIs: r.spec.Names.URIs,
	}, key)
	if err != nil {
		return v, fmt.Errorf("sign the certificate request with %s#%d: %w", r.name, v.Generation, err)
	}
	return v, nil
}

// submit sends the request and checks the answer. That it is about to be sent
// is on disk before it is, because not every issuer can be asked twice.
func (r *rotator) submit(ctx context.Context, v version) (version, error) {
	if v.Refused != nil {
		if again, err := r.accept(v, upstream.Issued{Chain: v.Refused}); err == nil {
			return again, nil
		}
		if r.spec.Again {
			// To ask for the same would find the same.
			var err error
			if v, err = r.make(ctx, v.anew()); err != nil {
				return v, err
			}
		}
	}
	uncertain := v.Sent
	v, err := r.announce(v)
	if err != nil {
		return v, err
	}
	req, err := r.request(v, uncertain)
	if err != nil {
		return v, err
	}
	issued, err := r.issuer.Issue(ctx, req)
	if err != nil {
		// An answer that says no leaves nothing uncertain; no answer does.
		e, ok := errors.AsType[*upstream.Error](err)
		switch {
		case ok && !e.Sent && !uncertain:
			v.Sent = false
		case ok && !e.Sent && r.spec.Again && definite(err):
			v.Sent, v.RequestID = false, "" // nothing is to be had by that name
		}
		if v.Kind == upstream.Register && (definite(err) || ok && e.Status == http.StatusUnauthorized) {
			r.given = nil // wrong credentials are not tried again and again
		}
		return v, err
	}
	return r.accept(v, issued)
}

// announce writes down that v is about to be sent, and under which ID.
func (r *rotator) announce(v version) (version, error) {
	if v.Until = (time.Time{}); r.spec.Options.Duration > 0 {
		v.Until = r.clock().Add(r.spec.Options.Duration)
	}
	if v.Sent && v.RequestID != "" {
		return v, nil
	}
	sent := r.rec
	sent.Next = v
	sent.Next.Sent, sent.Next.RequestID = true, cmp.Or(v.RequestID, rand.Text())
	if err := r.save(sent); err != nil {
		return v, fmt.Errorf("write state before asking for the certificate: %w", err)
	}
	r.rec = sent
	return sent.Next, nil
}

// request is what the issuer is asked for.
func (r *rotator) request(v version, uncertain bool) (upstream.CertificateRequest, error) {
	req := upstream.CertificateRequest{
		Kind: v.Kind, ID: v.RequestID, CSR: v.CSR, NotAfter: v.Until, Uncertain: uncertain, Compromised: v.Compromised, Options: r.spec.Options,
	}
	if v.Kind != upstream.Register {
		cur, err := r.certificate(r.rec.Current)
		if err != nil {
			return req, err
		}
		req.Current = &cur
	}
	if r.given != nil && v.Kind == upstream.Register {
		req.Username, req.Password = r.given.Username, r.given.Password
	}
	return req, nil
}

// definite reports whether an upstream said no to what was asked, so that
// asking the same again is pointless.
func definite(err error) bool {
	switch upstream.CodeOf(err) {
	case upstream.Denied, upstream.NotFound, upstream.Invalid, upstream.Lost:
		return true
	}
	return false
}

// accept believes an issued chain, or says why not. One that is not believed is
// kept: not every issuer gives it twice.
func (r *rotator) accept(v version, issued upstream.Issued) (version, error) {
	want, err := r.wanted(v)
	if err != nil {
		return v, err
	}
	now := r.clock()
	leaf, err := checkChain(issued.Chain, want, now)
	var had version
	if err == nil {
		if had = r.rec.holding(leaf); had.exists() && !r.spec.AsIs {
			err = fmt.Errorf("it is the one with serial number %s again, which was issued before; ask the issuer's administrator why it issues no other, "+
				"or replace the key too with `signet rotate %s`", serialOf(issued.Chain), r.name)
		}
	}
	if err != nil {
		// An issuer that can be asked again is asked again; the record says Sent,
		// so one that cannot will be asked what happened.
		v.Refused = issued.Chain
		return v, fmt.Errorf("refused the certificate that was issued: %w", err)
	}
	v.Refused, v.Account = nil, r.spec.Account
	v.Chain, v.ReceivedAt, v.NotBefore, v.NotAfter = issued.Chain, now, leaf.NotBefore, leaf.NotAfter
	if had.exists() {
		// The issuer saw no need yet: the life is still the old one.
		v.ReceivedAt, v.Warned = had.ReceivedAt, had.Warned
	}
	s := share(r.host, r.name)
	v.RenewAt = later(renewAt(v.ReceivedAt, v.NotAfter, s), now.Add(minRenewal(v, now)))
	v.RotateAt = rotateAt(v.KeyMade, r.spec.RotateEvery, s)
	return v, nil
}

// wanted is what a certificate for v has to be.
func (r *rotator) wanted(v version) (wanted, error) {
	req, err := x509.ParseCertificateRequest(v.CSR)
	if err != nil {
		return wanted{}, fmt.Errorf("read back the certificate request: %w", err)
	}
	w := wanted{Key: req.PublicKey, Subject: r.spec.Subject, Names: r.spec.Names, Usage: r.spec.Usage, CA: r.spec.CA, NotAfter: v.Until, Roots: r.spec.Roots}
	if v.Kind == upstream.Renew && r.spec.AsIs {
		leaf, err := x509.ParseCertificate(r.rec.Current.Chain[0])
		if err != nil {
			return wanted{}, fmt.Errorf("read back the certificate: %w", err)
		}
		w.Subject, w.Names = leaf.Subject, names{leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses, leaf.URIs}
	}
	return w, nil
}

// minRenewal is the least time between two renewals, whatever the issuer sends
// (failures T12, T13): a twentieth of what is left, at least a second.
func minRenewal(v version, now time.Time) time.Duration {
	return max(v.NotAfter.Sub(now)/20, time.Second)
}

// certificate is a version as TLS uses it.
func (r *rotator) certificate(v version) (tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(v.Chain[0])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read back the certificate: %w", err)
	}
	return tls.Certificate{Certificate: v.Chain, Leaf: leaf, PrivateKey: r.keys.Signer(v.KeyID, leaf.PublicKey)}, nil
}

func (r *rotator) prove(ctx context.Context, v version) (version, error) {
	err := r.works(ctx, v)
	if err == nil {
		v.Proven = true
		return v, nil
	}
	if v.Kind == upstream.Renew && upstream.CertificateRefused(err) {
		v.Chain = nil // it is asked for again, and may be another one then
	}
	return v, fmt.Errorf("the new certificate did not work: %w", err)
}

// works uses a version for real, where the issuer can be asked.
func (r *rotator) works(ctx context.Context, v version) error {
	p, ok := r.issuer.(prover)
	if !ok {
		return nil
	}
	cert, err := r.certificate(v)
	if err != nil {
		return err
	}
	return p.Prove(ctx, cert)
}

func (r *rotator) publishNext(ctx context.Context, rec record) (record, error) {
	if err := r.publish(ctx, rec.Next); err != nil {
		return rec, fmt.Errorf("publish: %w", err)
	}
	now := r.clock()
	next, old := rec.Next, rec.Current
	rec.Current, rec.Next, r.doubted, r.missing = next, version{}, false, ""
	switch {
	case next.Kind == upstream.Register:
		r.burnCredentials()
		r.notice = ""
		old.DropAt = now // if there was one, its account is of no use any more
	case next.Compromised || rec.Asked == askedCompromised:
		old.DropAt = now
	case next.KeyID == old.KeyID:
		// Nothing is destroyed with it: it stays as a fallback until it ends.
		old.DropAt = old.NotAfter
	default:
		old.DropAt = now.Add(r.spec.Grace)
	}
	if old.exists() && !sameChain(old.Chain, next.Chain) {
		old.CSR = nil
		// One that is taken up again is not old any more.
		rec.Old = slices.DeleteFunc(slices.Clone(rec.Old), func(v version) bool { return sameChain(v.Chain, next.Chain) })
		rec.Old = append(rec.Old, old)
		for i, v := range rec.Old {
			// A key goes with the last certificate that it had in use, and those
			// that were kept from before go with it.
			if v.KeyID == old.KeyID && v.KeyID != next.KeyID && old.DropAt.Before(v.DropAt) {
				rec.Old[i].DropAt = old.DropAt
			}
		}
		slices.SortStableFunc(rec.Old, func(a, b version) int { return a.DropAt.Compare(b.DropAt) })
	}
	r.replaced(rec)
	if f := rec.Fallback; f.Refused != "" && f.Refused == serialOf(old.Chain) {
		r.tellFallback(f, next)
	} else {
		rec.Fallback = f.over()
		r.tell(old, next, now)
	}
	return rec, nil
}

// replaced has the ledger know which keys have a successor in use. It comes after
// publishing and before the record is written down: a crash on either side repeats it,
// by the step or at the start. Nothing else hangs on it, so a failure is only said.
func (r *rotator) replaced(rec record) {
	for _, v := range rec.Old {
		if v.KeyID == rec.Current.KeyID || v.KeyID == rec.Next.KeyID {
			continue
		}
		if err := r.keys.Replaced(v.KeyID); err != nil {
			r.log.Warn("ledger does not know that a key was replaced", "certificate", r.name, "generation", v.Generation, "err", err)
		}
	}
}

// tellFallback says that an older certificate is in use again.
func (r *rotator) tellFallback(f fallback, now version) {
	serial := serialOf(now.Chain)
	r.log.Warn("certificate is refused; an older one that works is in use again", "certificate", r.name, "refused", f.Refused, "why", f.Why,
		"serial", serial, "not_after", now.NotAfter, "retry_at", f.BackAt)
	r.emit(event{Type: eventCertificateFallback, Name: r.name, Generation: now.Generation, Serial: serial, NotAfter: now.NotAfter,
		Error: f.Why, Tries: f.Times, Next: f.BackAt, At: f.At})
}

// tell says what has changed, once, in the log and as an event.
func (r *rotator) tell(old, now version, at time.Time) {
	e := event{Name: r.name, Generation: now.Generation, Serial: serialOf(now.Chain), NotAfter: now.NotAfter, Next: now.RenewAt, At: at}
	switch {
	case !old.exists():
		e.Type = eventCertificateIssued
	case old.KeyID != now.KeyID:
		e.Type, e.Was = eventKeyRotated, old.Generation
	case sameChain(old.Chain, now.Chain):
		return
	default:
		e.Type = eventCertificateRenewed
	}
	r.log.Info("certificate changed", "certificate", r.name, "event", e.Type, "generation", now.Generation, "serial", e.Serial,
		"not_after", now.NotAfter, "renew_at", now.RenewAt)
	r.emit(e)
}

func (r *rotator) retire(ctx context.Context, rec record) (record, error) {
	old := rec.Old[0]
	if !rec.keyInUse(old.KeyID, 0) {
		if err := r.keys.Retire(ctx, old.KeyID); err != nil {
			return rec, fmt.Errorf("retire key %s#%d: %w", r.name, old.Generation, err)
		}
		r.log.Info("key retired", "certificate", r.name, "generation", old.Generation)
	}
	rec.Old = slices.Clone(rec.Old[1:])
	return rec, nil
}

// warn says, once for each certificate, that its end is near.
func (r *rotator) warn(rec record) record {
	cur := rec.Current
	r.log.Warn("certificate is near its end and was not replaced", "certificate", r.name, "not_after", cur.NotAfter,
		"tries", rec.Failures, "err", rec.Error)
	r.emit(event{Type: eventCertificateExpiring, Name: r.name, Generation: cur.Generation, Serial: serialOf(cur.Chain), NotAfter: cur.NotAfter,
		Error: rec.Error, Tries: rec.Failures, Source: sourceAgent, At: r.clock()})
	rec.Current.Warned = true
	return rec
}

package agent

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/upstream"
)

// backend is what the socket asks of the agent. Its errors are what callers are
// shown.
type backend struct{ *Agent }

// problem turns an error into one that a caller may see. What upstreams and the
// HSM say is in their own words, which hold no value.
func problem(err error) error {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*socket.Problem](err); ok {
		return p
	}
	if err == context.DeadlineExceeded || err == context.Canceled {
		return err // the caller's own time is over, of which the socket knows more
	}
	p := &socket.Problem{Code: socket.CodeUnavailable, Detail: err.Error(), Hint: hintOf(err)}
	if r, ok := errors.AsType[*refusal](err); ok {
		p.Code = r.code
	} else if e, ok := errors.AsType[*upstream.Error](err); ok {
		p.RetryAfter = e.RetryAfter
		if e.Code != upstream.Lost {
			p.Code = string(e.Code)
		}
	}
	return p
}

// Fetch is for socket.Backend.
func (b backend) Fetch(ctx context.Context, name string) error {
	for !b.isOpen() {
		changed := b.sealing().Changed()
		if err := b.locked(); err != nil {
			return problem(err)
		}
		select {
		case <-b.opened:
		case <-changed:
		case <-ctx.Done():
			return problem(b.notOpen())
		}
	}
	return notTheCaller(b.refresher.join(ctx, b.life, name))
}

// Refused is for socket.Backend.
func (b backend) Refused(ctx context.Context, name, version string) error {
	if !b.isOpen() {
		return problem(b.notOpen())
	}
	err := b.refresher.refused(ctx, b.life, name, version)
	if _, ok := errors.AsType[*refusal](err); !ok && !gone(err) {
		return nil // no better answer came: what is published is still the best there is
	}
	return problem(err)
}

// notTheCaller is the problem of what the agent asks an upstream of itself: that it
// asked wrongly, or too often, is no fault of who waits for the answer.
func notTheCaller(err error) error {
	err = problem(err)
	if p, ok := errors.AsType[*socket.Problem](err); ok && (p.Code == socket.CodeInvalid || p.Code == socket.CodeBusy) {
		p.Code = socket.CodeUnavailable
	}
	return err
}

// locked says why the agent's state cannot be read, or is nil where it can be, or
// nothing has failed yet.
func (a *Agent) locked() error {
	t := a.sealing()
	if t == nil || a.isOpen() {
		return nil
	}
	st := t.Status()
	if !st.Open && st.Err != nil {
		return fmt.Errorf("the agent's state cannot be opened without its HSM: %w", st.Err)
	}
	if err := a.unopened.Load(); err != nil && st.Open {
		return fmt.Errorf("the agent's state cannot be opened: %w", *err)
	}
	return nil
}

// notOpen is locked, but knows of the time before anything has failed too.
func (a *Agent) notOpen() error {
	if a.isOpen() {
		return nil
	}
	return cmp.Or(a.locked(), error(&refusal{socket.CodeUnavailable, "the data key is not unwrapped yet"}))
}

func (a *Agent) isOpen() bool {
	select {
	case <-a.opened:
		return true
	default:
		return false
	}
}

// Renew is for socket.Backend.
func (b backend) Renew(ctx context.Context, name string, rotate, compromised bool) (changed bool, err error) {
	r, ok := b.rotators[name]
	if !ok {
		return false, problem(&refusal{socket.CodeNotFound, fmt.Sprintf("no certificate or identity %q is configured", name)})
	}
	what := askedRenew
	switch {
	case compromised:
		what = askedCompromised
	case rotate:
		what = askedRotate
	}
	before := r.inUse()
	err = r.do(ctx, ask{What: what})
	return !sameChain(before, r.inUse()), problem(err)
}

// Enroll is for socket.Backend.
func (b backend) Enroll(ctx context.Context, name, username string, password secret.Value) error {
	r, ok := b.rotators[name]
	switch {
	case !ok:
		return problem(&refusal{socket.CodeNotFound, fmt.Sprintf("no identity %q is configured", name)})
	case !r.spec.OneTime:
		return problem(&refusal{socket.CodeInvalid, fmt.Sprintf("the issuer of %q wants no one-time credentials; it enrols by itself", name)})
	}
	return problem(r.do(ctx, ask{Creds: &credentials{username, password}}))
}

// keyOf is the version whose key answers to a name: the current one, or before
// the first certificate the one that is being made.
func (b backend) keyOf(name string) (version, error) {
	r, ok := b.rotators[name]
	if !ok {
		return version{}, &refusal{socket.CodeNotFound, fmt.Sprintf("no key %q is configured", name)}
	}
	snap := r.snap.Load()
	switch {
	case snap != nil && snap.Current.exists():
		return snap.Current, nil
	case snap != nil && snap.Next.CSR != nil:
		return snap.Next, nil
	}
	return version{}, b.noKeyYet(name)
}

// noKeyYet says why a key is not there. It is made as soon as the token is
// open, so what keeps it away is the token, or the one that holds the key which
// the agent's own state is sealed with.
func (b backend) noKeyYet(name string) error {
	if err := b.closed(name); err != nil {
		return err
	}
	if err := b.ready(time.Now()); err != nil && !b.isOpen() {
		return err
	}
	if snap := b.rotators[name].snap.Load(); snap != nil && snap.Error != "" {
		return &refusal{socket.CodeUnavailable, snap.Error}
	}
	return &refusal{socket.CodeUnavailable, fmt.Sprintf("key %q is not made yet", name)}
}

func publicOf(v version) (crypto.PublicKey, error) {
	if v.Chain != nil {
		leaf, err := x509.ParseCertificate(v.Chain[0])
		if err != nil {
			return nil, err
		}
		return leaf.PublicKey, nil
	}
	req, err := x509.ParseCertificateRequest(v.CSR)
	if err != nil {
		return nil, err
	}
	return req.PublicKey, nil
}

func pemOf(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// Sign is for socket.Backend.
func (b backend) Sign(ctx context.Context, name string, r socket.SignRequest) ([]byte, int, error) {
	v, err := b.keyOf(name)
	if err != nil {
		return nil, 0, problem(err)
	}
	if r.Generation != 0 && r.Generation != v.Generation {
		if v, err = b.generation(name, r.Generation); err != nil {
			return nil, 0, problem(err)
		}
	}
	k, ok := b.rotators[name].keys.(*tokenKeys)
	if !ok {
		return nil, 0, problem(&refusal{socket.CodeInvalid, fmt.Sprintf("key %q is in a file, not in the HSM", name)})
	}
	key, err := k.key(ctx, v.KeyID)
	if err != nil {
		return nil, 0, problem(err)
	}
	opts, data, err := signerOpts(key.Public(), name, r)
	if err != nil {
		return nil, 0, problem(err)
	}
	sig, err := key.SignContext(ctx, data, opts)
	return sig, v.Generation, problem(err)
}

// generation is an older version of a key that is still in its grace time.
func (b backend) generation(name string, n int) (version, error) {
	for _, v := range b.rotators[name].snap.Load().Old {
		if v.Generation == n {
			return v, nil
		}
	}
	return version{}, &refusal{socket.CodeNotFound, fmt.Sprintf("key %s#%d is not there any more", name, n)}
}

var hashes = map[string]crypto.Hash{"SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512}

// signerOpts are the options and the input that a request means for a key.
func signerOpts(pub crypto.PublicKey, name string, r socket.SignRequest) (crypto.SignerOpts, []byte, error) {
	bad := func(format string, args ...any) (crypto.SignerOpts, []byte, error) {
		return nil, nil, &refusal{socket.CodeInvalid, fmt.Sprintf("key %q: ", name) + fmt.Sprintf(format, args...)}
	}
	_, isRSA := pub.(*rsa.PublicKey)
	_, hasHash := hashes[r.Hash]
	switch isEd := keyTypeOf(pub) == hsm.Ed25519; {
	case isEd && hasHash:
		return bad("an Ed25519 key signs a message, not a digest")
	case isEd:
		return crypto.Hash(0), r.Message, nil
	case !hasHash:
		return bad("give hash and digest")
	case isRSA && r.Padding == "pss":
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hashes[r.Hash]}, r.Digest, nil
	case isRSA && r.Padding == "":
		return bad("give padding: pkcs1v15 or pss")
	case !isRSA && r.Padding != "":
		return bad("padding is for RSA keys")
	}
	return hashes[r.Hash], r.Digest, nil
}

// Token is for socket.Backend.
func (b backend) Token(ctx context.Context, name string) (*oauth2.Token, error) {
	s, ok := b.services[name]
	if !ok || s.tokens == nil {
		return nil, problem(&refusal{socket.CodeNotFound, fmt.Sprintf("no upstream %q with access tokens is configured", name)})
	}
	t, err := s.tokens.Token(ctx)
	return t, notTheCaller(err)
}

// Proxy is for socket.Backend.
func (b backend) Proxy(ctx context.Context, name string, r *http.Request) (*http.Response, error) {
	s, ok := b.services[name]
	if !ok {
		return nil, problem(&refusal{socket.CodeNotFound, fmt.Sprintf("no upstream %q is configured", name)})
	}
	resp, err := s.forward(r.WithContext(ctx))
	return resp, problem(err)
}

// Status is for socket.Backend.
func (b backend) Status(visible socket.Visible) any {
	s := b.status(time.Now())
	if visible == nil {
		return s
	}
	kinds := map[string]access.Kind{"secret": access.Secret, "certificate": access.Certificate, "identity": access.Key, "token": access.Token, "file": access.Admin}
	s.Items = slices.DeleteFunc(s.Items, func(it Item) bool { return !visible(kinds[it.Kind], it.Name) })
	s.Upstreams = slices.DeleteFunc(s.Upstreams, func(u Upstream) bool { return !visible(access.Proxy, u.Name) })
	s.Runway = runwayOf(s.Items, time.Now())
	return s
}

// Ready is for socket.Backend.
func (b backend) Ready() error { return problem(b.ready(time.Now())) }

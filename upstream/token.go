package upstream

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/oauth2"
)

// TokenSourceConfig says where access tokens come from.
type TokenSourceConfig struct {
	// Fetch asks the upstream for a token. It may set Expiry or ExpiresIn; the
	// latter is counted from when Fetch was called.
	Fetch func(context.Context) (*oauth2.Token, error)
	// OnNew, if not nil, is told of each token that is taken into use, one at a
	// time and in order. It must not call Put.
	OnNew func(*oauth2.Token)
	// Timeout is how long one fetch may take. If 0, it is 30 seconds.
	Timeout time.Duration
}

// A TokenSource keeps one access token and renews it ahead. However many ask,
// one fetch is under way at a time, and it does not end with the caller who
// happened to start it.
//
// An answer that comes after its fetch was given up, or after a Put, is dropped.
// So a Fetch that gets a new refresh token has to keep it itself.
type TokenSource struct {
	cfg TokenSourceConfig

	mu        sync.Mutex
	now       *held                      // the token in use, or nil; guarded by mu
	busy      *flight                    // the fetch under way, or nil; guarded by mu
	wait      backoff.ExponentialBackOff // guarded by mu
	notBefore time.Time                  // no fetch before this; guarded by mu
	failed    error                      // why not; guarded by mu

	telling sync.Mutex // held while OnNew runs, so that tokens are told in order
}

// held is a token with its times, on the wall clock so that a suspended host
// does not keep a dead one.
type held struct {
	token *oauth2.Token
	due   time.Time // to be renewed from then on; zero is never
	end   time.Time // not to be used from then on; zero is never
}

// flight is one fetch. Without token and err it was overtaken.
type flight struct {
	done  chan struct{}
	token *oauth2.Token // may be read once done is closed
	err   error         // may be read once done is closed

	refused []string // tokens evicted meanwhile; guarded by TokenSource.mu
	void    bool     // a token was put meanwhile; guarded by TokenSource.mu
}

// NewTokenSource makes a source without a token.
func NewTokenSource(cfg TokenSourceConfig) *TokenSource {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	s := &TokenSource{cfg: cfg}
	s.wait = *backoff.NewExponentialBackOff() // jitter is half the interval either way, so never zero
	s.wait.InitialInterval, s.wait.MaxInterval = time.Second, 15*time.Second
	return s
}

// Token returns a token that can be used now. It waits only if there is none:
// one that is due for renewal is returned while its successor is fetched. After
// a failed fetch without a token in hand the failure is the answer until the
// upstream may be asked again.
func (s *TokenSource) Token(ctx context.Context) (*oauth2.Token, error) {
	for {
		token, f, err := s.look()
		if token != nil || err != nil {
			return token, err
		}
		select {
		case <-f.done:
			if f.token != nil || f.err != nil {
				return f.token, f.err
			}
			// Overtaken: what counts is what is held now.
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look returns the token in use, else why there is none, else the fetch to wait
// for. It starts a fetch when one is due.
func (s *TokenSource) look() (*oauth2.Token, *flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Round(0)
	usable := s.now != nil && (s.now.end.IsZero() || now.Before(s.now.end))
	due := !usable || !s.now.due.IsZero() && !now.Before(s.now.due)
	held := s.failed != nil && now.Before(s.notBefore)
	if due && s.busy == nil && !held {
		s.start()
	}
	switch {
	case usable:
		return s.now.token, nil, nil
	case s.busy != nil:
		return nil, s.busy, nil
	}
	return nil, nil, s.refusal(now)
}

// refusal is the last failure, with the rest of the time that the upstream asked
// to wait. s.mu is held.
func (s *TokenSource) refusal(now time.Time) error {
	e, ok := errors.AsType[*Error](s.failed)
	if !ok || e.RetryAfter == 0 {
		return s.failed
	}
	rest := *e
	rest.RetryAfter = s.notBefore.Sub(now)
	return &rest
}

// Due is when the token in use is to be renewed: zero if never, the past if
// there is none. A caller that asks for a Token then keeps it fresh for others.
func (s *TokenSource) Due() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.now == nil && s.failed != nil:
		return s.notBefore
	case s.now == nil:
		return time.Now().Round(0)
	case s.failed != nil && s.notBefore.After(s.now.due):
		return s.notBefore
	}
	return s.now.due
}

// Until is when the token in use ends, and whether there is one that can still
// be used. The zero time is never.
func (s *TokenSource) Until() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || !s.now.end.IsZero() && !time.Now().Round(0).Before(s.now.end) {
		return time.Time{}, false
	}
	return s.now.end, true
}

// Evict throws the given access token away, because the upstream refused it. If
// another one is in use by now, that one stays.
func (s *TokenSource) Evict(accessToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil && s.now.token.AccessToken == accessToken {
		s.now = nil
	}
	if s.busy != nil {
		// The fetch may have been answered with this very token before the
		// upstream gave it up.
		s.busy.refused = append(s.busy.refused, accessToken)
	}
}

// Put takes a token into use that was got otherwise, such as by a log-in or
// from a store. A fetch under way will not replace it.
func (s *TokenSource) Put(token *oauth2.Token) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	if s.busy != nil {
		s.busy.void = true
	}
	stored := *token
	if !stored.Expiry.IsZero() {
		stored.ExpiresIn = 0 // counted from a request made long ago
	}
	now := time.Now().Round(0)
	t := s.keep(&stored, now, now)
	s.failed = nil
	s.wait.Reset()
	s.mu.Unlock()
	if s.cfg.OnNew != nil {
		s.cfg.OnNew(t)
	}
}

// start begins a fetch. s.mu is held.
func (s *TokenSource) start() {
	f := &flight{done: make(chan struct{})}
	s.busy = f
	go s.fly(f)
}

// fly makes one fetch and takes its answer into use, unless it took too long or
// was overtaken.
func (s *TokenSource) fly(f *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout)
	defer cancel()
	began := time.Now().Round(0)
	type answer struct {
		token *oauth2.Token
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		token, err := s.cfg.Fetch(ctx)
		answers <- answer{token, err}
	}()
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		// A Fetch that ends on time gives the better error; one that does not
		// is given up, and what it still brings is dropped.
		select {
		case a = <-answers:
		case <-time.After(time.Second):
			a.err = context.DeadlineExceeded
		}
	}
	if a.err == nil && (a.token == nil || a.token.AccessToken == "") {
		a.err = errors.New("answer without an access token")
	}
	s.land(f, began, a.token, a.err)
}

// land ends a flight.
func (s *TokenSource) land(f *flight, began time.Time, token *oauth2.Token, err error) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	now := time.Now().Round(0)
	s.busy = nil
	switch {
	case f.void, err == nil && slices.Contains(f.refused, token.AccessToken):
		// Overtaken: nothing of it counts.
	case err != nil:
		pause := s.wait.NextBackOff()
		if e, ok := errors.AsType[*Error](err); ok {
			pause = max(pause, e.RetryAfter)
		}
		s.failed, s.notBefore, f.err = err, now.Add(pause), err
	default:
		f.token = s.keep(token, began, now)
		s.failed = nil
		s.wait.Reset()
	}
	s.mu.Unlock()
	close(f.done)
	if f.token != nil && s.cfg.OnNew != nil {
		s.cfg.OnNew(f.token)
	}
}

// keep takes token into use with its life counted from began. s.mu is held.
func (s *TokenSource) keep(token *oauth2.Token, began, now time.Time) *oauth2.Token {
	t := *token
	switch {
	case t.ExpiresIn > 0:
		t.Expiry = began.Add(time.Duration(t.ExpiresIn) * time.Second)
	case !t.Expiry.IsZero():
		// x/oauth2 counts from the answer. An instant that the upstream itself
		// named only comes out a little early.
		t.Expiry = t.Expiry.Round(0).Add(-now.Sub(began))
	}
	h := &held{token: &t}
	if !t.Expiry.IsZero() {
		life := t.Expiry.Sub(began)
		ahead := min(time.Minute, life/5)
		h.due = t.Expiry.Add(-ahead)
		h.end = t.Expiry.Add(-ahead / 6) // leaves the call it is used for some time
	}
	s.now = h
	return &t
}

// NoToken is the error of a call that was not made for want of an access token.
type NoToken struct {
	Err error // why there is none
}

func (e *NoToken) Error() string { return e.Err.Error() }

// Unwrap makes it count as the failure to get the token.
func (e *NoToken) Unwrap() error { return e.Err }

// Authorized makes a call with a token of ts. The error is a *NoToken if there
// is none. If the token is refused by a 401,
// in the answer or in the *Error, it is thrown away and the call made once more
// with another.
func Authorized(ctx context.Context, ts *TokenSource, do func(*oauth2.Token) (*Response, error)) (*Response, error) {
	for last := false; ; last = true {
		token, err := ts.Token(ctx)
		if err != nil {
			return nil, &NoToken{err}
		}
		resp, err := do(token)
		if !unauthorized(resp, err) || last {
			return resp, err
		}
		ts.Evict(token.AccessToken)
	}
}

func unauthorized(resp *Response, err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status == http.StatusUnauthorized
	}
	return err == nil && resp != nil && resp.Status == http.StatusUnauthorized
}

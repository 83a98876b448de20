package ciphertrust

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// A LoginRequest is what a person gives to log the agent in.
type LoginRequest struct {
	// Username and Password; without a password that of the configuration, and
	// without a name too its user.
	Username string
	Password secret.Value
	// Life is how long the login is to last. If 0, it is as configured, or the
	// server's limit where that is shorter.
	Life time.Duration
	// URL, if not "", has to be the server's: the person means that one.
	URL string
	// RefreshToken and ClientID are a refresh token of another program. It is
	// used as it is if there is neither name nor password, and else revoked
	// once the login has a token of its own.
	RefreshToken secret.Value
	ClientID     string
	// Share asks for the refresh token in the answer, for another program.
	Share bool
}

// LoginResult is what a login came to.
type LoginResult struct {
	Username string
	URL      string
	Until    time.Time // zero if that is not known
	// RefreshToken and ClientID are set if the request has Share.
	RefreshToken secret.Value
	ClientID     string
}

const (
	opLogin  = "log in"
	opLogout = "log out"
)

// Login logs in as a person asks, in place of the login of before, which is
// revoked. If it fails, that one stays.
func (l *Login) Login(ctx context.Context, r LoginRequest) (LoginResult, error) {
	l.mu.Lock()
	token, err := l.byPerson(ctx, r)
	result := LoginResult{Username: l.s.Username, URL: l.cfg.URL, Until: l.s.Until}
	if r.Share {
		result.RefreshToken, result.ClientID = l.s.Token.Token, l.s.Token.ClientID
	}
	l.mu.Unlock()
	if err != nil {
		return LoginResult{}, err
	}
	l.tokens.Put(token)
	return result, nil
}

// byPerson is Login without the answer. l.mu is held.
func (l *Login) byPerson(ctx context.Context, r LoginRequest) (*oauth2.Token, error) {
	switch {
	case l.cfg.Grant == GrantClientCredential:
		return nil, l.errNoLogin(opLogin, "this upstream logs in by its client certificate alone and has no session")
	case r.URL != "" && !sameServer(r.URL, l.cfg.URL):
		return nil, l.errNoLogin(opLogin, "the agent's configuration has another url for this upstream: "+l.cfg.URL)
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	l.gate = gate{} // a person has looked into it
	given := refreshToken{Token: r.RefreshToken, ClientID: r.ClientID}
	if given.exists() && r.Username == "" && len(r.Password.Reveal()) == 0 {
		return l.adopt(ctx, given)
	}
	in, err := l.personal(r)
	if err != nil {
		return nil, err
	}
	limit, err := l.limit(ctx, in)
	if err != nil {
		return nil, refusedPerson(err)
	}
	if in.life, err = l.lifeFor(r.Life, limit); err != nil {
		return nil, err
	}
	a, err := l.signIn(ctx, in)
	if err != nil {
		return nil, refusedPerson(err)
	}
	if given.exists() && !given.Token.Equal(l.s.Token.Token) {
		next := l.s
		next.Old = append(next.Old, given)
		if err := l.save(next); err != nil {
			return nil, err
		}
	}
	l.tidy(ctx, a)
	return l.token(a), nil
}

// personal is the login that a request asks for.
func (l *Login) personal(r LoginRequest) (signIn, error) {
	in := signIn{username: r.Username, password: r.Password, shared: r.Share}
	switch {
	case len(r.Password.Reveal()) > 0:
		if in.username == "" {
			in.username = l.cfg.Username
		}
		if in.username == "" {
			return in, l.errNoLogin(opLogin, "no user name is given, and none is configured")
		}
		in.request = l.passwordGrant(in.username, r.Password)
		return in, nil
	case r.Username != "" && r.Username != l.cfg.Username || !l.unattended():
		return in, l.errNoLogin(opLogin, "no password is given, and none is configured")
	}
	var err error
	in.username = l.cfg.Username
	in.request, in.password, err = l.credentials()
	return in, err
}

// limit is the longest life that the server allows, 0 being none. To be told
// before it is asked for more, it is read with the login of before, or else
// with one that is over at once.
func (l *Login) limit(ctx context.Context, in signIn) (time.Duration, error) {
	if l.s.Token.exists() && !l.s.Out {
		r := tokenRequest{Grant: GrantRefreshToken, RefreshToken: string(l.s.Token.Token.Reveal()), ClientID: l.s.Token.ClientID, Domain: l.cfg.Domain}
		if a, err := l.client.grant(ctx, r); err == nil {
			if a.RefreshToken != "" {
				if err := l.replaced(ctx, a); err != nil {
					return 0, err
				}
			}
			if limit, err := l.as(a.JWT).MaximumRefreshTokenLifetime(ctx); err == nil {
				return limit, nil
			}
		}
	}
	probe := in.request.limited(time.Minute, time.Minute)
	probe.Labels = l.labels()
	a, err := l.guarded(ctx, probe, in.password)
	if err != nil {
		return 0, err
	}
	limit, err := l.as(a.JWT).MaximumRefreshTokenLifetime(ctx)
	if err != nil {
		limit = 0 // this user may not read it; the server holds to it all the same
	}
	if a.RefreshToken != "" {
		next := l.s
		next.Old = append(next.Old, refreshToken{Token: secret.New([]byte(a.RefreshToken)), ID: a.RefreshTokenID, ClientID: a.ClientID})
		if err := l.save(next); err != nil {
			return 0, err
		}
		l.jwt = a.JWT
		l.revokeOld(ctx)
	}
	return limit, nil
}

// lifeFor is the life to ask for, or says that it is more than the server
// allows.
func (l *Login) lifeFor(asked, limit time.Duration) (time.Duration, error) {
	switch {
	case asked == 0 && limit > 0:
		return min(l.cfg.Life, limit), nil
	case asked == 0:
		return l.cfg.Life, nil
	case limit > 0 && asked > limit:
		e := l.client.failed(call{op: opLogin}, upstream.Invalid,
			fmt.Sprintf("a life of %s is asked for, and the server's %s is %s", Span(asked), propertyCap, Span(limit)))
		e.Remedy = "ask for " + Span(limit) + " at most"
		return 0, e
	}
	return asked, nil
}

// adopt goes on with a refresh token that another program has got.
func (l *Login) adopt(ctx context.Context, given refreshToken) (*oauth2.Token, error) {
	a, err := l.client.grant(ctx, tokenRequest{
		Grant: GrantRefreshToken, RefreshToken: string(given.Token.Reveal()), ClientID: given.ClientID, Domain: l.cfg.Domain})
	if err != nil {
		return nil, refusedPerson(err)
	}
	next := l.s
	if !given.Token.Equal(l.s.Token.Token) {
		next.condemn()
	}
	if a.RefreshToken != "" { // in place of the one given
		given.Token, given.ID = secret.New([]byte(a.RefreshToken)), a.RefreshTokenID
	}
	next.Token, next.Shared, next.Out = given, true, false
	next.Since, next.Until, next.Idle, next.Username = time.Now().Round(0), time.Time{}, 0, ""
	if user, err := l.as(a.JWT).Self(ctx); err == nil {
		next.Username = user.Username
	}
	if err := l.save(next); err != nil {
		return nil, err
	}
	l.dead = false
	l.note()
	l.tidy(ctx, a)
	return l.token(a), nil
}

// Logout revokes the refresh token. Nobody but a person logs in again after it,
// across restarts too.
func (l *Login) Logout(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cfg.Grant == GrantClientCredential {
		return l.errNoLogin(opLogout, "this upstream logs in by its client certificate alone and has no session")
	}
	if err := l.load(); err != nil {
		return err
	}
	if !l.s.Token.exists() && len(l.s.Old) == 0 {
		return l.errNoLogin(opLogout, "there is no login to revoke")
	}
	next := l.s
	next.condemn()
	next.Out = true
	if err := l.save(next); err != nil {
		return err
	}
	l.revokeOld(ctx)
	if l.jwt != "" {
		l.tokens.Evict(l.jwt)
		l.jwt = ""
	}
	if len(l.s.Old) > 0 {
		e := l.client.failed(call{op: opLogout}, upstream.Unavailable, "logged out here, but the server did not answer")
		e.Remedy = "the refresh token is revoked as soon as the server answers"
		return e
	}
	return nil
}

// refusedPerson is the error of a login that a person tried: a refused password
// is a refusal.
func refusedPerson(err error) error {
	if e, ok := asError(err); ok && e.Status == http.StatusUnauthorized {
		f := *e
		f.Op, f.Code, f.RetryAfter = opLogin, upstream.Denied, 0
		return &f
	}
	return err
}

// sameServer reports whether two URLs are of the same scheme, host and port.
func sameServer(a, b string) bool {
	key := func(s string) string {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return "?" + s
		}
		port := u.Port()
		if port == "" {
			port = "443"
		}
		return strings.ToLower(u.Scheme + "://" + u.Hostname() + ":" + port)
	}
	return key(a) == key(b)
}

// Span is a duration as logins are spoken of: "10 days, 10 hours".
func Span(d time.Duration) string {
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		n := int64(d / u.unit)
		d %= u.unit
		switch {
		case n == 1:
			parts = append(parts, "1 "+u.name)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, u.name))
		}
	}
	if len(parts) == 0 {
		return "less than a minute"
	}
	return strings.Join(parts, ", ")
}

package ciphertrust

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// LoginConfig says as whom to log in, and how.
type LoginConfig struct {
	HTTP *upstream.HTTP
	// Keeper keeps the refresh token. The grant client_credential has none and
	// needs none.
	Keeper Keeper
	// URL is the server's: a refresh token is not sent to another.
	URL string
	// Host labels the refresh token in the server's list.
	Host string
	// Grant is one of the Grant constants.
	Grant string

	Username string
	// Password reads the password, at each login anew. If nil, a person has to
	// log in.
	Password   func() (secret.Value, error)
	Connection string
	Domain     string
	AuthDomain string
	ClientID   string
	// RefreshToken reads the token of the grant refresh_token.
	RefreshToken func() (secret.Value, error)
	// Life and Idle are the limits of the refresh tokens that are asked for.
	Life, Idle time.Duration

	Log *slog.Logger // if nil, nothing is logged
	// OnToken is told of API tokens.
	OnToken func(*oauth2.Token)
}

// A Login keeps the agent logged in: it gets API tokens and looks after the
// refresh token that they are got with.
type Login struct {
	cfg    LoginConfig
	client *Client // without a token
	tokens *upstream.TokenSource
	status atomic.Pointer[LoginStatus]

	mu     sync.Mutex
	s      session // as it is kept; guarded by mu
	loaded bool    // guarded by mu
	gate   gate    // guarded by mu
	jwt    string  // the newest API token; guarded by mu
	dead   bool    // the server refused the refresh token at the last try; guarded by mu
}

// LoginStatus is how the login stands.
type LoginStatus struct {
	Username string
	Until    time.Time // when the refresh token ends; zero if that is not known
	// Waiting says that a person has to log in.
	Waiting bool
	Out     bool // somebody has logged out
	// Capped is the server's limit, where it is below the life asked for.
	Capped time.Duration
}

// NewLogin makes a Login; it does not connect.
func NewLogin(cfg LoginConfig) *Login {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Login{cfg: cfg, client: New(Config{HTTP: cfg.HTTP})}
	l.tokens = upstream.NewTokenSource(upstream.TokenSourceConfig{
		Fetch: l.fetch, OnNew: cfg.OnToken,
	})
	return l
}

// Tokens is where API tokens come from.
func (l *Login) Tokens() *upstream.TokenSource { return l.tokens }

// Status is how the login stands, as far as it was used.
func (l *Login) Status() LoginStatus {
	if s := l.status.Load(); s != nil {
		return *s
	}
	return LoginStatus{}
}

// fetch gets an API token: with the refresh token where there is one, and else
// by a login.
func (l *Login) fetch(ctx context.Context) (*oauth2.Token, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cfg.Grant == GrantClientCredential {
		a, err := l.guarded(ctx, tokenRequest{Grant: GrantClientCredential, ClientID: l.cfg.ClientID}, secret.Value{})
		if err != nil {
			return nil, ofLogin(err)
		}
		return l.token(a), nil
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	l.revokeOld(ctx)
	if l.s.Out {
		return nil, l.waiting("somebody has logged out")
	}
	if l.s.Token.exists() {
		token, err := l.reuse(ctx)
		l.judge(err)
		if !l.dead {
			return token, ofLogin(err)
		}
	}
	return l.enter(ctx)
}

// judge takes up whether the server accepts the refresh token. One that it
// refuses is kept: that of a locked user works again when the lock is gone, and
// a login in its place revokes it.
func (l *Login) judge(err error) {
	dead := is(err, http.StatusUnauthorized)
	if dead && !l.dead {
		l.cfg.Log.Warn("refresh token refused: it was revoked, not used for too long, its life is over, or its user is locked",
			"upstream", l.client.http.Name(), "err", err, "until", l.s.Until)
	}
	l.dead = dead
	l.note()
}

// enter logs in with what the configuration gives, if it gives anything.
func (l *Login) enter(ctx context.Context) (*oauth2.Token, error) {
	switch {
	case !l.unattended() && l.dead:
		return nil, l.waiting("the server refuses the refresh token")
	case !l.unattended():
		return nil, l.waiting("nobody is logged in")
	}
	r, password, err := l.credentials()
	if err != nil {
		return nil, err
	}
	life := l.cfg.Life
	if l.s.Cap > 0 {
		life = min(life, l.s.Cap)
	}
	a, err := l.signIn(ctx, signIn{request: r, password: password, life: life, username: l.cfg.Username})
	if err != nil {
		return nil, ofLogin(err)
	}
	l.tidy(ctx, a)
	return l.token(a), nil
}

// unattended reports whether a login needs no person.
func (l *Login) unattended() bool {
	return l.cfg.Grant == GrantPassword && l.cfg.Password != nil || l.cfg.Grant == GrantUserCertificate
}

// credentials are the login that the configuration gives.
func (l *Login) credentials() (tokenRequest, secret.Value, error) {
	r := tokenRequest{Grant: l.cfg.Grant, Domain: l.cfg.Domain, ClientID: l.cfg.ClientID}
	if l.cfg.Grant == GrantUserCertificate {
		return r, secret.Value{}, nil
	}
	password, err := l.cfg.Password()
	if err != nil {
		e := l.client.failed(call{op: opToken}, upstream.Unavailable, "password cannot be read")
		e.Err, e.Remedy = err, "check the file that the upstream's auth.password names"
		return r, password, e
	}
	return l.passwordGrant(l.cfg.Username, password), password, nil
}

func (l *Login) passwordGrant(username string, password secret.Value) tokenRequest {
	return tokenRequest{
		Grant: GrantPassword, Username: username, Password: string(password.Reveal()),
		Connection: l.cfg.Connection, Domain: l.cfg.Domain, AuthDomain: l.cfg.AuthDomain, ClientID: l.cfg.ClientID,
	}
}

// reuse gets an API token with the refresh token.
func (l *Login) reuse(ctx context.Context) (*oauth2.Token, error) {
	now := time.Now()
	if l.unattended() && l.ending(now, 10) {
		token, err := l.enter(ctx)
		if err == nil {
			return token, nil
		}
		l.cfg.Log.Warn("login not renewed; going on with the refresh token of before", "upstream", l.client.http.Name(),
			"err", err, "until", l.s.Until)
	}
	r := tokenRequest{
		Grant: GrantRefreshToken, RefreshToken: string(l.s.Token.Token.Reveal()), ClientID: l.s.Token.ClientID, Domain: l.cfg.Domain,
		// Without a password the only way to a longer life.
		Renew: !l.unattended() && !l.s.Shared && l.ending(now, 3),
	}
	if r.Renew {
		next := l.s
		next.Unsure = true
		if err := l.save(next); err != nil {
			return nil, err
		}
	}
	a, err := l.client.grant(ctx, r)
	if err != nil {
		return nil, err
	}
	if a.RefreshToken != "" {
		if err := l.replaced(ctx, a); err != nil {
			return nil, err
		}
	}
	l.tidy(ctx, a)
	return l.token(a), nil
}

// ending reports whether the last nth of the refresh token's life has begun.
func (l *Login) ending(now time.Time, n time.Duration) bool {
	return !l.s.Until.IsZero() && !now.Before(l.s.Until.Add(-l.s.Until.Sub(l.s.Since)/n))
}

// replaced takes over a refresh token that came in place of the one used.
func (l *Login) replaced(ctx context.Context, a *tokenAnswer) error {
	next := l.s
	next.Token = refreshToken{Token: secret.New([]byte(a.RefreshToken)), ID: a.RefreshTokenID, ClientID: l.s.Token.ClientID}
	if a.ClientID != "" {
		next.Token.ClientID = a.ClientID
	}
	next.Since, next.Unsure = time.Now().Round(0), false
	if err := l.save(next); err != nil {
		return err
	}
	l.cfg.Log.Info("refresh token replaced", "upstream", l.client.http.Name())
	// How long the new one lives only the server knows.
	if t, err := l.as(a.JWT).Token(ctx, next.Token.ID); err == nil && !t.ExpiresAt.IsZero() {
		next.Until = t.ExpiresAt
		return l.save(next)
	}
	return nil
}

// token is an answer as an access token. Its life is cut short where that is
// what keeps the refresh token within its idle limit: each renewal uses it.
func (l *Login) token(a *tokenAnswer) *oauth2.Token {
	l.jwt = a.JWT
	life := time.Duration(a.Duration) * time.Second
	for _, idle := range []time.Duration{l.s.Idle, time.Duration(a.RefreshExpiresIn) * time.Second} {
		if idle > 0 {
			life = min(life, idle*5/8) // renewed at four fifths of it, so at half the limit
		}
	}
	return &oauth2.Token{AccessToken: a.JWT, TokenType: "Bearer", ExpiresIn: max(int64(life/time.Second), 1)}
}

// as is a client with an API token.
func (l *Login) as(jwt string) *Client { return &Client{http: l.cfg.HTTP, bearer: jwt} }

// waiting is the error while a person is needed.
func (l *Login) waiting(why string) error {
	e := l.client.failed(call{op: opToken}, upstream.Unavailable, why)
	e.Remedy = fmt.Sprintf("run `signet login %s`", l.client.http.Name())
	if l.cfg.Grant == GrantRefreshToken {
		e.Remedy = "put a new refresh token where the upstream's auth.refresh_token reads it, or " + e.Remedy
	}
	e.RetryAfter = time.Minute
	l.note()
	return e
}

// load reads what was kept, once, and looks for a new refresh token in its file.
func (l *Login) load() error {
	if !l.loaded {
		text, err := l.cfg.Keeper.Load()
		if err != nil {
			return fmt.Errorf("read the kept login: %w", err)
		}
		l.s = session{}
		if text != nil {
			if l.s, err = unmarshalSession(text); err != nil {
				l.cfg.Log.Error("kept login not used", "upstream", l.client.http.Name(), "err", err)
				l.s = session{}
			}
		}
		l.loaded = true
		l.settle()
		l.note()
	}
	return l.seed()
}

// settle fits what was kept to the configuration of today.
func (l *Login) settle() {
	if l.s.Agent == "" || l.s.URL != l.cfg.URL {
		// What another server gave is neither sent to this one, nor can it be
		// revoked here.
		l.s = session{Agent: rand.Text()[:16], URL: l.cfg.URL, For: l.cfg.Username, Domain: l.cfg.Domain}
		return
	}
	if l.s.For != l.cfg.Username || l.s.Domain != l.cfg.Domain {
		l.s.condemn()
		l.s.For, l.s.Domain, l.s.Seed, l.s.Out = l.cfg.Username, l.cfg.Domain, nil, false
	}
}

// condemn puts the token among those that are to be revoked.
func (s *session) condemn() {
	if s.Token.exists() {
		s.Old = append(slices.Clone(s.Old), s.Token)
	}
	s.Token, s.Until = refreshToken{}, time.Time{}
}

// seed takes the refresh token of the grant refresh_token out of its file, if
// it is not the one that was taken before.
func (l *Login) seed() error {
	if l.cfg.Grant != GrantRefreshToken {
		return nil
	}
	token, err := l.cfg.RefreshToken()
	if err != nil {
		if l.s.Token.exists() {
			return nil // the file has done its work
		}
		e := l.client.failed(call{op: opToken}, upstream.Unavailable, "refresh token cannot be read")
		e.Err, e.Remedy = err, "check the file that the upstream's auth.refresh_token names"
		return e
	}
	sum := sha256.Sum256(token.Reveal())
	if bytes.Equal(sum[:], l.s.Seed) {
		return nil
	}
	next := l.s
	next.condemn()
	next.Token = refreshToken{Token: token, ClientID: l.cfg.ClientID}
	l.dead = false
	next.Seed, next.Shared, next.Out, next.Idle = sum[:], true, false, 0
	next.Since = time.Now().Round(0)
	return l.save(next)
}

// save makes next the session once it is kept.
func (l *Login) save(next session) error {
	text, err := next.marshal()
	if err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	if err := l.cfg.Keeper.Save(text); err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	clear(text)
	l.s = next
	l.note()
	return nil
}

// note tells Status how it stands.
func (l *Login) note() {
	st := &LoginStatus{Username: l.s.Username, Until: l.s.Until, Out: l.s.Out}
	st.Waiting = l.s.Out || !l.unattended() && (l.dead || !l.s.Token.exists())
	if l.s.Cap > 0 && l.s.Cap < l.cfg.Life {
		st.Capped = l.s.Cap
	}
	l.status.Store(st)
}

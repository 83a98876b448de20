package ciphertrust

import (
	"context"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// A signIn is one login that gives a refresh token.
type signIn struct {
	request  tokenRequest
	password secret.Value
	life     time.Duration
	username string
	shared   bool
}

// signIn logs in and takes the new refresh token into use in place of the one of
// before, which is revoked. That a token may come into being is kept before it
// is asked for; the token itself is kept before it is used.
func (l *Login) signIn(ctx context.Context, in signIn) (*tokenAnswer, error) {
	unsure := l.s.Unsure
	next := l.s
	next.Unsure = true
	if err := l.save(next); err != nil {
		return nil, err
	}
	began := time.Now().Round(0)
	idle := min(l.cfg.Idle, in.life)
	r := in.request.limited(in.life, idle)
	r.Labels = l.labels()
	a, err := l.guarded(ctx, r, in.password)
	if err != nil {
		if definite(err) {
			next.Unsure = unsure // nothing came into being
			if serr := l.save(next); serr != nil {
				return nil, serr
			}
		}
		return nil, err
	}
	next.condemn()
	next.Unsure, next.Out, next.Shared, next.Seed = unsure, false, in.shared, l.s.Seed
	next.Username, next.Since, next.Idle = in.username, began, time.Duration(r.RevokeUnused)*time.Minute
	next.Until = began.Add(time.Duration(r.Lifetime) * time.Minute)
	next.Token = refreshToken{ID: a.RefreshTokenID, ClientID: a.ClientID}
	if a.RefreshToken != "" {
		next.Token.Token = secret.New([]byte(a.RefreshToken))
	}
	if err := l.save(next); err != nil {
		_ = l.client.revoke(ctx, next.Token) // nobody would ever use it
		return nil, err
	}
	l.dead = false
	l.note()
	l.cfg.Log.Info("logged in", "upstream", l.client.http.Name(), "user", in.username, "until", next.Until)
	return a, nil
}

// labels are what the server's list shows of our tokens: whose they are, for
// people, and of which agent, for ourselves.
func (l *Login) labels() []string {
	labels := []string{"signet", l.label()}
	if l.cfg.Host != "" {
		labels = append(labels, l.cfg.Host)
	}
	return labels
}

func (l *Login) label() string { return "signet-" + l.s.Agent }

// tidy does what a login leaves to do once there is an API token: tokens of
// ours that nobody knows are deleted, the replaced ones revoked, and the
// server's limit read. Nothing of it is worth failing for; it is tried again
// with the next API token.
func (l *Login) tidy(ctx context.Context, a *tokenAnswer) {
	as := l.as(a.JWT)
	l.revokeOld(ctx)
	if l.s.Unsure && l.s.Token.ID != "" {
		if err := l.sweep(ctx, as); err != nil && !definite(err) {
			l.cfg.Log.Warn("refresh tokens of before not looked for", "upstream", l.client.http.Name(), "err", err)
		} else {
			next := l.s
			next.Unsure = false
			_ = l.save(next) // else it is done once more
		}
	}
	if a.RefreshToken != "" {
		l.learnCap(ctx, as)
	}
}

// sweep deletes the refresh tokens that carry the label of this agent, but for
// the one in use.
func (l *Login) sweep(ctx context.Context, as *Client) error {
	var lost []string
	for t, err := range as.Tokens(ctx, Filter{"labels": l.label()}) {
		if err != nil {
			return err
		}
		// The filter is the server's; what is deleted is ours for certain.
		if t.labelled(l.label()) && t.ID != l.s.Token.ID {
			lost = append(lost, t.ID)
		}
	}
	for _, id := range lost {
		if err := as.DeleteToken(ctx, id); err != nil && !gone(err) {
			return err
		}
		l.cfg.Log.Info("lost refresh token deleted", "upstream", l.client.http.Name(), "id", id)
	}
	return nil
}

// learnCap reads the longest life that the server allows, and corrects what is
// known of the present token.
func (l *Login) learnCap(ctx context.Context, as *Client) {
	limit, err := as.MaximumRefreshTokenLifetime(ctx)
	if err != nil {
		return // not everybody may read it
	}
	next := l.s
	next.Cap = limit
	if limit > 0 && !next.Until.IsZero() && next.Since.Add(limit).Before(next.Until) {
		next.Until = next.Since.Add(limit)
		l.cfg.Log.Warn("refresh token lives shorter than asked for", "upstream", l.client.http.Name(),
			"asked", l.cfg.Life.String(), "limit", limit.String(), "property", propertyCap, "until", next.Until)
	}
	_ = l.save(next) // else it is read again
}

// revokeOld revokes what was replaced. What cannot be revoked now stays in the
// list.
func (l *Login) revokeOld(ctx context.Context) {
	for len(l.s.Old) > 0 {
		err := l.drop(ctx, l.s.Old[0])
		if err != nil {
			l.cfg.Log.Warn("replaced refresh token not revoked", "upstream", l.client.http.Name(), "id", l.s.Old[0].ID, "err", err, "again", !definite(err))
		}
		if err != nil && !definite(err) {
			return
		}
		next := l.s
		next.Old = l.s.Old[1:]
		if l.save(next) != nil {
			return
		}
	}
}

// drop revokes a token, or deletes it where its client is not known.
func (l *Login) drop(ctx context.Context, t refreshToken) error {
	if t.ClientID == "" && t.ID != "" && l.jwt != "" {
		if err := l.as(l.jwt).DeleteToken(ctx, t.ID); !gone(err) {
			return err
		}
		return nil
	}
	return l.client.revoke(ctx, t)
}

// A gate holds back logins that the server has refused: tried at every turn
// they would lock the user.
type gate struct {
	refused  int // in a row
	until    time.Time
	password secret.Value // another one may be tried at once
	err      error
}

const (
	// A server locks a user after a handful of refusals: the first few tries
	// are spread over an hour.
	gateFirst  = time.Minute
	gateGrowth = 6
	gateLast   = 30 * time.Minute
	// gateLook is how often it is looked whether there is another password.
	gateLook = 30 * time.Second
)

// guarded makes a grant unless its like was refused a moment ago.
func (l *Login) guarded(ctx context.Context, r tokenRequest, password secret.Value) (*tokenAnswer, error) {
	g := &l.gate
	now := time.Now()
	if g.refused > 0 && now.Before(g.until) && password.Equal(g.password) {
		return nil, held(g.err, min(gateLook, g.until.Sub(now)))
	}
	a, err := l.client.grant(ctx, r)
	switch {
	case err == nil:
		*g = gate{}
	case definite(err):
		if !password.Equal(g.password) {
			g.refused = 0
		}
		g.refused++
		wait := gateFirst
		for range min(g.refused-1, 3) {
			wait = min(wait*gateGrowth, gateLast)
		}
		g.until, g.password, g.err = now.Add(wait), password, err
		return nil, held(err, min(gateLook, wait))
	}
	return a, err
}

// held is a refusal with the time until it is looked at again.
func held(err error, wait time.Duration) error {
	e, ok := asError(err)
	if !ok {
		return err
	}
	f := *e
	f.RetryAfter = wait
	return &f
}

// errNoLogin is what there is nothing to log in or out of.
func (l *Login) errNoLogin(op, text string) error {
	return l.client.failed(call{op: op}, upstream.Invalid, text)
}

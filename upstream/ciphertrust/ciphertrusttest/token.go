package ciphertrusttest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tokenRecord is a refresh token as lists show it; never its text.
type tokenRecord struct {
	ID          string     `json:"id"`
	URI         string     `json:"uri"`
	Account     string     `json:"account"`
	CreatedAt   time.Time  `json:"createdAt"`
	UserID      string     `json:"user_id"`
	ClientID    string     `json:"client_id"`
	Labels      []string   `json:"labels"`
	RefreshedAt time.Time  `json:"refreshedAt"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
	Revoked     bool       `json:"revoked"`
	Expired     bool       `json:"expired"`
	UnusedIn    int        `json:"revoke_unused_in,omitempty"`
}

func (t *refreshToken) record(now time.Time) tokenRecord {
	r := tokenRecord{
		ID: t.ID, URI: "kylo:kylo:auth:tokens:" + t.ID, Account: accountURI, CreatedAt: t.CreatedAt,
		UserID: t.UserID, ClientID: t.ClientID, Labels: t.Labels, RefreshedAt: t.RefreshedAt,
		Revoked: t.Revoked, Expired: t.over(now), UnusedIn: t.UnusedIn,
	}
	if !t.ExpiresAt.IsZero() {
		r.ExpiresAt = &t.ExpiresAt
	}
	return r
}

// listTokens is GET /auth/tokens/. Who is no administrator sees their own.
func (s *Server) listTokens(c *call) (any, *refusal) {
	var before time.Time
	if text := c.query.Get("refreshed_before"); text != "" {
		var err error
		if before, err = moment(text, c.now); err != nil {
			return nil, invalid("refreshed_before: want a time or something like -1Y-2M-5D")
		}
	}
	var items []*refreshToken
	for _, t := range s.state.Tokens {
		switch {
		case !c.in("User Admins") && t.UserID != c.caller.userID,
			t.Revoked && !c.flag("revoked"),
			!t.Revoked && t.over(c.now) && !c.flag("expired"),
			!before.IsZero() && !t.RefreshedAt.Before(before):
			continue
		}
		items = append(items, t)
	}
	return list(c, items, map[string]filter[*refreshToken]{
		"user_id": like(func(t *refreshToken) string { return t.UserID }),
		"labels": func(t *refreshToken, want string) bool {
			for label := range strings.SplitSeq(want, ",") {
				if !slices.Contains(t.Labels, label) {
					return false
				}
			}
			return true
		},
		"expired": nil, "revoked": nil, "refreshed_before": nil,
	}, func(t *refreshToken) any { return t.record(c.now) })
}

// moment reads a time, or how far before now it is: -1Y-2M-5D, -12h.
func moment(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	at := now
	for part := range strings.SplitSeq(strings.TrimPrefix(text, "-"), "-") {
		if len(part) < 2 || text[0] != '-' {
			return at, fmt.Errorf("time %q", text)
		}
		n, err := strconv.Atoi(part[:len(part)-1])
		if err != nil {
			return at, fmt.Errorf("time %q: %w", text, err)
		}
		switch part[len(part)-1] {
		case 'Y', 'y':
			at = at.AddDate(-n, 0, 0)
		case 'M':
			at = at.AddDate(0, -n, 0)
		case 'D', 'd':
			at = at.AddDate(0, 0, -n)
		case 'H', 'h':
			at = at.Add(-time.Duration(n) * time.Hour)
		case 'm':
			at = at.Add(-time.Duration(n) * time.Minute)
		default:
			return at, fmt.Errorf("time %q", text)
		}
	}
	return at, nil
}

// tokenByID finds the token that the path names, among those that the caller
// may see.
func (s *Server) tokenByID(c *call) (*refreshToken, *refusal) {
	for _, t := range s.state.Tokens {
		if t.ID == c.args["id"] && (c.in("User Admins") || t.UserID == c.caller.userID) {
			return t, nil
		}
	}
	return nil, notFound()
}

func (s *Server) getToken(c *call) (any, *refusal) {
	t, no := s.tokenByID(c)
	if no != nil {
		return nil, no
	}
	return t.record(c.now), nil
}

func (s *Server) deleteToken(c *call) (any, *refusal) {
	t, no := s.tokenByID(c)
	if no != nil {
		return nil, no
	}
	s.state.Tokens = remove(s.state.Tokens, t)
	c.changed = true
	return nil, nil
}

// revokeToken is POST /auth/revoke: whoever has the refresh token and either
// its client id or its user's password may end it.
func (s *Server) revokeToken(c *call) (any, *refusal) {
	var in struct {
		Token        string `json:"token"`
		RefreshToken string `json:"refresh_token"`
		ClientID     string `json:"client_id"`
		Username     string `json:"username"`
		Password     string `json:"password"`
		Connection   string `json:"connection"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Token == "" {
		in.Token = in.RefreshToken
	}
	byUser := in.Username != "" && in.Password != ""
	if in.Token == "" || in.ClientID == "" && !byUser {
		return nil, invalid("token, and client_id or username and password, are required")
	}
	t := s.token(in.Token)
	if t == nil || t.Revoked || t.over(c.now) || in.ClientID != "" && in.ClientID != t.ClientID {
		return nil, unauthorized("Invalid refresh token")
	}
	if in.ClientID == "" {
		u, no := s.checkPassword(c, in.Username, in.Password, in.Connection, "")
		if no != nil {
			return nil, no
		}
		if u.ID != t.UserID {
			return nil, unauthorized("Invalid refresh token")
		}
	}
	t.revoke(c.now)
	c.changed = true
	return nil, nil
}

// selfUser is GET /auth/self/user.
func (s *Server) selfUser(c *call) (any, *refusal) {
	u := s.userByID(c.caller.userID)
	if u == nil {
		return nil, notFound() // a client
	}
	return u.record(c.dom, true), nil
}

// patchSelf is PATCH /auth/self/user.
func (s *Server) patchSelf(c *call) (any, *refusal) {
	u := s.userByID(c.caller.userID)
	if u == nil {
		return nil, notFound()
	}
	var in struct {
		Email        *string        `json:"email"`
		Name         *string        `json:"name"`
		UserMetadata map[string]any `json:"user_metadata"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if no := s.change(c, u, userChange{Email: in.Email, Name: in.Name, UserMetadata: in.UserMetadata}); no != nil {
		return nil, no
	}
	return u.record(c.dom, true), nil
}

// revokeTokensOf ends all refresh tokens of a user.
func (s *Server) revokeTokensOf(u *user, now time.Time) {
	for _, t := range s.state.Tokens {
		if t.UserID == u.ID {
			t.revoke(now)
		}
	}
}

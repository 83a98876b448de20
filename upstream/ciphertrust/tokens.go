package ciphertrust

import (
	"context"
	"iter"
	"slices"
	"time"
)

// A Token is the record of a refresh token at the server, never the token.
type Token struct {
	Raw
	ID           string    `json:"id"`
	CreatedAt    time.Time `json:"createdAt"`
	UserID       string    `json:"user_id"`
	ClientID     string    `json:"client_id"`
	Labels       []string  `json:"labels"`
	RefreshedAt  time.Time `json:"refreshedAt"`
	ExpiresAt    time.Time `json:"expiresAt"`
	Revoked      bool      `json:"revoked"`
	Expired      bool      `json:"expired"`
	RevokeUnused int       `json:"revoke_unused_in"` // minutes; 0 is never
}

func (t *Token) labelled(label string) bool { return slices.Contains(t.Labels, label) }

// TokenFilters are the filters of Tokens. Without expired and revoked, those
// that are so are left out.
var TokenFilters = []string{"user_id", "labels", "expired", "revoked", "refreshed_before"}

// Tokens lists refresh tokens.
func (c *Client) Tokens(ctx context.Context, f Filter) iter.Seq2[*Token, error] {
	return list[Token](ctx, c, read("list tokens", "", "/auth/tokens/"), TokenFilters, f)
}

// Token is one refresh token's record.
func (c *Client) Token(ctx context.Context, id string) (*Token, error) {
	return one[Token](ctx, c, read("read token", id, "/auth/tokens/"+segment(id)), id)
}

// DeleteToken revokes a refresh token by its ID.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	k := remove("revoke token", id, "/auth/tokens/"+segment(id))
	k.again = true
	return c.on(ctx, k, nil, id)
}

// Self is the user that calls are made as.
func (c *Client) Self(ctx context.Context) (*User, error) {
	return one[User](ctx, c, read("read own user", "", "/auth/self/user"))
}

package ciphertrust

import (
	"context"
	"net/http"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// The grants of POST /auth/tokens/. The name of the last is singular here.
const (
	GrantPassword         = "password"
	GrantRefreshToken     = "refresh_token"
	GrantUserCertificate  = "user_certificate"
	GrantClientCredential = "client_credential"
)

// A tokenRequest is the body of POST /auth/tokens/.
type tokenRequest struct {
	Grant        string   `json:"grant_type"`
	Username     string   `json:"username,omitempty"`
	Password     string   `json:"password,omitempty"`
	Connection   string   `json:"connection,omitempty"`
	Domain       string   `json:"domain,omitempty"`
	AuthDomain   string   `json:"auth_domain,omitempty"`
	ClientID     string   `json:"client_id,omitempty"`
	RefreshToken string   `json:"refresh_token,omitempty"`
	Lifetime     int      `json:"refresh_token_lifetime,omitempty"`         // minutes
	RevokeUnused int      `json:"refresh_token_revoke_unused_in,omitempty"` // minutes
	Renew        bool     `json:"renew_refresh_token,omitempty"`
	Labels       []string `json:"labels,omitempty"`
}

// limited asks for both limits of a refresh token, neither of which may be
// left out: the server would keep the token for ever.
func (r tokenRequest) limited(life, idle time.Duration) tokenRequest {
	r.Lifetime, r.RevokeUnused = minutes(life), minutes(idle)
	return r
}

// minutes is d in whole minutes, never 0, which would mean no limit.
func minutes(d time.Duration) int { return max(int(d/time.Minute), 1) }

// A tokenAnswer is what POST /auth/tokens/ answers. Only the JWT is always
// there.
type tokenAnswer struct {
	JWT              string `json:"jwt"`
	Duration         int64  `json:"duration"` // seconds
	ClientID         string `json:"client_id"`
	RefreshTokenID   string `json:"refresh_token_id"`
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int64  `json:"refresh_token_expires_in"` // seconds
}

const opToken = "get API token"

// grant asks for tokens. It is not repeated once sent: each grant of a refresh
// token leaves one at the server.
func (c *Client) grant(ctx context.Context, r tokenRequest) (*tokenAnswer, error) {
	k := post(opToken, "", "/auth/tokens/", r)
	k.open = true
	k.again = r.RefreshToken != "" && !r.Renew // leaves nothing behind
	var a tokenAnswer
	if err := c.do(ctx, k, &a); err != nil {
		return nil, err
	}
	if a.JWT == "" {
		return nil, c.notUnderstood(k)
	}
	if a.Duration <= 0 {
		a.Duration = int64(apiTokenLife / time.Second)
	}
	return &a, nil
}

// apiTokenLife is how long an API token is good for.
const apiTokenLife = 5 * time.Minute

// revoke revokes a refresh token, which is all that is needed for it. One that
// the server does not know is revoked already.
func (c *Client) revoke(ctx context.Context, t refreshToken) error {
	k := post("revoke refresh token", t.ID, "/auth/revoke", struct {
		Token    string `json:"token"`
		ClientID string `json:"client_id"`
	}{string(t.Token.Reveal()), t.ClientID})
	k.open, k.again = true, true
	if err := c.do(ctx, k, nil); !gone(err) {
		return err
	}
	return nil
}

// definite reports whether the server has refused a credential, so that trying
// it again at once would only count as one more failed login.
func definite(err error) bool {
	e, ok := asError(err)
	return ok && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusTooManyRequests && e.Status != http.StatusRequestTimeout
}

// ofLogin is the error of a login that the agent tried by itself: it says
// nothing of any item, whatever the server said.
func ofLogin(err error) error {
	e, ok := asError(err)
	if !ok || e.Code == upstream.Unavailable {
		return err
	}
	f := *e
	f.Code = upstream.Unavailable
	return &f
}

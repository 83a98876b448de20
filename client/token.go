package client

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// A Token is an access token. It prints without the token itself.
type Token struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// Format keeps the token out of everything that prints it.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "token([redacted])") }

// LogValue keeps the token out of structured logs.
func (t Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Token returns the access token that the agent has for an upstream.
func (c *Client) Token(ctx context.Context, upstream string) (*Token, error) {
	t := new(Token)
	if err := c.get(ctx, "token of "+whatUpstream(upstream), "/v1/tokens/"+url.PathEscape(upstream), t); err != nil {
		return nil, err
	}
	return t, nil
}

// TokenSource returns access tokens for golang.org/x/oauth2. It keeps none: the
// agent does, and knows when one was refused.
func (c *Client) TokenSource(ctx context.Context, upstream string) oauth2.TokenSource {
	return &tokenSource{c: c, ctx: ctx, upstream: upstream}
}

// A tokenSource asks the agent each time.
type tokenSource struct {
	c        *Client
	ctx      context.Context // as the interface knows none
	upstream string
}

// Token is the token of now.
func (s *tokenSource) Token() (*oauth2.Token, error) {
	t, err := s.c.Token(s.ctx, s.upstream)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: t.AccessToken, TokenType: t.TokenType, Expiry: t.ExpiresAt}, nil
}

// Transport sends requests to an upstream through the agent, which adds its
// access token and client certificate. Only method, path, query, headers and
// body of a request count; the scheme and host of its URL do not. What the agent
// itself refuses comes as an answer of the type application/problem+json.
func (c *Client) Transport(upstream string) http.RoundTripper {
	return transport{c: c, upstream: upstream}
}

// A transport is the agent's proxy to one upstream.
type transport struct {
	c        *Client
	upstream string
}

// RoundTrip sends one request.
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.c.start()
	out := req.Clone(req.Context())
	u, err := url.Parse("http://signet/v1/upstreams/" + url.PathEscape(t.upstream) + "/proxy/" + strings.TrimPrefix(req.URL.EscapedPath(), "/"))
	if err != nil {
		return nil, &Error{What: whatUpstream(t.upstream), Code: Invalid, Err: err}
	}
	u.RawQuery = req.URL.RawQuery
	out.URL, out.Host = u, ""
	resp, err := t.c.http.RoundTrip(out)
	if err != nil {
		return nil, t.c.unreached(req.Context(), whatUpstream(t.upstream), err)
	}
	resp.Request = req
	return resp, nil
}

// whatUpstream names an upstream in errors.
func whatUpstream(name string) string { return "upstream " + strconv.Quote(name) }

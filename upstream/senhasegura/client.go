package senhasegura

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// Config says how to log in.
type Config struct {
	// HTTP is the way to the vault, with the client certificate that is pinned
	// on the authorization, if one is.
	HTTP *upstream.HTTP
	// ClientID and ClientSecret are the access key of the authorization. The
	// secret is asked for at each log-in, so that a new one counts at once.
	ClientID     string
	ClientSecret func() (secret.Value, error)
	// Form sends the access key as fields of the form instead of in a Basic
	// header.
	Form bool
	// Zone is the vault's time zone. If nil, it is UTC.
	Zone *time.Location
	// OnToken, if not nil, is told of each new access token.
	OnToken func(*oauth2.Token)
}

// A Client reads secrets with one authorization.
type Client struct {
	cfg    Config
	zone   *time.Location
	tokens *upstream.TokenSource
}

// New makes a client. It does not connect.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, zone: cfg.Zone}
	if c.zone == nil {
		c.zone = time.UTC
	}
	c.tokens = upstream.NewTokenSource(upstream.TokenSourceConfig{
		Fetch: c.login, OnNew: cfg.OnToken,
	})
	return c
}

// Tokens is where the client's access token comes from.
func (c *Client) Tokens() *upstream.TokenSource { return c.tokens }

const (
	tokenPath = "/iso/oauth2/token" // #nosec G101 -- a path
	opToken   = "get access token"
)

// login exchanges the access key for an access token.
func (c *Client) login(ctx context.Context) (*oauth2.Token, error) {
	pass, err := c.cfg.ClientSecret()
	if err == nil && len(pass.Reveal()) == 0 {
		err = errors.New("empty")
	}
	if err != nil {
		return nil, &upstream.Error{
			Upstream: c.cfg.HTTP.Name(), Op: opToken, Code: upstream.Unavailable,
			Text: "client_secret cannot be read", Err: err,
			Remedy: "check the file that the upstream's auth.client_secret names",
		}
	}
	exchange := clientcredentials.Config{
		ClientID: c.cfg.ClientID, ClientSecret: string(pass.Reveal()),
		TokenURL: c.cfg.HTTP.URL().String() + tokenPath,
		// Never found out by trying: that would make two failures of each.
		AuthStyle: oauth2.AuthStyleInHeader,
	}
	if c.cfg.Form {
		exchange.AuthStyle = oauth2.AuthStyleInParams
	}
	token, err := exchange.Token(context.WithValue(ctx, oauth2.HTTPClient, c.cfg.HTTP.Client()))
	if err != nil {
		return nil, c.loginError(err)
	}
	return token, nil
}

// loginError adds to the error of an exchange what the vault says in its own
// form. A failed log-in says nothing of any item, unless the vault is definite
// about the whole authorization.
func (c *Client) loginError(err error) error {
	e := c.cfg.HTTP.TokenError(opToken, err)
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		var env envelope
		// Not JSON is as good as nothing said.
		_ = json.Unmarshal(refused.Body, &env)
		r := refusal(login, e.Status, &env)
		if e.Text == "" {
			e.Text = r.Text
		}
		if e.Symbol == "" {
			e.Symbol = r.Symbol
		}
		if r.Code == upstream.Denied {
			e.Code, e.Remedy = r.Code, r.Remedy
		}
		if e.Remedy == "" {
			e.Remedy = r.Remedy
		}
	}
	return busyIsUnavailable(e)
}

// busyIsUnavailable hides from the agent that the vault, and not a caller of the
// agent's, is too busy. RetryAfter stays.
func busyIsUnavailable(e *upstream.Error) *upstream.Error {
	if e.Code != upstream.Busy {
		return e
	}
	f := *e
	f.Code = upstream.Unavailable
	return &f
}

// A call is one call of the web service. All of them may be repeated.
type call struct {
	op, item string
	module   module
	method   string
	path     string // ends with a slash if id is to follow
	id       string
}

func (q call) request() upstream.Request {
	return upstream.Request{Method: q.method, Path: q.path, Op: q.op, Item: q.item, Idempotent: true}
}

// call makes a call with an access token and decodes the answer into into,
// which may be nil.
func (c *Client) call(ctx context.Context, q call, into any) error {
	r := q.request()
	if q.path[len(q.path)-1] == '/' {
		id, err := segment(q.id)
		if err != nil {
			return c.fill(q, &upstream.Error{Code: upstream.Invalid, Err: err})
		}
		r.Path += id
	}
	res, err := upstream.Authorized(ctx, c.tokens, func(t *oauth2.Token) (*upstream.Response, error) {
		r.Header = http.Header{"Authorization": {t.Type() + " " + t.AccessToken}}
		return c.cfg.HTTP.Do(ctx, r)
	})
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		return busyIsUnavailable(e)
	}
	if err != nil {
		return c.fill(q, &upstream.Error{Code: upstream.Unavailable, Err: err})
	}
	if e := read(q.module, res, into); e != nil {
		base := c.cfg.HTTP.Error(r, res, e.Code)
		e.RetryAfter, e.Sent = base.RetryAfter, base.Sent
		return c.fill(q, e)
	}
	return nil
}

// fill says in an error which call it is about.
func (c *Client) fill(q call, e *upstream.Error) error {
	e.Upstream, e.Op, e.Item = c.cfg.HTTP.Name(), q.op, q.item
	return e
}

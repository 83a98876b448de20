package ciphertrust

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/upstream"
)

// base is what all paths of the API begin with.
const base = "/api/v1"

// Config says how to reach the server.
type Config struct {
	HTTP *upstream.HTTP
	// Tokens gives the API tokens. If nil, calls go without one: they go through
	// the agent, which adds its own.
	Tokens *upstream.TokenSource
}

// A Client makes calls to one server.
type Client struct {
	http   *upstream.HTTP
	tokens *upstream.TokenSource
	bearer string // a token to use instead of tokens
}

// New makes a client; it does not connect.
func New(cfg Config) *Client { return &Client{http: cfg.HTTP, tokens: cfg.Tokens} }

// A call is one call of the API.
type call struct {
	op, item string // for errors
	method   string
	path     string // after the base, escaped
	query    url.Values
	body     any // made JSON of, if not nil
	again    bool
	open     bool // needs no token
}

func read(op, item, path string) call {
	return call{op: op, item: item, method: http.MethodGet, path: path, again: true}
}

func post(op, item, path string, body any) call {
	return call{op: op, item: item, method: http.MethodPost, path: path, body: body}
}

// change is a PATCH, which may be made again: it states what is to be.
func change(op, item, path string, body any) call {
	return call{op: op, item: item, method: http.MethodPatch, path: path, body: body, again: true}
}

func remove(op, item, path string) call {
	return call{op: op, item: item, method: http.MethodDelete, path: path}
}

// do makes a call and decodes the answer into out, which may be nil.
func (c *Client) do(ctx context.Context, k call, out any) error {
	r := upstream.Request{
		Method: k.method, Path: base + k.path, Query: k.query, Op: k.op, Item: k.item, Idempotent: k.again,
		Header: http.Header{"Accept": {"application/json"}}, Explain: explain,
	}
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return c.failed(k, upstream.Invalid, "the request cannot be written as JSON")
		}
		r.Body, r.ContentType = b, "application/json"
	}
	resp, err := c.send(ctx, k, r)
	if err != nil {
		if _, ok := errors.AsType[*upstream.Error](err); ok {
			return err
		}
		e := c.failed(k, upstream.Unavailable, "")
		e.Err = err
		return e
	}
	if resp.Status < 200 || resp.Status > 206 {
		return c.refusal(k, resp)
	}
	if out == nil || resp.Status == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(resp.Body, out); err != nil {
		// err may quote the answer. The call itself was carried out.
		e := c.failed(k, upstream.Unavailable, "answer is not the CipherTrust Manager's")
		e.Status, e.Sent = resp.Status, true
		e.Remedy = "check the upstream's url; something else may answer there"
		return e
	}
	return nil
}

// send makes the call with a token, if there are tokens. A refused one is
// replaced, and the call made once more.
func (c *Client) send(ctx context.Context, k call, r upstream.Request) (*upstream.Response, error) {
	if c.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	if k.open || c.tokens == nil {
		resp, err := c.http.Do(ctx, r)
		if err == nil && resp.Status == http.StatusUnauthorized && !k.open && c.bearer == "" {
			// The agent has thrown the refused token away; nothing was done.
			return c.http.Do(ctx, r)
		}
		return resp, err
	}
	return upstream.Authorized(ctx, c.tokens, func(t *oauth2.Token) (*upstream.Response, error) {
		r.Header.Set("Authorization", "Bearer "+t.AccessToken)
		return c.http.Do(ctx, r)
	})
}

// failed is an error about a call.
func (c *Client) failed(k call, code upstream.Code, text string) *upstream.Error {
	return &upstream.Error{Upstream: c.http.Name(), Op: k.op, Item: k.item, Code: code, Text: text}
}

// segment is an ID or a name as one segment of a path. The bar in the IDs of
// users is escaped too.
func segment(id string) string { return url.PathEscape(id) }

// named refuses what cannot be the name of anything: an empty segment would
// make another call of this one.
func (c *Client) named(k call, ids ...string) error {
	for _, id := range ids {
		if strings.Trim(id, ".") == "" || strings.ContainsRune(id, '/') {
			return c.failed(k, upstream.Invalid, "not an id or name that can be asked for")
		}
	}
	return nil
}

// on makes a call about things with these IDs.
func (c *Client) on(ctx context.Context, k call, out any, ids ...string) error {
	if err := c.named(k, ids...); err != nil {
		return err
	}
	return c.do(ctx, k, out)
}

package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A Status is how everything stands.
type Status struct {
	Version   string    `json:"version,omitempty"` // of the agent
	StartedAt time.Time `json:"started_at,omitzero"`
	Ready     bool      `json:"ready"`
	// Reason is why the agent is not ready.
	Reason string      `json:"reason,omitempty"`
	HSM    []HSMStatus `json:"hsm"` // of each token
	Items  []Item      `json:"items"`
	// Upstreams are those that the caller may call through the agent.
	Upstreams []Upstream `json:"upstreams,omitempty"`
	Runway    Runway     `json:"runway"`
	// Notices are what an operator should know, such as a damaged state file.
	Notices []string `json:"notices,omitempty"`
	// JSON is the agent's whole answer, with what this version does not know.
	JSON json.RawMessage `json:"-"`
}

// An HSMStatus is how one token of the HSM stands.
type HSMStatus struct {
	Name     string `json:"name"`
	Open     bool   `json:"open"`
	Label    string `json:"label,omitempty"`
	Serial   string `json:"serial,omitempty"`
	Module   string `json:"module,omitempty"`
	Restarts int    `json:"restarts,omitempty"` // of the worker
	Error    string `json:"error,omitempty"`
}

// An Item is one thing that the agent keeps fresh.
type Item struct {
	Kind        string    `json:"kind"` // secret, certificate, identity, token, file, consumer
	Name        string    `json:"name"`
	State       string    `json:"state"` // fresh, stale, expired, missing, failed, ...
	Version     string    `json:"version,omitempty"`
	Generation  int       `json:"generation,omitempty"`
	Serial      string    `json:"serial,omitempty"` // of a certificate
	FreshUntil  time.Time `json:"fresh_until,omitzero"`
	UsableUntil time.Time `json:"usable_until,omitzero"` // the last that it is served, stale, if it cannot be fetched
	RotatesAt   time.Time `json:"rotates_at,omitzero"`
	Refused     string    `json:"refused,omitempty"` // serial of a newer certificate that its issuer refuses
	NotAfter    time.Time `json:"not_after,omitzero"`
	NextAction  string    `json:"next_action,omitempty"`
	NextAt      time.Time `json:"next_at,omitzero"`
	NextReason  string    `json:"next_reason,omitempty"`
	Making      string    `json:"making,omitempty"`   // how a new certificate is being asked for
	Failures    int       `json:"failures,omitempty"` // in a row
	RetryAt     time.Time `json:"retry_at,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	ReloadedAt  time.Time `json:"reloaded_at,omitzero"` // when a consumer last took up its files
	ProvenAt    time.Time `json:"proven_at,omitzero"`   // when it was last seen to serve them
	Hint        string    `json:"hint,omitempty"`       // what a person has to do
	Notice      string    `json:"notice,omitempty"`     // what the upstream has noticed about it
}

// An Upstream is one that the agent is configured with.
type Upstream struct {
	Name      string `json:"name"`
	Type      string `json:"type"` // manager, senhasegura, ciphertrust, manpki, oauth2
	AccountID int64  `json:"account_id,omitempty"`
}

// A Runway is how long everything still works without any upstream.
type Runway struct {
	Seconds float64   `json:"seconds"`         // until Until, 0 if something is broken already; means nothing without Until
	Until   time.Time `json:"until,omitzero"`  // zero if nothing will break
	First   string    `json:"first,omitempty"` // what breaks first: kind and name
}

// A Plan is what the agent will do, soonest first.
type Plan struct {
	Steps []PlannedStep `json:"steps"`
	// Files are what is written where.
	Files []PlannedFile `json:"files"`
	// JSON is the agent's whole answer.
	JSON json.RawMessage `json:"-"`
}

// A PlannedStep is one thing that it will do.
type PlannedStep struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Name   string    `json:"name"`
	Action string    `json:"action"` // refresh, renew, rotate, retire, ...
	Reason string    `json:"reason,omitempty"`
}

// A PlannedFile is a file that it keeps.
type PlannedFile struct {
	Path    string `json:"path"`
	Content string `json:"content"`
	Owner   string `json:"owner"` // as configured; "" is the agent
	Group   string `json:"group"`
	// UID and GID are the numbers of those; -1 is one that the host does not have.
	UID     int      `json:"uid"`
	GID     int      `json:"gid"`
	Mode    string   `json:"mode"`
	ACL     []string `json:"acl,omitempty"`
	Action  string   `json:"action"` // what is due: write, nothing, ...
	Test    []string `json:"test,omitempty"`
	Reload  string   `json:"reload,omitempty"`
	Prove   string   `json:"prove,omitempty"`
	Removed string   `json:"removed,omitempty"` // when the file is removed
}

// A Diagnosis is what the agent found when it looked at itself.
type Diagnosis struct {
	Checks []Check `json:"checks"`
	// JSON is the agent's whole answer.
	JSON json.RawMessage `json:"-"`
}

// A Check is one thing that it looked at.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warning, failed, skipped
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// Format keeps the password out of everything that prints it.
func (Credentials) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "credentials([redacted])") }

// LogValue keeps the password out of structured logs.
func (Credentials) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Status reports how everything stands that the caller may know of.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	s := new(Status)
	err := c.getWhole(ctx, "status", "/v1/status", s, &s.JSON)
	return s, err
}

// Plan reports what the agent will do next, and when.
func (c *Client) Plan(ctx context.Context) (*Plan, error) {
	p := new(Plan)
	err := c.getWhole(ctx, "plan", "/v1/plan", p, &p.JSON)
	return p, err
}

// Doctor has the agent look at itself and all it depends on.
func (c *Client) Doctor(ctx context.Context) (*Diagnosis, error) {
	d := new(Diagnosis)
	k := call{method: http.MethodGet, path: "/v1/doctor", what: "doctor"}
	if err := c.read(ctx, k, &d.JSON); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(d.JSON, d); err != nil {
		return nil, &Error{What: k.what, Code: Unavailable, Err: errNotUnderstood}
	}
	return d, nil
}

// An Object is something on a token of the HSM that is not the agent's.
type Object struct {
	Token string `json:"token"`
	ID    string `json:"id,omitempty"` // CKA_ID in hex
	Label string `json:"label,omitempty"`
	What  string `json:"what"` // such as "private key, public key"
}

// An ObjectList is what is on the tokens and is not the agent's.
type ObjectList struct {
	Objects []*Object       `json:"objects"`
	Skipped []*SkippedToken `json:"skipped,omitempty"`
}

// A SkippedToken is one that the agent could not look at.
type SkippedToken struct {
	Token string `json:"token"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"` // what somebody can do about it
}

// Objects lists what is on the tokens and is not the agent's. It is left alone.
// Tokens that could not be looked at are left out; ListObjects names them.
func (c *Client) Objects(ctx context.Context) ([]*Object, error) {
	list, err := c.ListObjects(ctx)
	if err != nil {
		return nil, err
	}
	return list.Objects, nil
}

// ListObjects is Objects with the tokens that could not be looked at.
func (c *Client) ListObjects(ctx context.Context) (*ObjectList, error) {
	list := new(ObjectList)
	err := c.read(ctx, call{method: http.MethodGet, path: "/v1/objects", what: "objects"}, list)
	return list, err
}

// ClearPINGuard has the agent try a PIN once more that a token refused. It
// returns when it was tried; whether it was accepted is in the status.
func (c *Client) ClearPINGuard(ctx context.Context, token string) error {
	return c.read(ctx, call{
		method: http.MethodPost, path: "/v1/hsm/" + url.PathEscape(token) + "/clear-pin-guard",
		what: "clear the PIN guard of " + strconv.Quote(token), body: struct{}{},
	}, nil)
}

// RotateSealingKey has the agent replace the key in the HSM that its own state is
// sealed with. The state itself is not touched.
func (c *Client) RotateSealingKey(ctx context.Context) error {
	return c.read(ctx, call{method: http.MethodPost, path: "/v1/sealing-key", what: "rotate the sealing key", body: struct{}{}}, nil)
}

// DiscardSealed is RotateSealingKey for an agent whose sealing key is lost: it begins
// anew, without what was sealed. An agent that can read its state discards nothing.
func (c *Client) DiscardSealed(ctx context.Context) error {
	body := struct {
		DiscardSealed bool `json:"discard_sealed"`
	}{true}
	return c.read(ctx, call{method: http.MethodPost, path: "/v1/sealing-key", what: "replace the lost sealing key", body: body}, nil)
}

// getWhole is get that keeps the answer's text as well.
func (c *Client) getWhole(ctx context.Context, what, path string, out any, text *json.RawMessage) error {
	if err := c.get(ctx, what, path, text); err != nil {
		return err
	}
	if err := json.Unmarshal(*text, out); err != nil {
		return &Error{What: what, Code: Unavailable, Err: errNotUnderstood}
	}
	return nil
}

// Ready reports nil when the agent is ready: its token is open and every
// identity has a certificate.
func (c *Client) Ready(ctx context.Context) error { return c.get(ctx, "readiness", "/v1/readyz", nil) }

// Credentials are what an upstream lets in once, or a person knows.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// Enroll registers an identity with one-time credentials, and returns when it
// has its certificate. If it fails, the credentials may or may not be used up:
// Error.Detail says which, if that is known.
func (c *Client) Enroll(ctx context.Context, identity string, with Credentials) error {
	return c.read(ctx, call{
		method: http.MethodPost, path: "/v1/identities/" + url.PathEscape(identity) + "/enroll",
		what: "enroll " + strconv.Quote(identity), body: with,
	}, nil)
}

// Login has the agent get new tokens from an upstream. Without credentials it
// uses those of its configuration.
func (c *Client) Login(ctx context.Context, upstream string, with *Credentials) error {
	var r LoginRequest
	if with != nil {
		r.Username, r.Password = with.Username, with.Password
	}
	_, err := c.LoginAs(ctx, upstream, r)
	return err
}

// A LoginRequest says how the agent is to log in. All of it may be empty.
type LoginRequest struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	// LifeSeconds is how long the login is to last; 0 leaves it to the agent.
	LifeSeconds int64 `json:"life_seconds,omitempty"`
	// URL, if not "", has to be the one that the agent is configured with.
	URL string `json:"url,omitempty"`
	// RefreshToken and ClientID are those that another program has. Without
	// user name and password the agent goes on with that token; with them it is
	// revoked.
	RefreshToken string `json:"refresh_token,omitempty"`
	ClientID     string `json:"client_id,omitempty"`
	// Share asks for the refresh token in the answer.
	Share bool `json:"share,omitempty"`
}

// Format keeps the secrets out of everything that prints it.
func (LoginRequest) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "login([redacted])") }

// LogValue keeps the secrets out of structured logs.
func (LoginRequest) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// A Session is a login of the agent's at an upstream.
type Session struct {
	Username string    `json:"username"`
	URL      string    `json:"url"`
	Until    time.Time `json:"until"` // zero if that is not known
	// RefreshToken and ClientID are set if they were asked for.
	RefreshToken string `json:"refresh_token"`
	ClientID     string `json:"client_id"`
}

// Format keeps the refresh token out of everything that prints it.
func (Session) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "session([redacted])") }

// LogValue keeps the refresh token out of structured logs.
func (Session) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// LoginAs has the agent log in as r says, in place of the login of before.
func (c *Client) LoginAs(ctx context.Context, upstream string, r LoginRequest) (*Session, error) {
	s := new(Session)
	err := c.read(ctx, call{
		method: http.MethodPost, path: "/v1/upstreams/" + url.PathEscape(upstream) + "/login",
		what: "login " + strconv.Quote(upstream), body: r,
	}, s)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Logout has the agent revoke and forget its tokens of an upstream.
func (c *Client) Logout(ctx context.Context, upstream string) error {
	return c.read(ctx, call{
		method: http.MethodPost, path: "/v1/upstreams/" + url.PathEscape(upstream) + "/logout",
		what: "logout " + strconv.Quote(upstream), body: struct{}{},
	}, nil)
}

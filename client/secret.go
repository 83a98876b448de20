package client

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A Secret is one secret as the agent gave it. It prints without its fields;
// several callers may share one, so it must not be changed.
type Secret struct {
	Name    string `json:"name"`
	Version string `json:"version"` // opaque; changes whenever Fields do
	// Fields are the values by name, such as "username" and "password". They
	// are empty in the answer of Secrets.
	Fields map[string]string `json:"fields,omitempty"`
	// FetchedAt is when the upstream last vouched for the value.
	FetchedAt time.Time `json:"fetched_at"`
	// FreshUntil is until when the agent looks no further.
	FreshUntil time.Time `json:"fresh_until"`
	// UsableUntil is until when the agent serves this value at all; zero if it
	// does not say.
	UsableUntil time.Time `json:"usable_until,omitzero"`
	// RotatesAt is when the upstream will change the value; zero if not known.
	RotatesAt time.Time `json:"rotates_at,omitzero"`
	// Stale says that the upstream could not be asked in time. The value was
	// good when last seen and in all likelihood still is.
	Stale bool `json:"stale"`
}

// Format keeps the fields out of everything that prints a Secret.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "secret(%q, version %q)", s.Name, s.Version)
}

// LogValue keeps the fields out of structured logs.
func (s Secret) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", s.Name), slog.String("version", s.Version), slog.Bool("stale", s.Stale))
}

// Secrets lists the secrets that the caller may read, without their fields.
func (c *Client) Secrets(ctx context.Context) ([]*Secret, error) {
	var list listOf[*Secret]
	err := c.get(ctx, "secrets", "/v1/secrets", &list)
	return list.items, err
}

// ReadSecret asks the agent for a secret. Unlike Secret it keeps nothing.
func (c *Client) ReadSecret(ctx context.Context, name string) (*Secret, error) {
	s := new(Secret)
	if err := c.get(ctx, whatSecret(name), secretPath(name), s); err != nil {
		return nil, err
	}
	return s, nil
}

// ReadField asks the agent for one field of a secret, byte for byte: fields
// that are not UTF-8 come out right only here.
func (c *Client) ReadField(ctx context.Context, name, field string) (value []byte, version string, err error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	k := call{
		method: http.MethodGet, path: secretPath(name), what: whatSecret(name) + " field " + strconv.Quote(field),
		query:  url.Values{"field": {field}},
		header: http.Header{"Accept": {"application/octet-stream"}},
	}
	resp, err := c.do(ctx, k)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if value, err = c.body(ctx, k, resp); err != nil {
		return nil, "", err
	}
	return value, etagVersion(resp), nil
}

// Refused reports that a version of a secret did not work, and returns the
// secret as it is now. If its version is still the same, the upstream has no
// other one, and trying again will not help.
func (c *Client) Refused(ctx context.Context, name, version string) (*Secret, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	s := new(Secret)
	err := c.read(ctx, call{
		method: http.MethodPost, path: secretPath(name) + "/refused", what: whatSecret(name), again: true,
		body: map[string]string{"version": version},
	}, s)
	if err != nil {
		return nil, err
	}
	if k, ok := c.kept.Load(name); ok {
		k.(*keptSecret).learn(s)
	}
	return s, nil
}

// etagVersion is the version that an answer's ETag states.
func etagVersion(resp *http.Response) string {
	tag := resp.Header.Get("ETag")
	if v, err := strconv.Unquote(tag); err == nil {
		return v
	}
	return tag
}

// secretPath is the path of a secret in the socket's interface.
func secretPath(name string) string { return "/v1/secrets/" + url.PathEscape(name) }

// whatSecret names a secret in errors.
func whatSecret(name string) string { return "secret " + strconv.Quote(name) }

// A listOf is a JSON array, or an object with one member that is an array.
type listOf[T any] struct{ items []T }

// UnmarshalJSON takes the array itself as well as the one member of an object.
func (l *listOf[T]) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, &l.items)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return err
	}
	for _, member := range members {
		if len(member) > 0 && member[0] == '[' {
			return json.Unmarshal(member, &l.items)
		}
	}
	return errNotUnderstood
}

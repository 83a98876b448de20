package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A Secret is one secret as the agent gave it. It prints without its fields;
// several callers may share one, so it must not be changed.
type Secret struct {
	Name    string `json:"name"`
	Version string `json:"version"` // opaque; changes whenever Fields do
	// Fields are the values by name, such as "username" and "password", byte for
	// byte. They are empty in the answer of Secrets.
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

// UnmarshalJSON reads an answer of the agent. Fields that are not UTF-8 come in
// base64, and are listed.
func (s *Secret) UnmarshalJSON(b []byte) error {
	type plain Secret
	var p struct {
		plain
		Base64 []string `json:"base64_fields"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	for _, name := range p.Base64 {
		text, ok := p.Fields[name]
		value, err := base64.StdEncoding.DecodeString(text)
		if err != nil || !ok {
			return errNotUnderstood
		}
		p.Fields[name] = string(value)
	}
	*s = Secret(p.plain)
	return nil
}

// Secrets lists the secrets that the caller may read, without their fields.
func (c *Client) Secrets(ctx context.Context) ([]*Secret, error) {
	var list struct {
		Secrets []*Secret `json:"secrets"`
	}
	err := c.get(ctx, "secrets", "/v1/secrets", &list)
	return list.Secrets, err
}

// ReadSecret asks the agent for a secret. Unlike Secret it keeps nothing.
func (c *Client) ReadSecret(ctx context.Context, name string) (*Secret, error) {
	s := new(Secret)
	if err := c.get(ctx, whatSecret(name), secretPath(name), s); err != nil {
		return nil, err
	}
	return s, nil
}

// A Field is one field of a secret. It prints without its value.
type Field struct {
	Value   []byte
	Version string // of the secret
	Stale   bool   // see Secret.Stale
}

// Format keeps the value out of everything that prints a Field.
func (v Field) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "field(version %q)", v.Version) }

// LogValue keeps the value out of structured logs.
func (v Field) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(v)) }

// ReadField asks the agent for one field of a secret.
func (c *Client) ReadField(ctx context.Context, name, field string) (*Field, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	k := call{
		method: http.MethodGet, path: secretPath(name), what: whatSecret(name) + " field " + strconv.Quote(field),
		query:  url.Values{"field": {field}},
		header: http.Header{"Accept": {"application/octet-stream"}},
	}
	resp, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	value, err := c.body(ctx, k, resp)
	if err != nil {
		return nil, err
	}
	return &Field{Value: value, Version: etagVersion(resp), Stale: resp.Header.Get("Signet-Stale") == "true"}, nil
}

// Refused reports that a version of a secret did not work, and returns the
// secret as it is now. If its version is still the same, the upstream has no
// other one, and trying again will not help.
func (c *Client) Refused(ctx context.Context, name, version string) (*Secret, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	k, changes := c.keptAs(name)
	s := new(Secret)
	err := c.read(ctx, call{
		method: http.MethodPost, path: secretPath(name) + "/refused", what: whatSecret(name), again: true,
		body: map[string]string{"version": version},
	}, s)
	if err != nil {
		return nil, err
	}
	if k != nil && !k.learn(s, changes) {
		return c.ask(ctx, name)
	}
	return s, nil
}

// etagVersion is the version that an answer's ETag states, where it is encoded
// like a segment of a path.
func etagVersion(resp *http.Response) string {
	tag := strings.Trim(resp.Header.Get("ETag"), `"`)
	if v, err := url.PathUnescape(tag); err == nil {
		return v
	}
	return tag
}

// secretPath is the path of a secret in the socket's interface.
func secretPath(name string) string { return "/v1/secrets/" + url.PathEscape(name) }

// whatSecret names a secret in errors.
func whatSecret(name string) string { return "secret " + strconv.Quote(name) }

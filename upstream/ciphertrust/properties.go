package ciphertrust

import (
	"context"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// propertyCap is the longest life of a refresh token that the server allows
// whoever asks.
const propertyCap = "MAXIMUM_REFRESH_TOKEN_LIFETIME"

// A Property is a setting of the whole server. Its value is always a text.
type Property struct {
	Raw
	Name        string `json:"name"`
	Value       string `json:"value"`
	Description string `json:"description"`
}

// PropertyFilters are the filters of Properties.
var PropertyFilters = []string{"name"}

// Properties lists the settings of the server.
func (c *Client) Properties(ctx context.Context, f Filter) iter.Seq2[*Property, error] {
	return list[Property](ctx, c, read("list properties", "", "/configs/properties/"), PropertyFilters, f)
}

// Property is one setting.
func (c *Client) Property(ctx context.Context, name string) (*Property, error) {
	return one[Property](ctx, c, read("read property", name, "/configs/properties/"+segment(name)), name)
}

// SetProperty changes a setting.
func (c *Client) SetProperty(ctx context.Context, name, value string) (*Property, error) {
	body := struct {
		Value string `json:"value"`
	}{value}
	return one[Property](ctx, c, change("set property", name, "/configs/properties/"+segment(name), body), name)
}

// ResetProperty gives a setting its default value.
func (c *Client) ResetProperty(ctx context.Context, name string) error {
	k := post("reset property", name, "/configs/properties/"+segment(name)+"/reset", nil)
	k.again = true
	return c.on(ctx, k, nil, name)
}

// MaximumRefreshTokenLifetime is the server's limit, or 0 if it has none.
func (c *Client) MaximumRefreshTokenLifetime(ctx context.Context) (time.Duration, error) {
	p, err := c.Property(ctx, propertyCap)
	if is(err, 404) {
		return 0, nil // releases before the property have no limit
	}
	if err != nil {
		return 0, err
	}
	d, ok := parseLifetime(p.Value)
	if !ok {
		return 0, c.failed(read("read property", propertyCap, ""), upstream.Unavailable, "its value is no duration that this version knows")
	}
	return d, nil
}

// parseLifetime reads a number with m, h or d behind it, or of minutes. An
// empty text is no limit.
func parseLifetime(s string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, true
	}
	unit := time.Minute
	switch s[len(s)-1] {
	case 'd':
		s, unit = s[:len(s)-1], 24*time.Hour
	case 'h':
		s, unit = s[:len(s)-1], time.Hour
	case 'm':
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

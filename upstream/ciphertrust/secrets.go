package ciphertrust

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// The data types of secrets. What a Secret holds is bytes in any case; on the
// wire a seed is hex and a blob base64url.
const (
	TypePassword = "password"
	TypeSeed     = "seed"
	TypeBlob     = "blob"
)

// stateActive is the only state in which a secret is good for use.
const stateActive = "Active"

// A Secret is the record of a secret, without its value.
type Secret struct {
	Raw
	ID               string            `json:"id"`
	URI              string            `json:"uri"`
	CreatedAt        time.Time         `json:"createdAt"`
	UpdatedAt        time.Time         `json:"updatedAt"`
	Name             string            `json:"name"`
	Version          int               `json:"version"` // from 0
	DataType         string            `json:"dataType"`
	ObjectType       string            `json:"objectType"`
	State            string            `json:"state"`
	ActivationDate   time.Time         `json:"activationDate"`
	DeactivationDate time.Time         `json:"deactivationDate"`
	ProtectStopDate  time.Time         `json:"protectStopDate"`
	RotationDate     time.Time         `json:"rotationDate"`
	Unexportable     bool              `json:"unexportable"`
	Undeletable      bool              `json:"undeletable"`
	SHA256           string            `json:"sha256Fingerprint"`
	Labels           map[string]string `json:"labels"`
}

// exported is a Secret with its value.
type exported struct {
	Secret
	Material string `json:"material"`
}

// SecretFilters are the filters of Secrets.
var SecretFilters = []string{"name", "objectType", "version", "sha1Fingerprint", "sha256Fingerprint"}

const secretsPath = "/vault/secrets"

// byName is a path about a secret by name: without the query the server would
// guess what kind of name it is.
func byName(k call) call {
	if k.query == nil {
		k.query = url.Values{}
	}
	k.query.Set("type", "name")
	return k
}

// Fetch reads the newest version of a secret for use. Its one field is value.
func (c *Client) Fetch(ctx context.Context, name string) (upstream.Secret, error) {
	k := byName(post("read secret", name, secretsPath+"/"+segment(name)+"/export", nil))
	k.again = true
	var got exported
	if err := c.on(ctx, k, &got, name); err != nil {
		if e, ok := asError(err); ok && e.Code == upstream.Busy {
			f := *e // it is the server that is busy, not an app that asks too often
			f.Code = upstream.Unavailable
			return upstream.Secret{}, &f
		}
		return upstream.Secret{}, err
	}
	now := time.Now()
	if err := c.usable(k, &got.Secret, now); err != nil {
		return upstream.Secret{}, err
	}
	value, err := material(&got)
	if err == nil && len(value) == 0 {
		err = errors.New("empty value")
	}
	if err == nil && got.Name != name {
		err = errors.New("the answer is about another secret")
	}
	if err != nil {
		e := c.failed(k, upstream.Unavailable, "")
		e.Status, e.Err = 200, err
		return upstream.Secret{}, e
	}
	return upstream.Secret{
		Fields:  map[string]secret.Value{"value": secret.New(value)},
		Version: strconv.Itoa(got.Version),
		Expires: soonest(now, got.RotationDate, got.DeactivationDate, got.ProtectStopDate),
	}, nil
}

// usable refuses a secret that its owner has taken out of use.
func (c *Client) usable(k call, s *Secret, now time.Time) error {
	refused := func(code upstream.Code, text string) error {
		e := c.failed(k, code, text)
		e.Status = 200
		return e
	}
	switch {
	case strings.HasPrefix(s.State, "Destroyed"):
		return refused(upstream.NotFound, "its state is "+upstream.OneLine(s.State))
	case s.State != stateActive && s.State != "":
		return refused(upstream.Denied, "its state is "+upstream.OneLine(s.State))
	case past(now, s.DeactivationDate):
		return refused(upstream.Denied, "it was deactivated at "+s.DeactivationDate.UTC().Format(time.RFC3339))
	}
	return nil
}

func past(now, t time.Time) bool { return !t.IsZero() && !now.Before(t) }

// soonest is the first of those instants that lie ahead, or none.
func soonest(now time.Time, at ...time.Time) time.Time {
	var first time.Time
	for _, t := range at {
		if t.After(now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// material is the value of a secret in bytes.
func material(s *exported) ([]byte, error) {
	switch s.DataType {
	case TypeSeed:
		b, err := hex.DecodeString(s.Material)
		if err != nil {
			return nil, errors.New("a seed that is not hex")
		}
		return b, nil
	case TypeBlob:
		// With and without padding, as releases differ.
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s.Material, "="))
		if err != nil {
			return nil, errors.New("a blob that is not base64url")
		}
		return b, nil
	}
	return []byte(s.Material), nil
}

// written is a value as the server wants it.
func written(dataType string, value secret.Value) string {
	switch dataType {
	case TypeSeed:
		return hex.EncodeToString(value.Reveal())
	case TypeBlob:
		return base64.RawURLEncoding.EncodeToString(value.Reveal())
	}
	return string(value.Reveal())
}

// Secrets lists secrets, without their values.
func (c *Client) Secrets(ctx context.Context, f Filter) iter.Seq2[*Secret, error] {
	return list[Secret](ctx, c, read("list secrets", "", secretsPath), SecretFilters, f)
}

// Secret is the record of a secret by name.
func (c *Client) Secret(ctx context.Context, name string) (*Secret, error) {
	return one[Secret](ctx, c, byName(read("read record of secret", name, secretsPath+"/"+segment(name))), name)
}

// Versions lists the versions of a secret.
func (c *Client) Versions(ctx context.Context, name string) iter.Seq2[*Secret, error] {
	k := byName(read("list versions of secret", name, secretsPath+"/"+segment(name)+"/versions"))
	if err := c.named(k, name); err != nil {
		return func(yield func(*Secret, error) bool) { yield(nil, err) }
	}
	return list[Secret](ctx, c, k, nil, nil)
}

// NewSecret says what secret to make.
type NewSecret struct {
	Name         string            `json:"name"`
	DataType     string            `json:"dataType"` // one of the Type constants
	Value        secret.Value      `json:"-"`
	Labels       map[string]string `json:"labels,omitempty"`
	Unexportable bool              `json:"unexportable,omitempty"`
	Undeletable  bool              `json:"undeletable,omitempty"`
}

// CreateSecret makes a secret.
func (c *Client) CreateSecret(ctx context.Context, s NewSecret) (*Secret, error) {
	return one[Secret](ctx, c, post("create secret", s.Name, secretsPath, struct {
		NewSecret
		Material string `json:"material"`
	}{s, written(s.DataType, s.Value)}))
}

// RotateSecret gives a secret a new version.
func (c *Client) RotateSecret(ctx context.Context, name string, value secret.Value) (*Secret, error) {
	now, err := c.Secret(ctx, name)
	if err != nil {
		return nil, err
	}
	body := struct {
		Material string `json:"material"`
	}{written(now.DataType, value)}
	return one[Secret](ctx, c, byName(post("rotate secret", name, secretsPath+"/"+segment(name)+"/versions", body)), name)
}

// DeleteSecret deletes a secret with all of its versions, the oldest first: by
// its name the server would delete the newest alone, and an old value would be
// in use again.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	var ids []string
	for v, err := range c.Versions(ctx, name) {
		if err != nil {
			return err
		}
		ids = append(ids, v.ID)
	}
	newest, err := c.Secret(ctx, name)
	if err != nil {
		return err
	}
	ids = append(slices.DeleteFunc(ids, func(id string) bool { return id == newest.ID }), newest.ID)
	for _, id := range ids {
		k := remove("delete secret", name, secretsPath+"/"+segment(id))
		k.query = url.Values{"type": {"id"}}
		if err := c.on(ctx, k, nil, id); err != nil && !is(err, 404) {
			return err
		}
	}
	return nil
}

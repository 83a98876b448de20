package senhasegura

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// A Ref says what to read. Exactly one of Credential, Info and Application is
// set.
type Ref struct {
	Credential string // id, identifier or username@hostname
	Info       string // id or identifier of a protected information
	// Application reads the secrets that belong to the authorization itself.
	Application bool
	// Identity narrows Application down to the one secret of that identity; ""
	// takes all of them together, later ones winning.
	Identity string
}

// item is what errors call it.
func (r Ref) item() string {
	switch {
	case r.Application && r.Identity == "":
		return "application"
	case r.Application:
		return r.Identity
	case r.Info != "":
		return r.Info
	}
	return r.Credential
}

// How long values are good for of which the vault does not say it.
const (
	credentialTTL = 300 * time.Second
	infoTTL       = 900 * time.Second
)

// Fetch reads a secret.
//
// A credential has the fields username and password, and hostname, ip, port,
// domain and additional where they are given; it is left in the authorization's
// custody. An information has the field content; an application's secrets have
// the names that the vault gives them.
func (c *Client) Fetch(ctx context.Context, ref Ref) (upstream.Secret, error) {
	var sec upstream.Secret
	var err error
	switch {
	case ref.Application:
		sec, err = c.application(ctx, ref)
	case ref.Info != "":
		sec, err = c.info(ctx, ref)
	default:
		sec, err = c.credential(ctx, ref)
	}
	if err != nil {
		return upstream.Secret{}, err // not the half of a secret
	}
	return sec, nil
}

// Release gives a credential back that Fetch took into custody. It is no error
// if it is not in custody any more.
func (c *Client) Release(ctx context.Context, credential string) error {
	err := c.call(ctx, call{
		op: "release custody", item: credential, module: pam,
		method: http.MethodDelete, path: "/iso/pam/credential/custody/", id: credential,
	}, nil)
	e, ok := errors.AsType[*upstream.Error](err)
	if ok && e.Code == upstream.Invalid && e.Symbol == notInCustody {
		return nil
	}
	return err
}

func (c *Client) credential(ctx context.Context, ref Ref) (upstream.Secret, error) {
	var got struct {
		Credential *struct {
			ID         scalar `json:"id"`
			Tag        scalar `json:"tag"`
			Identifier scalar `json:"identifier"`
			Username   scalar `json:"username"`
			Password   scalar `json:"password"`
			Hostname   scalar `json:"hostname"`
			IP         scalar `json:"ip"`
			Port       scalar `json:"port"`
			Domain     scalar `json:"domain"`
			Additional scalar `json:"additional"`
			Expires    scalar `json:"expiration_time"`
		} `json:"credential"`
	}
	q := call{
		op: "read credential", item: ref.Credential, module: pam,
		method: http.MethodGet, path: "/iso/pam/credential/", id: ref.Credential,
	}
	if err := c.call(ctx, q, &got); err != nil {
		return upstream.Secret{}, err
	}
	cred := got.Credential
	if cred == nil {
		return upstream.Secret{}, c.unusable(q, errEmpty)
	}
	if !names(ref.Credential, cred.ID, cred.Tag, cred.Identifier, at(cred.Username, cred.Hostname)) {
		return upstream.Secret{}, c.unusable(q, errMismatch)
	}
	f := fields{}
	for name, s := range map[string]scalar{"username": cred.Username, "password": cred.Password} {
		if err := f.required(name, s); err != nil {
			return upstream.Secret{}, c.unusable(q, err)
		}
	}
	for name, s := range map[string]scalar{
		"hostname": cred.Hostname, "ip": cred.IP, "port": cred.Port,
		"domain": cred.Domain, "additional": cred.Additional,
	} {
		if err := f.optional(name, s); err != nil {
			return upstream.Secret{}, c.unusable(q, err)
		}
	}
	sec := upstream.Secret{Fields: f, Expires: c.instant(cred.Expires.text())}
	if sec.Expires.IsZero() {
		sec.TTL = credentialTTL
	}
	return sec, nil
}

func (c *Client) info(ctx context.Context, ref Ref) (upstream.Secret, error) {
	var got struct {
		Info *struct {
			ID         scalar `json:"id"`
			Tag        scalar `json:"tag"`
			Identifier scalar `json:"identifier"`
			Content    scalar `json:"content"`
		} `json:"info"`
	}
	q := call{
		op: "read information", item: ref.Info, module: pam,
		method: http.MethodGet, path: "/iso/pam/info/", id: ref.Info,
	}
	if err := c.call(ctx, q, &got); err != nil {
		return upstream.Secret{}, err
	}
	if got.Info == nil {
		return upstream.Secret{}, c.unusable(q, errEmpty)
	}
	if !names(ref.Info, got.Info.ID, got.Info.Tag, got.Info.Identifier) {
		return upstream.Secret{}, c.unusable(q, errMismatch)
	}
	f := fields{}
	if err := f.required("content", got.Info.Content); err != nil {
		return upstream.Secret{}, c.unusable(q, err)
	}
	return upstream.Secret{Fields: f, TTL: infoTTL}, nil
}

// What makes an answer unusable although the vault calls it good.
var (
	errEmpty    = errors.New("empty value")
	errMismatch = errors.New("the answer is about another item")
	errEncrypt  = errors.New("the vault could not encrypt the value")
)

// encryptFailed is what the vault answers as the value itself when it was to
// encrypt it and could not.
const encryptFailed = "An error occurred while encrypting the text"

// unusable is the error of an answer that carries no value to deliver.
func (c *Client) unusable(q call, why error) error {
	return c.fill(q, &upstream.Error{Code: upstream.Unavailable, Status: http.StatusOK, Err: why})
}

// fields are the fields of a secret in the making. All values that the vault
// may encrypt come through here.
type fields map[string]secret.Value

// required adds a field without which there is nothing to deliver.
func (f fields) required(name string, s scalar) error {
	if s.empty() {
		return errEmpty
	}
	return f.optional(name, s)
}

// optional adds a field unless it is empty.
func (f fields) optional(name string, s scalar) error {
	if s.empty() {
		return nil
	}
	if s.text() == encryptFailed {
		return errEncrypt
	}
	f[name] = s.value
	return nil
}

// names reports whether ref is one of the names of what was answered. An answer
// that has no name at all is believed.
func names(ref string, of ...scalar) bool {
	named := false
	for _, s := range of {
		// The vault's own look-up does not mind upper and lower case.
		if strings.EqualFold(s.text(), ref) {
			return true
		}
		named = named || !s.empty()
	}
	return !named
}

// at is username@hostname, or nothing where one of them is missing.
func at(username, hostname scalar) scalar {
	if username.empty() || hostname.empty() {
		return scalar{}
	}
	return scalar{secret.New([]byte(username.text() + "@" + hostname.text())), true}
}

// segment is id as one segment of a path, or an error if it cannot be one.
func segment(id string) (string, error) {
	if id == "" || id == "." || id == ".." {
		return "", errors.New("not a name that can be asked for")
	}
	return url.PathEscape(id), nil
}

// instant reads a date of the vault. Whatever is not one counts as not given:
// the value then lives as long as values without a date do.
func (c *Client) instant(s string) time.Time {
	for _, layout := range []string{time.DateTime, "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, c.zone); err == nil {
			return t
		}
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t
	}
	return time.Time{}
}

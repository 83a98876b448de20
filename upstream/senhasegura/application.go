package senhasegura

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// How often an application's secrets are read when the vault says nothing, and
// from which TTL on it is taken to say something. Both are the vendor's own.
const (
	applicationTTL = 120 * time.Second
	leastTTL       = 10 // seconds; TTLs up to here are ignored
)

// ttlKey is the one key of a data map that is about the entry and no value.
const ttlKey = "TTL"

// An appSecret is one secret of an application.
type appSecret struct {
	Identity scalar   `json:"identity"`
	Version  scalar   `json:"version"`
	Expires  scalar   `json:"expiration_date"`
	Data     dataMaps `json:"data"`
}

// dataMaps are the values of a secret: a list of maps, or in one call a single
// map.
type dataMaps []map[string]scalar

// UnmarshalJSON takes both, and an empty list where an empty map is meant, as
// PHP writes it.
func (d *dataMaps) UnmarshalJSON(b []byte) error {
	*d = nil
	if b = bytes.TrimSpace(b); bytes.Equal(b, []byte("null")) {
		return nil
	}
	parts := []json.RawMessage{b}
	if b[0] == '[' {
		parts = nil
		if err := json.Unmarshal(b, &parts); err != nil {
			return errNotJSON
		}
	}
	for _, p := range parts {
		if p = bytes.TrimSpace(p); string(p) == "[]" || string(p) == "null" {
			continue
		}
		var m map[string]scalar
		if err := json.Unmarshal(p, &m); err != nil {
			return errNotJSON
		}
		*d = append(*d, m)
	}
	return nil
}

func (c *Client) application(ctx context.Context, ref Ref) (upstream.Secret, error) {
	var got struct {
		Application *struct {
			Secrets []appSecret `json:"secrets"`
		} `json:"application"`
	}
	q := call{
		op: "read application", item: ref.item(), module: dsm,
		method: http.MethodGet, path: "/iso/dapp/application",
	}
	if err := c.call(ctx, q, &got); err != nil {
		return upstream.Secret{}, err
	}
	if got.Application == nil {
		return upstream.Secret{}, c.unusable(q, errEmpty)
	}
	secrets := got.Application.Secrets
	if ref.Identity != "" {
		secrets = slices.DeleteFunc(secrets, func(s appSecret) bool { return s.Identity.text() != ref.Identity })
		if len(secrets) == 0 {
			// The document lists all that the authorization may see.
			return upstream.Secret{}, c.fill(q, &upstream.Error{
				Code: upstream.NotFound, Status: http.StatusOK,
				Text:   "no secret of this identity in the application",
				Remedy: "check the identity, and that the secret is linked to the authorization",
			})
		}
	}
	f, err := flatten(secrets)
	if err != nil {
		return upstream.Secret{}, c.unusable(q, err)
	}
	sec := upstream.Secret{Fields: f, Version: version(secrets), TTL: lifetime(secrets)}
	for _, s := range secrets {
		if t := c.instant(s.Expires.text()); !t.IsZero() && (sec.Expires.IsZero() || t.Before(sec.Expires)) {
			sec.Expires = t
		}
	}
	return sec, nil
}

// flatten puts the values of all maps together in order, so that the last one
// of a name wins. A null is no value; an empty string is one, unless there is
// nothing else at all.
func flatten(secrets []appSecret) (fields, error) {
	f := fields{}
	some := false
	for _, s := range secrets {
		for _, m := range s.Data {
			for name, v := range m {
				if name == ttlKey || !v.given {
					continue
				}
				if v.text() == encryptFailed {
					return nil, errEncrypt
				}
				f[name] = v.value
				some = some || !v.empty()
			}
		}
	}
	if !some {
		return nil, errEmpty
	}
	return f, nil
}

// lifetime is how long the vendor's own agent would keep these secrets.
func lifetime(secrets []appSecret) time.Duration {
	least := applicationTTL
	for _, s := range secrets {
		for _, m := range s.Data {
			if n, err := strconv.Atoi(m[ttlKey].text()); err == nil && n > leastTTL && n < int(least/time.Second) {
				least = time.Duration(n) * time.Second
			}
		}
	}
	return least
}

// version is the vault's version of the secrets, or "" if one of them has none:
// then no version stands for all the values.
func version(secrets []appSecret) string {
	if len(secrets) == 1 {
		return secrets[0].Version.text()
	}
	all := map[string]string{}
	for _, s := range secrets {
		if s.Version.empty() {
			return ""
		}
		all[s.Identity.text()] = s.Version.text()
	}
	var b strings.Builder
	for _, identity := range slices.Sorted(maps.Keys(all)) {
		b.WriteString(identity + "=" + all[identity] + ";")
	}
	return strings.TrimSuffix(b.String(), ";")
}

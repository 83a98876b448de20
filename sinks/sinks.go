// Package sinks says what is handed to local apps: the finished items that the
// agent publishes and the sinks below this package deliver.
//
// A sink has what was published to it and never asks an upstream for more.
package sinks

import (
	"maps"
	"slices"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A Secret is one secret as it now is. It is immutable; a change is a new one.
type Secret struct {
	Name    string
	Version string // opaque; changes whenever Fields do
	Fields  Fields
	// FetchedAt is when the upstream last vouched for the value.
	FetchedAt time.Time
	// FreshUntil is until when the value is served without a mark.
	FreshUntil time.Time
	// UsableUntil is until when it is served at all, marked stale after
	// FreshUntil. It never lies after RotatesAt.
	UsableUntil time.Time
	// RotatesAt is when the upstream changes the value, less a margin; zero if
	// the upstream does not say.
	RotatesAt time.Time
}

// Fields are the named values of a secret, sorted by name. There are many secrets
// and mostly one field, for which a map is ten times as large.
type Fields []Field

// A Field is one of them.
type Field struct {
	Name  string
	Value secret.Value
}

// FieldsOf are the values of a map.
func FieldsOf(values map[string]secret.Value) Fields {
	fields := make(Fields, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fields = append(fields, Field{name, values[name]})
	}
	return fields
}

// Get is the value of that name.
func (f Fields) Get(name string) (v secret.Value, ok bool) {
	for i := range f {
		if f[i].Name == name {
			return f[i].Value, true
		}
	}
	return v, false
}

// Names are the names in their order.
func (f Fields) Names() []string {
	names := make([]string, len(f))
	for i := range f {
		names[i] = f[i].Name
	}
	return names
}

// Stale reports whether the value has to be marked as stale at now.
func (s *Secret) Stale(now time.Time) bool { return !now.Before(s.FreshUntil) }

// Expired reports whether the value must not be served any more at now.
func (s *Secret) Expired(now time.Time) bool { return !now.Before(s.UsableUntil) }

// A Certificate is one certificate with its chain as it now is. It is
// immutable; a change is a new one.
type Certificate struct {
	Name       string
	Generation int      // of the key: host#1 is 1
	Chain      [][]byte // DER, leaf first
	// Key is the private key in PKCS#8 PEM for `store: file`; empty for keys
	// that live in the HSM.
	Key secret.Value
	// UsableFrom is the first generation of the key whose certificates are not
	// revoked: those before must not be used again. 0 and 1 are all.
	UsableFrom int
	// KeyURI is the RFC 7512 URI of a key in the HSM; "" for `store: file`.
	KeyURI    string
	Serial    string // of the leaf, lower-case hex
	NotBefore time.Time
	NotAfter  time.Time
}

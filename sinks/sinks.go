// Package sinks says what is handed to local apps: the finished items that the
// agent publishes and the sinks below this package deliver.
//
// A sink has what was published to it and never asks an upstream for more.
package sinks

import (
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A Secret is one secret as it now is. It is immutable; a change is a new one.
type Secret struct {
	Name    string
	Version string // opaque; changes whenever Fields do
	Fields  map[string]secret.Value
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
	// KeyURI is the RFC 7512 URI of a key in the HSM; "" for `store: file`.
	KeyURI    string
	Serial    string // of the leaf, lower-case hex
	NotBefore time.Time
	NotAfter  time.Time
}

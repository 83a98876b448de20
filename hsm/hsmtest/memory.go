package hsmtest

import (
	"maps"
	"slices"
	"sync"

	"github.com/signet-agent/signet/hsm"
)

// A Ledger is an [hsm.Ledger] in memory. The zero Ledger is empty.
type Ledger struct {
	// OnSave, if set, is asked before a key is saved; its error is that of
	// SaveKey. It must not be changed while the Ledger is in use.
	OnSave func(hsm.LedgerKey) error

	mu   sync.Mutex
	keys map[string]hsm.LedgerKey
}

// Keys returns all keys.
func (l *Ledger) Keys() ([]hsm.LedgerKey, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.keys)), nil
}

// SaveKey keeps a key.
func (l *Ledger) SaveKey(k hsm.LedgerKey) error {
	if l.OnSave != nil {
		if err := l.OnSave(k); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil {
		l.keys = map[string]hsm.LedgerKey{}
	}
	l.keys[k.ID] = k
	return nil
}

// A Guard is an [hsm.Guard] in memory. The zero Guard remembers nothing.
type Guard struct {
	mu           sync.Mutex
	salt, digest []byte
	reason       string
}

// Refused returns what was remembered.
func (g *Guard) Refused() (salt, digest []byte, reason string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.salt, g.digest, g.reason, nil
}

// SetRefused remembers.
func (g *Guard) SetRefused(salt, digest []byte, reason string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.salt, g.digest, g.reason = slices.Clone(salt), slices.Clone(digest), reason
	return nil
}

// Clear forgets.
func (g *Guard) Clear() error { return g.SetRefused(nil, nil, "") }

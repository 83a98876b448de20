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

// A Guard is an [hsm.Guard] in memory, which tells what it remembers.
type Guard struct {
	hsm.MemoryGuard

	mu   sync.Mutex
	seen [][2]string // token and digest
}

// SetRefused is for [hsm.Guard].
func (g *Guard) SetRefused(token string, digest []byte, reason string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if pin := [2]string{token, string(digest)}; !slices.Contains(g.seen, pin) {
		g.seen = append(g.seen, pin)
	}
	return g.MemoryGuard.SetRefused(token, digest, reason)
}

// Reasons are why PINs are not tried again, the earliest first.
func (g *Guard) Reasons() (reasons []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, pin := range g.seen {
		if reason, _ := g.Refused(pin[0], []byte(pin[1])); reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

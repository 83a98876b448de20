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

// A Guard is an [hsm.Guard] in memory.
type Guard = hsm.MemoryGuard

package credentials

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// kindGiven is what the records of holders are kept under.
const kindGiven = "credential"

// refreshRetry is how long after a failure a unit is looked at again.
const refreshRetry = time.Minute

// A Store keeps small records; what a method has written is on stable storage
// when it returns.
type Store interface {
	Records(kind string) (map[string][]byte, error)
	SaveRecord(kind, name string, value []byte) error
	DeleteRecord(kind, name string) error
}

// A held is an item that a unit was given.
type held struct {
	unit string
	kind access.Kind
	name string
}

// key is the name of its record. Units have no slash in their names.
func (h held) key() string { return h.unit + "/" + h.kind.String() + "/" + h.name }

// holders know which unit was given which version of what, over restarts too:
// whoever has an older one than there is now is to ask again.
type holders struct {
	store Store

	mu    sync.Mutex
	given map[held]string // guarded by mu: the version
	left  map[held]string // guarded by mu: the version that a unit goes without, as it does not ask again
	more  chan struct{}   // something was given
}

// loadHolders reads what earlier runs have given. What is not configured any
// more is forgotten.
func (s *Server) loadHolders(store Store) (*holders, error) {
	h := &holders{store: store, given: map[held]string{}, left: map[held]string{}, more: make(chan struct{}, 1)}
	records, err := store.Records(kindGiven)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	for key, version := range records {
		unit, item, _ := strings.Cut(key, "/")
		kind, name, _ := strings.Cut(item, "/")
		k := access.Secret
		if kind == access.Certificate.String() {
			k = access.Certificate
		}
		if it := (held{unit, k, name}); s.slotOf(credential{kind: k, name: name}) != nil {
			h.given[it] = string(version)
		} else if err := store.DeleteRecord(kindGiven, key); err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
	}
	return h, nil
}

// note writes down what a unit was given.
func (h *holders) note(it held, version string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.given[it] != version {
		if err := h.store.SaveRecord(kindGiven, it.key(), []byte(version)); err != nil {
			return err
		}
		h.given[it] = version
	}
	select { // it may have changed since
	case h.more <- struct{}{}:
	default:
	}
	return nil
}

// An outdated is what a unit has of an item that is another by now.
type outdated struct {
	held
	was, now string // versions
}

// outdated are those that have another version than there is now, by unit; and
// what is closed when that may be different.
func (s *Server) outdated() (map[string][]outdated, <-chan struct{}) {
	h := s.holders
	h.mu.Lock()
	defer h.mu.Unlock()
	_, changed := s.look(&slot{})
	out := map[string][]outdated{}
	for it, was := range h.given {
		at, _ := s.look(s.slotOf(credential{kind: it.kind, name: it.name}))
		if now := at.version(); now != "" && now != was && now != h.left[it] {
			out[it.unit] = append(out[it.unit], outdated{it, was, now})
		}
	}
	return out, changed
}

// version is that of the item; "" if there is none.
func (now slot) version() string {
	switch {
	case now.secret != nil:
		return now.secret.Version
	case now.cert != nil:
		return now.cert.Serial
	}
	return ""
}

// RunRefresh has Config.Refresh called for units whose credentials have changed
// since they were given, until ctx is done.
func (s *Server) RunRefresh(ctx context.Context) error {
	for {
		out, changed := s.outdated()
		var retry <-chan time.Time
		for _, unit := range slices.Sorted(maps.Keys(out)) {
			refreshes, err := s.cfg.Refresh(ctx, unit)
			if err == nil {
				err = s.holders.told(out[unit], refreshes)
			}
			if err != nil {
				s.cfg.Log.Warn("unit not told of its new credentials", "unit", unit, "err", err, "retry_in", refreshRetry)
				retry = time.After(refreshRetry)
			}
		}
		select {
		case <-changed:
		case <-s.holders.more:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// told forgets what a unit had when it is seen to that it asks again, unless it
// has asked already. One that does not ask again while it runs is left alone
// until the item changes once more.
func (h *holders) told(items []outdated, refreshes bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, it := range items {
		switch {
		case !refreshes:
			h.left[it.held] = it.now
		case h.given[it.held] == it.was:
			if err := h.store.DeleteRecord(kindGiven, it.key()); err != nil {
				return err
			}
			delete(h.given, it.held)
		}
	}
	return nil
}

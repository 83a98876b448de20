package credentials

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// kindGiven is what the records of holders are kept under.
const kindGiven = "credential"

// A Store keeps small records; what a method has written is on stable storage
// when it returns.
type Store interface {
	Records(kind string) (map[string][]byte, error)
	SaveRecord(kind, name string, value []byte) error
	DeleteRecord(kind, name string) error
}

// key is the name of the record of a credential that a unit was given. Units
// have no slash in their names.
func (a address) key() string { return a.unit + "/" + a.id }

// holders know which unit was given which version of which credential, over
// restarts too: whoever has an older one than there is now is to ask again.
// Credentials of one item are asked for one by one, and need not be of one
// version.
type holders struct {
	store Store

	mu    sync.Mutex
	given map[address]string // guarded by mu: the version
	left  map[address]string // guarded by mu: the version that a unit goes without, as it does not ask again
	more  chan struct{}      // something was given
}

// loadHolders reads what earlier runs have given. What is not configured any
// more is forgotten.
func (s *Server) loadHolders(store Store) (*holders, error) {
	h := &holders{store: store, given: map[address]string{}, left: map[address]string{}, more: make(chan struct{}, 1)}
	records, err := store.Records(kindGiven)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	for key, version := range records {
		unit, id, _ := strings.Cut(key, "/")
		if _, unknown := s.resolve(id); unknown == nil {
			h.given[address{unit, id}] = string(version)
		} else if err := store.DeleteRecord(kindGiven, key); err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
	}
	return h, nil
}

// note writes down what a unit was given.
func (h *holders) note(at address, version string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.given[at] != version {
		if err := h.store.SaveRecord(kindGiven, at.key(), []byte(version)); err != nil {
			return err
		}
		h.given[at] = version
	}
	select { // it may have changed since
	case h.more <- struct{}{}:
	default:
	}
	return nil
}

// An outdated is a credential of a unit that is another by now.
type outdated struct {
	address
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
	for at, was := range h.given {
		cred, _ := s.resolve(at.id) // there is one: it was given
		it, _ := s.look(s.slotOf(cred))
		if now := it.version(); now != "" && now != was && now != h.left[at] {
			out[at.unit] = append(out[at.unit], outdated{at, was, now})
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

// A failure is of telling a unit.
type failure struct {
	count   int // in a row
	retryAt time.Time
}

// RunRefresh has Config.Refresh called for units whose credentials have changed
// since they were given, until ctx is done. Without Config.Store none are known.
func (s *Server) RunRefresh(ctx context.Context) error {
	if s.holders == nil {
		<-ctx.Done()
		return nil
	}
	failed := map[string]failure{} // by unit
	for {
		out, changed := s.outdated()
		maps.DeleteFunc(failed, func(unit string, _ failure) bool { return out[unit] == nil }) // it asked by itself
		var retry <-chan time.Time
		if at := s.tell(ctx, out, failed); !at.IsZero() {
			retry = time.After(time.Until(at))
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

// tell has units refreshed, those that failed not before it is time to try
// again: things change often, and failures are not to keep up with that. It
// returns when the next of those is to be tried; zero if there are none.
func (s *Server) tell(ctx context.Context, out map[string][]outdated, failed map[string]failure) (next time.Time) {
	for _, unit := range slices.Sorted(maps.Keys(out)) {
		f := failed[unit]
		if !time.Now().Before(f.retryAt) {
			refreshes, err := s.cfg.Refresh(ctx, unit)
			if err == nil {
				err = s.holders.told(out[unit], refreshes)
			}
			if err == nil {
				delete(failed, unit)
				continue
			}
			f.count++
			f.retryAt = time.Now().Add(backoff(f.count))
			failed[unit] = f
			s.cfg.Log.Warn("unit not told of its new credentials", "unit", unit, "err", err, "tries", f.count, "retry_at", f.retryAt)
		}
		if next.IsZero() || f.retryAt.Before(next) {
			next = f.retryAt
		}
	}
	return next
}

// backoff is how long to wait after so many failures in a row: 30 to 60
// seconds, doubled with each up to an hour.
func backoff(failures int) time.Duration {
	d := min(time.Minute<<min(failures-1, 10), time.Hour)
	return d/2 + rand.N(d/2)
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
			h.left[it.address] = it.now
		case h.given[it.address] == it.was:
			if err := h.store.DeleteRecord(kindGiven, it.key()); err != nil {
				return err
			}
			delete(h.given, it.address)
		}
	}
	return nil
}

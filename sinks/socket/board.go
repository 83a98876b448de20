package socket

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// A board holds the newest state of each item of a kind. Reading takes no lock.
type board[T any] struct {
	mu    sync.Mutex // held to add a slot
	slots atomic.Pointer[map[string]*slot[T]]
}

// A slot is the place of one item. It is made once and never removed.
type slot[T any] struct {
	now atomic.Pointer[state[T]]
}

// A state is what is known of an item at one time. Item and gone never change.
type state[T any] struct {
	item *T       // nil if there is none
	gone *Problem // why there is none any more; nil if there never was one

	mu   sync.Mutex
	next chan struct{} // guarded by mu: for those who wait; nil while nobody does
	old  bool          // guarded by mu: this is no longer the newest state
}

// changed is closed when this is no longer the newest state.
func (s *state[T]) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
		if s.old {
			close(s.next)
		}
	}
	return s.next
}

// end tells those who wait that there is another state.
func (s *state[T]) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = true
	if s.next != nil {
		close(s.next)
	}
}

func newBoard[T any](names []string) *board[T] {
	m := make(map[string]*slot[T], len(names))
	for _, name := range names {
		m[name] = newSlot[T]()
	}
	b := &board[T]{}
	b.slots.Store(&m)
	return b
}

func newSlot[T any]() *slot[T] {
	s := &slot[T]{}
	s.now.Store(&state[T]{})
	return s
}

// slot is the place of an item, or nil if no such item is configured.
func (b *board[T]) slot(name string) *slot[T] { return (*b.slots.Load())[name] }

// all are the slots by name.
func (b *board[T]) all() map[string]*slot[T] { return *b.slots.Load() }

// put replaces the state of an item and returns the one before. An item that is
// not configured gets a place; that copies the map, so names that are known
// should be given to newBoard.
func (b *board[T]) put(name string, item *T, gone *Problem) (old *state[T]) {
	s := b.slot(name)
	if s == nil {
		s = b.add(name)
	}
	old = s.now.Swap(&state[T]{item: item, gone: gone})
	old.end()
	return old
}

func (b *board[T]) add(name string) *slot[T] {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.slot(name); s != nil {
		return s
	}
	m := maps.Clone(b.all())
	m[name] = newSlot[T]()
	b.slots.Store(&m)
	return m[name]
}

// await returns once the state of an item is as enough wants it, or the caller's
// patience is over.
func await[T any](q *request, slot *slot[T], patience time.Duration, enough func(*state[T]) bool) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		st := slot.now.Load()
		if enough(st) {
			return nil
		}
		select {
		case <-st.changed():
		case <-timer.C:
			return nil
		case <-q.stopping().Done():
			return errStopping
		case <-q.r.Context().Done():
			return q.r.Context().Err()
		}
	}
}

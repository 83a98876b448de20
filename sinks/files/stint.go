package files

import (
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// patience is how long callers wait for a file system that does not get on.
	// What they have asked for is done once it does.
	patience = time.Second
	// hanging is how long it takes until a file system is said to hang.
	hanging = 5 * time.Second
)

// A mutex is one that need not be waited for.
type mutex chan struct{}

func (m mutex) Lock()   { m <- struct{}{} }
func (m mutex) Unlock() { <-m }

// lockUnless locks it, or reports false once never is closed.
func (m mutex) lockUnless(never <-chan struct{}) bool {
	select {
	case <-never:
		return false
	default:
	}
	select {
	case m <- struct{}{}:
		return true
	case <-never:
		return false
	}
}

// errUnanswered is why nothing is known of a target.
var errUnanswered = errors.New("its file system does not answer")

func (t *target) unanswered() *Error {
	return &Error{Path: t.path, Op: "write", Err: errUnanswered,
		Remedy: "check what is mounted at or above " + t.dir + "; the file gets what it should have by itself once that answers"}
}

// enter locks the target, unless its file system hangs.
func (t *target) enter() error {
	if !t.mu.lockUnless(t.lane.hung()) {
		return t.unanswered()
	}
	return nil
}

// attend does something with the target, which is locked for as long. If its file
// system hangs that goes on by itself; what it does then has to be nothing, see sure.
func (t *target) attend(do func(*stint) error) error {
	hung := t.lane.hung()
	if err := t.enter(); err != nil {
		return err
	}
	s := newStint(t.lane, t)
	s.begin()
	go func() {
		defer s.end()
		s.err = do(s)
	}()
	return s.wait(hung)
}

// A stint is work on locked targets of one directory. Where the file system hangs,
// whoever waits goes on without it, nobody begins another but the lane of the
// directory, and what comes meanwhile is that lane's to do.
type stint struct {
	lane    *lane
	targets []*target
	timer   *time.Timer
	late    chan struct{} // closed when it does not get on
	done    chan struct{}
	err     error // valid when done is closed
	// with the other stints of the same change; nil if there are none
	announced, told *meeting

	// guarded by lane.mu
	moved time.Time // when it last got on; zero while it waits for something else than the file system
	over  bool
	meant bool // see sure
}

// newStint is for targets that are locked.
func newStint(l *lane, ts ...*target) *stint {
	return &stint{lane: l, targets: ts, late: make(chan struct{}), done: make(chan struct{})}
}

// begin is when it has to get on.
func (s *stint) begin() {
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	s.moved = time.Now()
	s.timer = time.AfterFunc(s.lane.fs.patienceNow(), s.look)
}

// end ends it, and lets go of its targets.
func (s *stint) end() {
	s.lane.mu.Lock()
	s.over = true
	s.timer.Stop()
	if s.isLate() {
		s.lane.catchUp()
	}
	s.lane.mu.Unlock()
	for _, t := range s.targets {
		t.mu.Unlock()
	}
	close(s.done)
}

// wait waits until it is over, or until never is closed.
func (s *stint) wait(never <-chan struct{}) error {
	select {
	case <-s.done:
		return s.err
	case <-never:
	}
	s.lane.mu.Lock()
	meant := s.meant
	s.lane.mu.Unlock()
	if meant {
		<-s.done
		return s.err
	}
	var errs []error
	for _, t := range s.targets {
		errs = append(errs, t.unanswered())
	}
	return errors.Join(errs...)
}

// sure is called when nothing is left that could hang. An error means that nobody
// waits for what was done, and believes it not to be.
func (s *stint) sure() error {
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	if s.lane.hangs {
		return errUnanswered
	}
	s.meant = true
	return nil
}

func (s *stint) isLate() bool {
	select {
	case <-s.late:
		return true
	default:
		return false
	}
}

// moves notes that the file system has answered.
func (s *stint) moves() { s.moveAt(time.Now()) }

func (s *stint) moveAt(at time.Time) {
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	s.moved = at
}

// meet waits for the others, which is not the file system's fault.
func (s *stint) meet(m *meeting, jobs []*job) {
	s.moveAt(time.Time{})
	m.come(s, jobs)
	s.moves()
}

// leave has nobody wait for it.
func (s *stint) leave() {
	if s.announced != nil {
		s.announced.leave(s)
		s.told.leave(s)
	}
}

// errNewer is why a delivery is left out: something newer came while the file
// system hung, which is delivered next.
var errNewer = errors.New("something newer is to come")

// wanted is asked before something appears in the place of a target.
func (s *stint) wanted(t *target) error {
	if s.isLate() && t.told() {
		return errNewer
	}
	return nil
}

// look is called by the timer.
func (s *stint) look() {
	l := s.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.over {
		return
	}
	limit := l.fs.patienceNow()
	if s.isLate() {
		limit = l.fs.hanging
	}
	still := time.Since(s.moved)
	switch {
	case s.moved.IsZero():
		s.timer.Reset(limit)
	case still < limit:
		s.timer.Reset(limit - still)
	case s.isLate():
		l.hang()
	default:
		close(s.late)
		l.fallBehind()
		go s.leave()
		s.timer.Reset(l.fs.hanging - still)
	}
}

// A meeting is where the stints of one change come together: of files in several
// directories a consumer is told at once. Nobody waits for one that is late.
type meeting struct {
	all func([]*job) // called once for all, and for each that comes too late

	mu   sync.Mutex
	out  map[*stint]bool // guarded by mu: who is to come
	jobs []*job          // guarded by mu
	held chan struct{}
}

func newMeeting(stints []*stint, all func([]*job)) *meeting {
	m := &meeting{all: all, out: map[*stint]bool{}, held: make(chan struct{})}
	for _, s := range stints {
		m.out[s] = true
	}
	return m
}

// come waits for those who are to come.
func (m *meeting) come(s *stint, jobs []*job) {
	m.mu.Lock()
	if !m.out[s] {
		m.mu.Unlock()
		m.all(jobs)
		return
	}
	m.jobs = append(m.jobs, jobs...)
	m.mu.Unlock()
	m.leave(s)
	<-m.held
}

// leave has nobody wait for a stint.
func (m *meeting) leave(s *stint) {
	m.mu.Lock()
	last := m.out[s] && len(m.out) == 1
	delete(m.out, s)
	m.mu.Unlock()
	if last {
		slices.SortFunc(m.jobs, func(a, b *job) int { return byPath(a.t, b.t) })
		m.all(m.jobs)
		close(m.held)
	}
}

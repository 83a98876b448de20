package files

import (
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/sinks"
)

// Files keeps files right.
type Files struct {
	cfg     Config
	targets map[string]*target // by path
	lanes   map[string]*lane   // by directory
	users   map[ref]*users     // by item
	trusted map[uint32]bool    // users who could replace the agent anyway
	wake    chan struct{}      // something became due
	slow    time.Duration      // how often all are looked at, whatever happens
	memory  *memory

	patience, hanging time.Duration // see stint.go
	stuck             atomic.Int64  // stints that do not get on

	words sync.Mutex // never held for long
}

// users are the targets of an item.
type users struct {
	targets []*target // in the order of their paths
	// guarded by Files.words
	said int  // how often it was published or withdrawn; the last word counts
	item item // by the last word
}

// New checks the configuration, reporting all faults at once. It writes nothing,
// and touches no file system that files are on.
func New(cfg Config) (*Files, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	fs := &Files{cfg: cfg, targets: map[string]*target{}, lanes: map[string]*lane{}, users: map[ref]*users{}, trusted: ownersAbove(cfg.Trusted),
		wake: make(chan struct{}, 1), slow: slowCheck, patience: patience, hanging: hanging}
	var bad []error
	add := func(t *target, err error) {
		if err == nil && fs.targets[t.path] != nil {
			err = &Error{Path: t.path, Op: "configuration", Err: errors.New("the path is taken by an earlier file")}
		}
		if err != nil {
			bad = append(bad, err)
			return
		}
		fs.targets[t.path] = t
	}
	for _, f := range cfg.Files {
		add(compileFile(f))
	}
	for _, s := range cfg.Sets {
		add(compileSet(s))
	}
	if bad != nil {
		return nil, errors.Join(bad...)
	}
	fs.memory = newMemory(cfg.Remembered, cfg.Remember, cfg.Log)
	for _, t := range fs.sorted() {
		t.fs = fs
		if fs.lanes[t.dir] == nil {
			fs.lanes[t.dir] = newLane(fs, t.dir)
		}
		t.lane = fs.lanes[t.dir]
		t.lane.targets = append(t.lane.targets, t)
		t.show()
		for _, r := range t.needs() {
			if fs.users[r] == nil {
				fs.users[r] = &users{}
			}
			fs.users[r].targets = append(fs.users[r].targets, t)
		}
	}
	return fs, nil
}

// sorted are all targets in the order of their paths.
func (fs *Files) sorted() []*target { return slices.SortedFunc(maps.Values(fs.targets), byPath) }

// ownersAbove are the owners of the directories above a path.
func ownersAbove(path string) map[uint32]bool {
	owners := map[uint32]bool{}
	for path != "" && path != "/" && path != "." {
		path = filepath.Dir(path)
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			owners[st.Uid] = true
		}
	}
	return owners
}

// PublishSecret writes the files of a secret. An error is about those files
// that could not be written; Run tries them again. Those whose file system hangs
// are written when it answers.
func (fs *Files) PublishSecret(s *sinks.Secret) error {
	return fs.publish(secretRef(s.Name), item{secret: s})
}

// PublishCertificate writes the files of a certificate, as PublishSecret does.
func (fs *Files) PublishCertificate(c *sinks.Certificate) error {
	return fs.publish(certificateRef(c.Name), item{cert: c})
}

// WithdrawSecret removes the files of a secret that its upstream refuses: its
// value is not valid any more and goes at once, everywhere. Run tries again to
// remove what could not be.
func (fs *Files) WithdrawSecret(name string) error {
	return fs.publish(secretRef(name), item{})
}

func (fs *Files) publish(r ref, it item) error {
	u := fs.users[r]
	if u == nil {
		return nil
	}
	fs.words.Lock()
	u.said++
	said := u.said
	renews := u.item != (item{}) && it != (item{}) && u.item.version() != it.version()
	u.item = it
	fs.words.Unlock()
	give := func(ts []*target) error {
		fs.words.Lock()
		for _, t := range ts {
			if u.said == said { // nothing else came while this waited
				t.say(r, it)
			}
		}
		fs.words.Unlock()
		return fs.apply(ts, func(*target) {})
	}
	if fs.cfg.InTurn == nil || !renews {
		return give(u.targets)
	}
	return fs.inTurn(u.targets, give)
}

// inTurn calls give as Config.InTurn lets it be.
func (fs *Files) inTurn(targets []*target, give func([]*target) error) error {
	paths := make([]string, len(targets))
	for i, t := range targets {
		paths[i] = t.path
	}
	var mu sync.Mutex
	var errs []error
	fs.cfg.InTurn(paths, func(part []string) {
		ts := make([]*target, len(part))
		for i, path := range part {
			ts[i] = fs.targets[path]
		}
		slices.SortFunc(ts, byPath)
		err := give(ts)
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	})
	return errors.Join(errs...)
}

// say tells the target of an item. It takes that up when it can be locked; what is
// said last counts. Called with fs.words held.
func (t *target) say(r ref, it item) {
	if t.next == nil {
		t.next = map[ref]item{}
	}
	t.next[r] = it
}

// told reports whether the target was told something that it has not taken up.
func (t *target) told() bool {
	t.fs.words.Lock()
	defer t.fs.words.Unlock()
	return t.next != nil
}

// takeUp takes up what the target was told.
func (t *target) takeUp() {
	t.fs.words.Lock()
	next := t.next
	t.next = nil
	t.fs.words.Unlock()
	for r, it := range next {
		if it == (item{}) {
			t.take(r)
		} else {
			t.give(r, it)
		}
	}
}

// check looks whether a target is as it should be.
func (fs *Files) check(t *target) {
	_ = fs.apply([]*target{t}, func(*target) {}) // settle has told the log
}

// Status is the state of all targets, by path. It waits for nothing, also while a
// file system hangs.
func (fs *Files) Status() []Status {
	var out []Status
	for _, t := range fs.sorted() {
		st := t.view.Load().Status
		if t.lane.hanging() {
			st.Err, st.RetryAt = t.unanswered(), time.Time{}
		}
		out = append(out, st)
	}
	return out
}

// patienceNow is how long a file system is waited for: less while another hangs,
// which may be the same.
func (fs *Files) patienceNow() time.Duration {
	if fs.stuck.Load() > 0 {
		return fs.patience / 10
	}
	return fs.patience
}

func (fs *Files) wakeUp() {
	select {
	case fs.wake <- struct{}{}:
	default:
	}
}

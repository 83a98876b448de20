package files

import (
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/sinks"
)

// Files keeps files right.
type Files struct {
	cfg     Config
	targets map[string]*target // by path
	users   map[ref][]*target  // by item, in the order of their paths
	trusted map[uint32]bool    // users who could replace the agent anyway
	wake    chan struct{}      // something became due
	memory  *memory
}

// New checks the configuration, reporting all faults at once, and removes the
// temporary files that a crashed run has left. It writes nothing.
func New(cfg Config) (*Files, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	fs := &Files{cfg: cfg, targets: map[string]*target{}, users: map[ref][]*target{}, trusted: ownersAbove(cfg.Trusted), wake: make(chan struct{}, 1)}
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
		for _, r := range t.needs() {
			fs.users[r] = append(fs.users[r], t)
		}
	}
	fs.tidy()
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

// tidy removes what a crashed run has left. A directory that cannot be opened is
// reported when a file is to be written there.
func (fs *Files) tidy() {
	dirs := map[string]*dir{}
	for _, t := range fs.sorted() {
		d := dirs[t.dir]
		if d == nil {
			var err error
			if d, err = openDir(t.dir, fs.trusted); err != nil {
				continue
			}
			defer d.close()
			dirs[t.dir] = d
			if err := d.tidy(); err != nil {
				fs.cfg.Log.Warn("left-over temporary files not removed", "dir", t.dir, "err", err)
			}
		}
		if t.set == nil && !t.entries[0].KeepPrevious { // of a configuration that had it kept; there may be a key in it
			if err := d.remove(prevPrefix + t.base); err != nil {
				fs.cfg.Log.Warn("previous version not removed, which is not kept any more", "file", t.path, "err", err)
			}
		}
	}
}

// PublishSecret writes the files of a secret. An error is about those files
// that could not be written; Run tries them again.
func (fs *Files) PublishSecret(s *sinks.Secret) error {
	return fs.publish(secretRef(s.Name), item{secret: s})
}

// PublishCertificate writes the files of a certificate, as PublishSecret does.
func (fs *Files) PublishCertificate(c *sinks.Certificate) error {
	return fs.publish(certificateRef(c.Name), item{cert: c})
}

func (fs *Files) publish(r ref, it item) error {
	return fs.apply(fs.users[r], func(t *target) { t.give(r, it) })
}

// WithdrawSecret removes the files of a secret that its upstream refuses: its
// value is not valid any more and goes at once, everywhere. Run tries again to
// remove what could not be.
func (fs *Files) WithdrawSecret(name string) error {
	r := secretRef(name)
	return fs.apply(fs.users[r], func(t *target) { t.take(r) })
}

// check looks whether a target is as it should be.
func (fs *Files) check(t *target) {
	_ = fs.apply([]*target{t}, func(*target) {}) // settle has told the log
}

// look checks a target because something may have happened to it. One that could
// not be written waits for its time: the failed write was an event as well.
func (fs *Files) look(t *target) {
	t.mu.Lock()
	waits := t.err != nil && time.Now().Before(t.due)
	t.mu.Unlock()
	if !waits {
		fs.check(t)
	}
}

// Status is the state of all targets, by path.
func (fs *Files) Status() []Status {
	var out []Status
	for _, t := range fs.sorted() {
		out = append(out, t.status())
	}
	return out
}

func (fs *Files) wakeUp() {
	select {
	case fs.wake <- struct{}{}:
	default:
	}
}

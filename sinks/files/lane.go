package files

import (
	"slices"
	"sync"
	"time"
)

// A lane checks the targets of one directory for Run. What comes while it works is
// done together next. A file system that hangs stops its own lanes and no others.
type lane struct {
	fs      *Files
	dir     string
	targets []*target // all, in the order of their paths

	mu      sync.Mutex
	asked   map[*target]bool // guarded by mu: with whether it is not to wait for its time
	tidied  bool             // guarded by mu
	working chan struct{}    // guarded by mu: closed when it is idle again; nil when it is
}

func newLane(fs *Files, dir string) *lane {
	return &lane{fs: fs, dir: dir, asked: map[*target]bool{}}
}

// check has targets checked, and does not wait for it. One that could not be
// written waits for its time, as the failed write was an event as well, unless it
// is known that something is different now.
func (l *lane) check(different bool, ts ...*target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range ts {
		l.asked[t] = l.asked[t] || different
	}
	if l.working == nil {
		l.working = make(chan struct{})
		go l.work()
	}
}

// work checks what was asked for until nothing is left.
func (l *lane) work() {
	for {
		l.mu.Lock()
		if len(l.asked) == 0 {
			close(l.working)
			l.working = nil
			l.mu.Unlock()
			return
		}
		var ts []*target
		for t, different := range l.asked {
			if v := t.view.Load(); different || v.Err == nil || !time.Now().Before(v.due) {
				ts = append(ts, t)
			}
		}
		clear(l.asked)
		tidied := l.tidied
		l.tidied = true
		l.mu.Unlock()
		if !tidied {
			l.tidy()
		}
		slices.SortFunc(ts, byPath)
		_ = l.fs.apply(ts, func(*target) {}) // settle has told the log
	}
}

// idle is closed when nothing is left to do.
func (l *lane) idle() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.working != nil {
		return l.working
	}
	done := make(chan struct{})
	close(done)
	return done
}

// tidy removes what a crashed run has left. A directory that cannot be opened is
// reported when a file is to be written there.
func (l *lane) tidy() {
	d, err := openDir(l.dir, l.fs.trusted)
	if err != nil {
		return
	}
	defer d.close()
	if err := d.tidy(); err != nil {
		l.fs.cfg.Log.Warn("left-over temporary files not removed", "dir", l.dir, "err", err)
	}
	for _, t := range l.targets {
		if t.set != nil || t.entries[0].KeepPrevious {
			continue
		}
		// Of a configuration that had it kept; there may be a key in it.
		if err := d.remove(prevPrefix + t.base); err != nil {
			l.fs.cfg.Log.Warn("previous version not removed, which is not kept any more", "file", t.path, "err", err)
		}
	}
}

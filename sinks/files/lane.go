package files

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A lane is the work in one directory: it checks the targets there for Run, and does
// what nobody waits for any more. What comes while it works is done together next. A
// file system that hangs stops its own lanes and no others.
type lane struct {
	fs      *Files
	dir     string
	targets []*target // all, in the order of their paths

	mu      sync.Mutex
	asked   map[*target]bool // guarded by mu: with whether it is not to wait for its time
	reach   bool             // guarded by mu: it was asked whether the directory can be opened
	reached bool             // guarded by mu: it could
	tidied  bool             // guarded by mu
	working chan struct{}    // guarded by mu: closed when it is idle again; nil when it is
	late    int              // guarded by mu: the stints that do not get on
	behind  chan struct{}    // guarded by mu: closed while there are any
	hangs   bool             // guarded by mu: one has not for long, and that was told
	dead    chan struct{}    // guarded by mu: closed while hangs
}

func newLane(fs *Files, dir string) *lane {
	return &lane{fs: fs, dir: dir, asked: map[*target]bool{}, behind: make(chan struct{}), dead: make(chan struct{})}
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
	l.wake()
}

// opens reports whether the directory could be opened since this was last asked; if
// not that is tried, and Run is woken up once it can.
func (l *lane) opens() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.reached
	l.reached = false
	if !was {
		l.reach = true
		l.wake()
	}
	return was
}

// wake is called with mu held.
func (l *lane) wake() {
	if l.working == nil {
		l.working = make(chan struct{})
		go l.work()
	}
}

// work does what was asked for until nothing is left.
func (l *lane) work() {
	for {
		l.mu.Lock()
		if len(l.asked) == 0 && !l.reach {
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
		reach, tidied := l.reach, l.tidied
		l.reach, l.tidied = false, true
		l.mu.Unlock()
		if reach {
			l.open()
		}
		if !tidied {
			l.alone(l.tidy)
		}
		slices.SortFunc(ts, byPath)
		l.apply(ts)
	}
}

// apply is Files.apply that waits for as long as it takes.
func (l *lane) apply(ts []*target) {
	if len(ts) == 0 {
		return
	}
	for _, t := range ts {
		t.mu.Lock()
	}
	l.fs.begin([]*stint{newStint(l, ts...)}, func(s *stint) { s.run(func(*target) {}) })
}

// alone does something that is about no target.
func (l *lane) alone(do func()) {
	s := newStint(l)
	s.begin()
	defer s.end()
	do()
}

// open looks whether the directory can be opened.
func (l *lane) open() {
	l.alone(func() {
		fd, err := unix.Open(l.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		unix.Close(fd)
		l.mu.Lock()
		l.reached = true
		l.mu.Unlock()
		l.fs.wakeUp()
	})
}

// stuck is closed for as long as the file system does not get on.
func (l *lane) stuck() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.behind
}

// hung is closed for as long as the file system hangs.
func (l *lane) hung() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// hanging reports whether it does.
func (l *lane) hanging() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hangs
}

// fallBehind is called with mu held, and so are the next two.
func (l *lane) fallBehind() {
	l.late++
	l.fs.stuck.Add(1)
	if l.late == 1 {
		close(l.behind)
	}
}

func (l *lane) hang() {
	if l.hangs {
		return
	}
	l.hangs = true
	close(l.dead)
	l.fs.cfg.Log.Warn("a file system does not answer; the files there wait for it", "dir", l.dir, "hint", "check what is mounted at or above it")
}

func (l *lane) catchUp() {
	l.late--
	l.fs.stuck.Add(-1)
	if l.late > 0 {
		return
	}
	l.behind = make(chan struct{})
	if l.hangs {
		l.hangs, l.dead = false, make(chan struct{})
		l.fs.cfg.Log.Info("the file system answers again", "dir", l.dir)
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

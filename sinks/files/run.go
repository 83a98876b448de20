package files

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// slowCheck finds what no event told of, such as a mount over a directory.
	slowCheck = time.Minute
	// dirRetry is how often a directory that cannot be watched is tried again.
	dirRetry = 500 * time.Millisecond
	// lastWords is how long the end waits for what is being written. A file
	// system that hangs keeps nobody longer.
	lastWords = 3 * time.Second
)

// Run removes what a crashed run has left, repairs drift and tries again what
// could not be written, until ctx is done. Where the kernel watches no more files
// it looks at them once a minute.
func (fs *Files) Run(ctx context.Context) error {
	r := &runner{fs: fs, unwatched: map[string]bool{}, of: map[string]*target{}, cleared: make(chan struct{})}
	for _, t := range fs.targets {
		if t.set != nil { // its mode may be changed
			r.of[filepath.Join(t.dir, t.store())] = t
		}
	}
	r.open()
	defer r.close()
	go func() { defer close(r.cleared); fs.clearGone(ctx) }()
	r.run(ctx)
	return nil
}

// A runner is a call of Run. It opens no file itself, so that a file system that
// hangs stops its own lanes alone.
type runner struct {
	fs *Files
	w  *fsnotify.Watcher // nil while there are none to be had
	// unwatched are the directories that could not be watched so far, with whether
	// that may change soon.
	unwatched map[string]bool
	// of are the targets by what is watched besides: the generation of a set, or
	// a file whose directory does not tell of it as it is a mount.
	of   map[string]*target
	full bool // it was told that the kernel watches no more
	// cleared is closed once nothing is kept of files that are not configured.
	cleared chan struct{}
}

// open makes the watcher. Nothing is watched then.
func (r *runner) open() {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		r.unseen(err)
		w = nil
	}
	r.w = w
	for dir := range r.fs.lanes {
		r.unwatched[dir] = w != nil
	}
	for _, t := range r.fs.targets {
		t.watching.Store(nil)
	}
}

// unseen says, once, that changes are not seen when they happen.
func (r *runner) unseen(err error) {
	if !r.full {
		r.fs.cfg.Log.Warn("the kernel watches no more files; what somebody else changes is found within a minute only", "err", err,
			"hint", "raise fs.inotify.max_user_instances or fs.inotify.max_user_watches")
	}
	r.full = true
}

func (r *runner) close() {
	if r.w != nil {
		r.w.Close()
	}
	limit := time.After(lastWords)
	for _, l := range r.fs.lanes {
		select {
		case <-l.idle():
		case <-limit:
			r.fs.cfg.Log.Warn("files are still being written; their file system hangs", "dir", l.dir)
			return
		}
	}
	select {
	case <-r.cleared:
	case <-limit:
	}
}

func (r *runner) run(ctx context.Context) {
	slow := time.NewTicker(r.fs.slow)
	defer slow.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var events chan fsnotify.Event
		var faults chan error
		if r.w != nil {
			events, faults = r.w.Events, r.w.Errors
		}
		select {
		case <-ctx.Done():
			return
		case ev := <-events:
			r.event(ev)
			continue // what it made due sends a wake-up
		case err := <-faults:
			r.fs.cfg.Log.Warn("file events lost; all files are checked", "err", err)
			r.checkAll()
		case <-slow.C:
			if r.w == nil {
				r.open()
			}
			for dir := range r.unwatched {
				r.unwatched[dir] = r.w != nil
			}
			r.checkAll()
		case <-r.fs.wake:
		case <-timer.C:
		}
		r.watch()
		r.watchInner()
		now := time.Now()
		r.checkDue(now)
		timer.Reset(r.wait(now))
	}
}

func (r *runner) event(ev fsnotify.Event) {
	t := r.fs.targets[ev.Name]
	if t == nil {
		t = r.of[filepath.Dir(ev.Name)]
	}
	if t == nil {
		t = r.of[ev.Name] // the generation itself
	}
	if t != nil {
		r.fs.lanes[t.dir].check(false, t)
		return
	}
	name := filepath.Clean(ev.Name)
	if r.fs.lanes[name] != nil && (ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename)) {
		_ = r.w.Remove(name) // it may be gone already
		r.unwatched[name] = true
		r.fs.wakeUp()
	}
}

// add watches a path, and reports whether it does.
func (r *runner) add(path string) (ok, soon bool) {
	err := r.w.Add(path)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
		r.unseen(err)
		return false, false
	}
	return err == nil, true // the files there say why they cannot be written
}

// watch tries the directories that are not watched, once their lanes have found
// that they answer: whoever waits for a watch keeps all others from theirs. One that
// is watched anew may have changed in the meantime.
func (r *runner) watch() {
	for dir, may := range r.unwatched {
		l := r.fs.lanes[dir]
		if !may || !l.opens() {
			continue
		}
		ok, soon := r.add(dir)
		r.unwatched[dir] = soon
		if ok {
			delete(r.unwatched, dir)
			l.check(true, l.targets...)
		}
	}
}

// watchInner follows sets to their generations, where their directories answer. What
// happened before a generation is watched is looked for.
func (r *runner) watchInner() {
	if r.w == nil {
		return
	}
	for _, t := range r.fs.targets {
		want := t.view.Load().watchable
		have := t.watching.Load()
		if have != nil && *have != want {
			_ = r.w.Remove(*have) // it may be gone already
			delete(r.of, *have)
			t.watching.Store(nil)
			have = nil
		}
		if _, unwatched := r.unwatched[t.dir]; have == nil && want != "" && !unwatched {
			if ok, _ := r.add(want); ok {
				r.of[want] = t
				t.watching.Store(&want)
				r.fs.lanes[t.dir].check(false, t)
			}
		}
	}
}

func (r *runner) checkAll() {
	for _, l := range r.fs.lanes {
		l.check(false, l.targets...)
	}
}

func (r *runner) checkDue(now time.Time) {
	for _, t := range r.fs.targets {
		if due := t.view.Load().due; !due.IsZero() && !due.After(now) {
			r.fs.lanes[t.dir].check(false, t)
		}
	}
}

// wait is how long nothing is due.
func (r *runner) wait(now time.Time) time.Duration {
	d := slowCheck
	for _, soon := range r.unwatched {
		if soon {
			d = dirRetry
		}
	}
	for _, t := range r.fs.targets {
		// What was due is being checked, and says itself when it is next.
		if due := t.view.Load().due; due.After(now) {
			d = min(d, due.Sub(now))
		}
	}
	return d
}

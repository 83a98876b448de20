package files

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// slowCheck finds what no event told of, such as a mount over a directory.
	slowCheck = time.Minute
	// dirRetry is how often a directory that cannot be watched is tried again.
	dirRetry = 500 * time.Millisecond
)

// Run repairs drift and tries again what could not be written, until ctx is
// done.
func (fs *Files) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer w.Close()
	r := &runner{fs: fs, w: w, dirs: map[string][]*target{}, unwatched: map[string]bool{}, of: map[string]*target{}}
	for _, t := range fs.targets {
		r.dirs[t.dir] = append(r.dirs[t.dir], t)
		r.unwatched[t.dir] = true
		if t.set != nil { // its mode may be changed
			r.of[filepath.Join(t.dir, t.store())] = t
		}
	}
	return r.run(ctx)
}

// A runner is a call of Run.
type runner struct {
	fs        *Files
	w         *fsnotify.Watcher
	dirs      map[string][]*target
	unwatched map[string]bool // directories that could not be watched so far
	// of are the targets by what is watched besides: the generation of a set, or
	// a file whose directory does not tell of it as it is a mount.
	of map[string]*target
}

func (r *runner) run(ctx context.Context) error {
	slow := time.NewTicker(slowCheck)
	defer slow.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-r.w.Events:
			if !ok {
				return errors.New("watch files: the watcher has ended")
			}
			r.event(ev)
			continue // what it made due has sent a wake-up
		case err, ok := <-r.w.Errors:
			if !ok {
				return errors.New("watch files: the watcher has ended")
			}
			r.fs.cfg.Log.Warn("file events lost; all files are checked", "err", err)
			r.checkAll()
		case <-slow.C:
			r.checkAll()
		case <-r.fs.wake:
			r.watchInner()
		case <-timer.C:
			r.watch()
			r.watchInner()
			r.checkDue(time.Now())
		}
		timer.Reset(r.wait(time.Now()))
	}
}

func (r *runner) event(ev fsnotify.Event) {
	if t := r.fs.targets[ev.Name]; t != nil {
		r.fs.look(t)
		return
	}
	t := r.of[filepath.Dir(ev.Name)]
	if t == nil {
		t = r.of[ev.Name] // the generation itself
	}
	if t != nil {
		r.fs.look(t)
		return
	}
	name := filepath.Clean(ev.Name)
	if r.dirs[name] != nil && (ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename)) {
		_ = r.w.Remove(name) // it may be gone already
		r.unwatched[name] = true
		r.fs.wakeUp()
	}
}

// watch tries the directories that are not watched. One that is watched anew
// may have changed in the meantime.
func (r *runner) watch() {
	for dir := range r.unwatched {
		if err := r.w.Add(dir); err != nil {
			continue // its files say why they cannot be written
		}
		delete(r.unwatched, dir)
		for _, t := range r.dirs[dir] {
			r.fs.check(t)
		}
	}
}

// watchInner follows sets to their generations. What happened before a
// generation is watched is looked for.
func (r *runner) watchInner() {
	for _, t := range r.fs.targets {
		want := t.watchable()
		have := t.watching.Load()
		if have != nil && *have != want {
			_ = r.w.Remove(*have) // it may be gone already
			delete(r.of, *have)
			t.watching.Store(nil)
			have = nil
		}
		if have == nil {
			if want != "" && r.w.Add(want) == nil {
				r.of[want] = t
				t.watching.Store(&want)
				r.fs.check(t)
			}
		}
	}
}

// watchable is what has to be watched besides the directory of the target.
func (t *target) watchable() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.set != nil && t.generation != 0:
		return filepath.Join(t.dir, t.linkTo(t.generation))
	case t.inPlace:
		return t.path
	}
	return ""
}

func (r *runner) checkAll() {
	for _, t := range r.fs.targets {
		r.fs.look(t)
	}
}

func (r *runner) checkDue(now time.Time) {
	for _, t := range r.fs.targets {
		t.mu.Lock()
		due := !t.due.IsZero() && !t.due.After(now)
		t.mu.Unlock()
		if due {
			r.fs.check(t)
		}
	}
}

// wait is how long nothing is due.
func (r *runner) wait(now time.Time) time.Duration {
	d := slowCheck
	if len(r.unwatched) > 0 {
		d = dirRetry
	}
	for _, t := range r.fs.targets {
		t.mu.Lock()
		if !t.due.IsZero() {
			d = min(d, max(t.due.Sub(now), time.Millisecond))
		}
		t.mu.Unlock()
	}
	return d
}

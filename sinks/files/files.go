package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/signet-agent/signet/sinks"
)

// Files keeps files right.
type Files struct {
	cfg     Config
	targets map[string]*target // by path
	secrets map[string][]*target
	certs   map[string][]*target
	wake    chan struct{} // something became due
}

// A Status is the state of one file.
type Status struct {
	Path        string
	Secret      string
	Certificate string
	Version     string    // that should be in the file; "" if there is none yet
	WrittenAt   time.Time // zero if this process has not written it
	Err         error     // why the file is not right, or nil
	RetryAt     time.Time
}

// New checks the configuration, reporting all faults at once, and removes the
// temporary files that a crashed run has left. It writes nothing.
func New(cfg Config) (*Files, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	fs := &Files{cfg: cfg, targets: map[string]*target{}, secrets: map[string][]*target{}, certs: map[string][]*target{}, wake: make(chan struct{}, 1)}
	var bad []error
	for _, f := range cfg.Files {
		t, err := compile(f)
		if err == nil && fs.targets[f.Path] != nil {
			err = &Error{Path: f.Path, Op: "configuration", Err: errors.New("the path is taken by an earlier file")}
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		fs.targets[f.Path] = t
		if f.Secret != "" {
			fs.secrets[f.Secret] = append(fs.secrets[f.Secret], t)
		} else {
			fs.certs[f.Certificate] = append(fs.certs[f.Certificate], t)
		}
	}
	if bad != nil {
		return nil, errors.Join(bad...)
	}
	fs.tidy()
	return fs, nil
}

// tidy cleans each directory once. One that cannot be opened is reported when a
// file is to be written there.
func (fs *Files) tidy() {
	done := map[string]bool{}
	for _, t := range fs.targets {
		if done[t.dir] {
			continue
		}
		done[t.dir] = true
		d, err := t.openDir()
		if err != nil {
			continue
		}
		if err := d.tidy(); err != nil {
			fs.cfg.Log.Warn("left-over temporary files not removed", "dir", t.dir, "err", err)
		}
		d.close()
	}
}

// PublishSecret writes the files of a secret. An error is about those files
// that could not be written; Run tries them again.
func (fs *Files) PublishSecret(s *sinks.Secret) error {
	return fs.publish(fs.secrets[s.Name], item{secret: s})
}

// PublishCertificate writes the files of a certificate, as PublishSecret does.
func (fs *Files) PublishCertificate(c *sinks.Certificate) error {
	return fs.publish(fs.certs[c.Name], item{cert: c})
}

func (fs *Files) publish(targets []*target, it item) error {
	var errs []error
	for _, t := range targets {
		errs = append(errs, t.publish(fs, it))
	}
	return errors.Join(errs...)
}

// WithdrawSecret forgets a secret. Its files stay as they are, see the package
// comment.
func (fs *Files) WithdrawSecret(name string) {
	for _, t := range fs.secrets[name] {
		t.withdraw()
	}
}

// Status is the state of all files, by path.
func (fs *Files) Status() []Status {
	var out []Status
	for _, path := range slices.Sorted(maps.Keys(fs.targets)) {
		t := fs.targets[path]
		t.mu.Lock()
		out = append(out, Status{Path: t.Path, Secret: t.Secret, Certificate: t.Certificate, Version: t.item.version(), WrittenAt: t.since, Err: t.err, RetryAt: t.due})
		t.mu.Unlock()
	}
	return out
}

func (fs *Files) wakeUp() {
	select {
	case fs.wake <- struct{}{}:
	default:
	}
}

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
	r := &runner{fs: fs, w: w, dirs: map[string][]*target{}, unwatched: map[string]bool{}}
	for _, t := range fs.targets {
		r.dirs[t.dir] = append(r.dirs[t.dir], t)
		r.unwatched[t.dir] = true
	}
	return r.run(ctx)
}

// A runner is a call of Run.
type runner struct {
	fs        *Files
	w         *fsnotify.Watcher
	dirs      map[string][]*target
	unwatched map[string]bool // directories that could not be watched so far
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
		case <-timer.C:
			r.watch()
			r.checkDue(time.Now())
		}
		timer.Reset(r.wait(time.Now()))
	}
}

func (r *runner) event(ev fsnotify.Event) {
	if t := r.fs.targets[ev.Name]; t != nil {
		t.check(r.fs)
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
			t.check(r.fs)
		}
	}
}

func (r *runner) checkAll() {
	for _, t := range r.fs.targets {
		t.check(r.fs)
	}
}

func (r *runner) checkDue(now time.Time) {
	for _, t := range r.fs.targets {
		t.mu.Lock()
		due := !t.due.IsZero() && !t.due.After(now)
		t.mu.Unlock()
		if due {
			t.check(r.fs)
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

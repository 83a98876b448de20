package files

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"slices"
	"time"
)

// A batch is what one change of an item does to all its targets: their
// directories are opened once and synced once, and what has to follow is noted
// once. That is what makes a thousand files cost little more than writing them.
type batch struct {
	fs   *Files
	dirs map[string]*dir
}

// A job is a target that has to be written.
type job struct {
	t        *target
	d        *dir
	entries  []*entry
	contents []content // of the entries
	drift    bool
	delivery Delivery
	err      error
}

// A content is what is to be in a file.
type content struct {
	bytes []byte
	sum   [sha256.Size]byte
}

func (e *entry) make(its items) (content, error) {
	b, err := e.render(its)
	return content{b, sha256.Sum256(b)}, err
}

// apply changes targets and makes them what they should be then. Targets have
// to be in the order of their paths.
func (fs *Files) apply(targets []*target, change func(*target)) error {
	b := &batch{fs: fs, dirs: map[string]*dir{}}
	defer b.close()
	errs := map[*target]error{}
	var jobs []*job
	for _, t := range targets {
		t.mu.Lock()
		defer t.mu.Unlock()
		change(t)
		j, err := t.plan(b)
		if err != nil {
			errs[t] = err
		} else if j != nil {
			jobs = append(jobs, j)
		}
	}
	b.write(jobs)
	for _, j := range jobs {
		errs[j.t] = j.err
	}
	var all []error
	for _, t := range targets {
		t.settle(fs, errs[t])
		all = append(all, errs[t])
	}
	return errors.Join(all...)
}

// dir opens the directory of a target, and checks that it is safe there.
func (b *batch) dir(t *target) (*dir, error) {
	d := b.dirs[t.dir]
	if d == nil {
		var err error
		if d, err = openDir(t.dir, b.fs.trusted); err != nil {
			return nil, aboutTarget(t, err)
		}
		b.dirs[t.dir] = d
	}
	if err := d.safeFor(t.owner()); err != nil {
		return nil, aboutTarget(t, err)
	}
	return d, nil
}

// aboutTarget says of an error with a directory which target it is about.
func aboutTarget(t *target, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{Path: t.path, Op: e.Op + " " + e.Path, Err: e.Err, Remedy: e.Remedy}
	}
	return &Error{Path: t.path, Op: "open directory " + t.dir, Err: err}
}

// write does the jobs. What failed is in them.
func (b *batch) write(jobs []*job) {
	if len(jobs) > 0 && b.fs.cfg.Writing != nil {
		if err := b.fs.cfg.Writing(deliveries(jobs)); err != nil {
			for _, j := range jobs {
				j.err = &Error{Path: j.t.path, Op: "prepare", Err: err}
			}
			b.tellUnwritten(jobs)
			return
		}
	}
	for _, j := range jobs {
		j.err = j.t.write(b, j)
		if j.err != nil {
			if _, ok := errors.AsType[*Error](j.err); !ok {
				j.err = &Error{Path: j.t.path, Op: "write", Err: j.err, Remedy: j.t.remedy(j.err)}
			}
		}
	}
	for _, d := range b.dirs {
		if !d.touched {
			continue
		}
		d.touched = false
		if err := d.sync(); err != nil {
			for _, j := range jobs {
				if j.d == d && j.err == nil {
					j.err = &Error{Path: j.t.path, Op: "sync directory", Err: err}
				}
			}
		}
	}
	done := slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.err != nil })
	now := time.Now()
	for _, j := range done {
		t := j.t
		t.since, t.previous, t.delivered = now, t.delivered, j.delivery
		if j.drift {
			t.repaired = now
		}
		for _, e := range t.entries {
			if m, ok := t.marks[e.name]; ok {
				t.memory.note(t.pathOf(e), e, t.items, m.id)
			}
		}
	}
	b.fs.memory.keep()
	if len(done) > 0 && b.fs.cfg.Written != nil {
		b.fs.cfg.Written(deliveries(done))
	}
	b.tellUnwritten(jobs)
}

// tellUnwritten tells of the jobs that failed.
func (b *batch) tellUnwritten(jobs []*job) {
	failed := slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.err == nil })
	if len(failed) > 0 && b.fs.cfg.Unwritten != nil {
		b.fs.cfg.Unwritten(deliveries(failed))
	}
}

func deliveries(jobs []*job) []Delivery {
	var out []Delivery
	for _, j := range jobs {
		out = append(out, j.delivery)
	}
	return out
}

func (b *batch) close() {
	for _, d := range b.dirs {
		if d.touched { // something was removed
			if err := d.sync(); err != nil {
				b.fs.cfg.Log.Warn("directory not synced", "dir", d.f.Name(), "err", err)
			}
		}
		d.close()
	}
}

func readAll(f *os.File, limit int64) ([]byte, error) { return io.ReadAll(io.LimitReader(f, limit)) }

func byPath(a, b *target) int { return cmp.Compare(a.path, b.path) }

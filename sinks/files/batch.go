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

// A batch is what one change of an item does to its targets in a directory, which
// is opened once and synced once; what has to follow is noted once for all
// directories. That is what makes a thousand files cost little more than writing them.
type batch struct {
	fs    *Files
	dirs  map[string]*dir
	stint *stint
}

// A job is a target that has to be written.
type job struct {
	t        *target
	d        *dir
	models   []model
	drift    bool
	silent   bool // it is what a roll-back has put back, and nobody is told
	right    bool // it is written, and has only to be told
	fate     fate
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
	return contentOf(b), err
}

func contentOf(b []byte) content { return content{b, sha256.Sum256(b)} }

// apply changes targets and makes them what they should be then. Targets have to
// be in the order of their paths. Those whose file system hangs are not waited for:
// what they were told (see target.say) they take up once it answers, but change is
// not made.
func (fs *Files) apply(targets []*target, change func(*target)) error {
	var errs []error
	var stints []*stint
	of := map[*lane]*stint{}
	for _, t := range targets {
		if !t.mu.lockUnless(t.lane.stuck()) {
			t.lane.check(true, t)
			errs = append(errs, t.unanswered())
			continue
		}
		if of[t.lane] == nil {
			of[t.lane] = newStint(t.lane)
			stints = append(stints, of[t.lane])
		}
		of[t.lane].targets = append(of[t.lane].targets, t)
	}
	fs.begin(stints, func(s *stint) { go s.run(change) })
	for _, s := range stints {
		errs = append(errs, s.wait(s.late))
	}
	return errors.Join(errs...)
}

// begin begins the stints of one change, each of which run has to call run of.
func (fs *Files) begin(stints []*stint, run func(*stint)) {
	announced, told := newMeeting(stints, fs.announce), newMeeting(stints, fs.tell)
	for _, s := range stints {
		s.announced, s.told = announced, told
		s.begin()
	}
	for _, s := range stints {
		run(s)
	}
}

// run makes the targets what they should be after a change.
func (s *stint) run(change func(*target)) {
	defer s.end()
	b := &batch{fs: s.lane.fs, dirs: map[string]*dir{}, stint: s}
	defer b.close()
	errs := map[*target]error{}
	var jobs []*job
	for _, t := range s.targets {
		t.takeUp()
		change(t)
		j, err := t.plan(b)
		if err != nil {
			errs[t] = err
		} else if j != nil {
			jobs = append(jobs, j)
		}
		s.moves()
	}
	b.write(jobs)
	for _, j := range jobs {
		errs[j.t] = j.err
	}
	var all []error
	for _, t := range s.targets {
		if errs[t] == nil && t.set != nil {
			errs[t] = t.prune(b)
			s.moves()
		}
		t.settle(errs[t])
		t.show()
		all = append(all, errs[t])
	}
	s.err = errors.Join(all...)
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
	b.stint.meet(b.stint.announced, jobs)
	for _, j := range jobs {
		switch {
		case j.err != nil:
			continue
		case j.right:
			j.d.touched = true // what failed may have been the sync
			continue
		}
		j.d.still = func() error { return b.stint.wanted(j.t) }
		j.err = j.t.write(b, j)
		if j.err != nil {
			if _, ok := errors.AsType[*Error](j.err); !ok {
				j.err = &Error{Path: j.t.path, Op: "write", Err: j.err, Remedy: j.t.remedy(j.err)}
			}
		}
		b.stint.moves()
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
	for _, j := range jobs {
		if j.err == nil {
			j.t.done(j)
		}
	}
	b.stint.meet(b.stint.told, jobs)
}

// announce notes what has to follow. If that cannot be the jobs have failed.
func (fs *Files) announce(jobs []*job) {
	loud := slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.silent })
	if len(loud) == 0 || fs.cfg.Writing == nil {
		return
	}
	if err := fs.cfg.Writing(deliveries(loud)); err != nil {
		for _, j := range jobs {
			j.err = &Error{Path: j.t.path, Op: "prepare", Err: err}
		}
		return
	}
	for _, j := range loud {
		j.t.owed = &j.delivery
	}
}

// tell tells of the jobs that are done, and of those that failed.
func (fs *Files) tell(jobs []*job) {
	fs.memory.keep()
	var written, unwritten []*job
	for _, j := range jobs {
		switch {
		case j.silent:
		case j.err == nil:
			j.t.owed = nil
			written = append(written, j)
		default:
			unwritten = append(unwritten, j)
		}
	}
	if len(written) > 0 && fs.cfg.Written != nil {
		fs.cfg.Written(deliveries(written))
	}
	if len(unwritten) > 0 && fs.cfg.Unwritten != nil {
		fs.cfg.Unwritten(deliveries(unwritten))
	}
}

// done takes up that a job is written.
func (t *target) done(j *job) {
	if j.drift {
		t.repaired = time.Now()
	} else {
		t.delivered = j.delivery
	}
	for _, m := range j.models {
		if mark, ok := t.marks[m.name]; ok && m.entry != nil {
			t.fs.memory.note(t.pathOf(m.entry), m.entry, t.items, mark.id)
		}
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
	b.sync() // something was removed
	for _, d := range b.dirs {
		d.close()
	}
}

func (b *batch) sync() {
	for _, d := range b.dirs {
		if !d.touched {
			continue
		}
		d.touched = false
		if err := d.sync(); err != nil {
			b.fs.cfg.Log.Warn("directory not synced", "dir", d.f.Name(), "err", err)
		}
	}
}

func readAll(f *os.File, limit int64) ([]byte, error) { return io.ReadAll(io.LimitReader(f, limit)) }

func byPath(a, b *target) int { return cmp.Compare(a.path, b.path) }

package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A setState is what a target that is a set has besides. It is guarded by the
// target's mu.
//
// The set is a symbolic link to one of the generations, which are directories
// beside it and are never changed once the link has led to them:
//
//	/etc/app/tls -> .signet-set-tls/1795318801123456789
type setState struct {
	keep     int
	loaded   bool
	gens     []int64             // the generations that there are, in order
	replaced map[int64]time.Time // when the link ceased to lead there
	dropped  map[int64]bool      // not to be rolled back to
}

// readerGrace is how long a generation stays, beyond those that are kept, for
// readers that have its directory open.
const readerGrace = 5 * time.Second

func (t *target) store() string { return storePrefix + t.base }

func (t *target) linkTo(gen int64) string { return t.store() + "/" + strconv.FormatInt(gen, 10) }

// below opens a directory of the set. A mode that somebody has changed is told as
// a drift; what they may have put there is found when the files are compared.
func (t *target) below(d *dir, path string) (*dir, error) {
	return d.below(path, func(path string, was unix.Stat_t) { t.drifted(flaw{path, "mode", was}) })
}

// load reads which generations there are. What is later than the current one
// was never finished, or was rolled back: nothing to go back to.
func (t *target) load(d *dir) error {
	s := t.set
	if s.loaded {
		return nil
	}
	s.gens, s.replaced, s.dropped = nil, map[int64]time.Time{}, map[int64]bool{}
	store, err := t.below(d, t.store())
	if errors.Is(err, unix.ENOENT) {
		s.loaded = true
		return nil
	}
	if err != nil {
		return aboutTarget(t, err)
	}
	defer store.close()
	names, err := store.f.Readdirnames(-1)
	if err != nil {
		return &Error{Path: t.path, Op: "open generations", Err: cause(err)}
	}
	for _, name := range names {
		n, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			continue
		}
		if st, err := store.stat(name); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK { // see adopt
			if err := store.remove(name); err != nil {
				return &Error{Path: t.path, Op: "remove what a crash has left", Err: err, Remedy: t.remedy(err)}
			}
			continue
		}
		s.gens = append(s.gens, n)
	}
	slices.Sort(s.gens)
	now, what, _ := t.current(d)
	for _, gen := range s.gens {
		s.dropped[gen] = what == "" && (gen > now || gen < now && len(t.revoked(Delivery{})) > 0) || !t.takenUp(gen)
	}
	s.loaded = true
	return nil
}

// current is the generation that the link leads to; what says what is wrong with
// the link.
func (t *target) current(d *dir) (gen int64, what string, st unix.Stat_t) {
	st, err := d.stat(t.base)
	if err != nil {
		return 0, "deleted", unix.Stat_t{}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return 0, "type", st
	}
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(d.fd(), t.base, buf)
	if err != nil {
		return 0, "link", st
	}
	name, ok := strings.CutPrefix(string(buf[:n]), t.store()+"/")
	gen, err = strconv.ParseInt(name, 10, 64)
	if !ok || err != nil || gen <= 0 {
		return 0, "link", st
	}
	return gen, "", st
}

func (t *target) planSet(b *batch, d *dir, entries []*entry) (*job, error) {
	if err := t.load(d); err != nil {
		return nil, err
	}
	if t.settled && t.unchanged(d) {
		return nil, nil
	}
	models, err := t.models(entries)
	if err != nil {
		return nil, err
	}
	marks := map[string]mark{}
	f := flaw{path: t.path}
	gen, what, st := t.current(d)
	if f.what, f.st = what, st; what == "" {
		f = t.compareSet(d, gen, models, marks)
	}
	if f.what == "" {
		t.right(marks, gen)
		return t.found(d, entries), nil
	}
	return t.rewrite(b, d, entries, models, f, slices.Max(append(t.set.gens, 0)))
}

// compareSet compares all files of a generation, and notes their marks.
func (t *target) compareSet(d *dir, gen int64, models []model, marks map[string]mark) flaw {
	g, err := t.below(d, t.linkTo(gen))
	if err != nil {
		return flaw{path: t.path, what: "deleted"} // or another's now
	}
	defer g.close()
	for _, m := range models {
		what, st := t.compare(g, m)
		if what != "" {
			return flaw{filepath.Join(t.path, m.name), what, st}
		}
		marks[m.name] = mark{m.sum, identify(st)}
	}
	names, err := g.f.Readdirnames(-1)
	if err != nil {
		return flaw{path: t.path, what: "deleted"}
	}
	for _, name := range names {
		if _, wanted := marks[name]; !wanted {
			st, _ := g.stat(name)
			return flaw{filepath.Join(t.path, name), "added", st}
		}
	}
	return flaw{}
}

// writeSet writes a generation and has the link lead to it.
func (t *target) writeSet(b *batch, j *job) error {
	gen := j.delivery.Generation
	store, err := t.openStore(j.d)
	if err != nil {
		return err
	}
	defer store.close()
	marks, err := t.writeGeneration(store, j)
	if err != nil {
		return errors.Join(err, removeGeneration(store, gen))
	}
	was, what, _ := t.current(j.d)
	if what != "" {
		was = t.generation
	}
	t.judge(j, was)
	if err := t.lead(j.d, gen); err != nil {
		return errors.Join(err, removeGeneration(store, gen))
	}
	s := t.set
	s.replaced[was] = time.Now()
	s.dropped[was], s.dropped[gen-1] = j.fate != kept, j.fate != kept // what adopt has taken over is one less
	for _, old := range s.gens {
		s.dropped[old] = s.dropped[old] || j.fate == revoked
	}
	s.gens = append(s.gens, gen)
	t.replaced(j)
	t.right(marks, gen)
	return nil
}

// unchanged reports whether nothing about the set is other than it was marked.
func (t *target) unchanged(d *dir) bool {
	gen, what, _ := t.current(d)
	if what != "" || gen != t.generation {
		return false
	}
	g, err := t.below(d, t.linkTo(gen))
	if err != nil {
		return false
	}
	defer g.close()
	for name, m := range t.marks {
		if st, err := g.stat(name); err != nil || identify(st) != m.id {
			return false
		}
	}
	names, err := g.f.Readdirnames(-1)
	return err == nil && len(names) == len(t.marks)
}

// openStore opens the directory of the generations, and makes it if need be.
func (t *target) openStore(d *dir) (*dir, error) {
	store, err := t.below(d, t.store())
	if errors.Is(err, unix.ENOENT) {
		store, err = d.make(t.store())
	}
	if err != nil {
		return nil, aboutTarget(t, err)
	}
	return store, nil
}

// writeGeneration writes all files of a generation. Nothing leads there yet.
func (t *target) writeGeneration(store *dir, j *job) (map[string]mark, error) {
	g, err := store.make(strconv.FormatInt(j.delivery.Generation, 10))
	if err != nil {
		return nil, err
	}
	defer g.close()
	marks := map[string]mark{}
	for _, m := range j.models {
		st, err := g.create(m.name, m.bytes, m.attr, j.delivery.Generation)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		marks[m.name] = mark{m.sum, identify(st)}
	}
	if err := g.sync(); err != nil {
		return nil, err
	}
	return marks, store.sync()
}

// lead has the link lead to a generation, by one rename.
func (t *target) lead(d *dir, gen int64) error {
	if err := d.wanted(); err != nil {
		return err
	}
	tmp := tempName()
	if err := unix.Symlinkat(t.linkTo(gen), d.fd(), tmp); err != nil {
		return os.NewSyscallError("make link", err)
	}
	err := os.NewSyscallError("rename", unix.Renameat(d.fd(), tmp, d.fd(), t.base))
	if err == nil {
		d.touched = true
		return nil
	}
	_ = unix.Unlinkat(d.fd(), tmp, 0)
	if d.isMount(t.base) {
		return &Error{Path: t.path, Op: "write", Err: errors.New("it is a mount, and a set cannot be exchanged there"), Remedy: "mount its parent directory instead"}
	}
	if errors.Is(err, unix.EISDIR) {
		return t.adopt(d, gen)
	}
	return err
}

// adopt takes a directory that stands where the link should be for the
// generation before the first, if there is nothing else in it than the files of
// the set. The link is made where that generation goes, and then they change
// places, in one step: a crash leaves a link among the generations, and no keys
// anywhere that nobody looks after.
func (t *target) adopt(d *dir, gen int64) error {
	fd, err := unix.Openat(d.fd(), t.base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	f := os.NewFile(uintptr(fd), t.base)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.ContainsFunc(t.entries, func(e *entry) bool { return e.name == name }) {
			return &Error{Path: t.path, Op: "write", Err: fmt.Errorf("a directory with other files stands there, such as %q", name),
				Remedy: "move them away; the agent puts a link to its own directory there"}
		}
	}
	store, err := t.below(d, t.store())
	if err != nil {
		return err
	}
	defer store.close()
	// It has to be like any other generation to be gone back to.
	if err := errors.Join(unix.Fchown(fd, os.Geteuid(), -1), unix.Fchmod(fd, setMode)); err != nil {
		return os.NewSyscallError("take over the directory", err)
	}
	before := gen - 1 // writeSet knows
	name := strconv.FormatInt(before, 10)
	if err := unix.Symlinkat(t.linkTo(gen), store.fd(), name); err != nil {
		return os.NewSyscallError("make link", err)
	}
	if err := unix.Renameat2(store.fd(), name, d.fd(), t.base, unix.RENAME_EXCHANGE); err != nil {
		_ = unix.Unlinkat(store.fd(), name, 0)
		return os.NewSyscallError("exchange", err)
	}
	d.touched = true
	t.set.gens = append(t.set.gens, before)
	return store.sync()
}

// prune removes the generations that are not kept and that no reader can have
// open any more.
func (t *target) prune(b *batch) error {
	s, d := t.set, b.dirs[t.dir]
	if d == nil || !s.loaded { // nothing was looked at
		return nil
	}
	n, now := 0, time.Now()
	var left []int64
	var store *dir
	for _, gen := range slices.Backward(s.gens) {
		if gen == t.generation {
			left = append(left, gen)
			continue
		}
		if gen < t.generation && !s.dropped[gen] && n < s.keep {
			n++
			left = append(left, gen)
			continue
		}
		if until := s.replaced[gen].Add(readerGrace); now.Before(until) {
			left = append(left, gen)
			if t.due.IsZero() || until.Before(t.due) {
				t.due = until
			}
			continue
		}
		if store == nil {
			var err error
			if store, err = t.below(d, t.store()); err != nil {
				return aboutTarget(t, err)
			}
			defer store.close()
		}
		if err := removeGeneration(store, gen); err != nil {
			return &Error{Path: t.path, Op: "remove generation", Err: err}
		}
		delete(s.replaced, gen)
		delete(s.dropped, gen)
	}
	slices.Reverse(left)
	s.gens = left
	return nil
}

// removeGeneration removes a directory and the files in it.
func removeGeneration(store *dir, gen int64) error {
	name := strconv.FormatInt(gen, 10)
	fd, err := unix.Openat(store.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	g := &dir{f: os.NewFile(uintptr(fd), name)}
	defer g.close()
	names, err := g.f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := g.remove(n); err != nil {
			return err
		}
	}
	return os.NewSyscallError("rmdir", unix.Unlinkat(store.fd(), name, unix.AT_REMOVEDIR))
}

// purgeSet removes the files of withdrawn items from all generations, and all
// of them if nothing else is left.
func (t *target) purgeSet(fs *Files, d *dir) error {
	if err := t.load(d); err != nil {
		return err
	}
	fault := func(err error) error {
		return &Error{Path: t.path, Op: "remove", Err: err, Remedy: t.remedy(err)}
	}
	entries, ok := t.present()
	if _, what, _ := t.current(d); ok && len(entries) == 0 && what == "" {
		if err := d.remove(t.base); err != nil {
			return fault(err)
		}
	}
	store, err := t.below(d, t.store())
	if errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fault(err)
	}
	defer store.close()
	for _, gen := range t.set.gens {
		if ok && len(entries) == 0 {
			err = removeGeneration(store, gen)
		} else {
			err = t.purgeGeneration(store, gen)
		}
		if err != nil {
			return fault(err)
		}
	}
	if t.generation != 0 {
		fs.cfg.Log.Warn("files removed: the upstream has withdrawn their value", "set", t.path)
	}
	if ok && len(entries) == 0 {
		t.set.gens = nil
	}
	t.forget()
	return nil
}

// purgeGeneration removes the files of withdrawn items from one generation.
func (t *target) purgeGeneration(store *dir, gen int64) error {
	g, err := t.below(store, strconv.FormatInt(gen, 10))
	if err != nil {
		return err
	}
	defer g.close()
	for _, e := range t.entries {
		if slices.ContainsFunc(e.needs, func(r ref) bool { return t.withdrawn[r] }) {
			if err := g.remove(e.name); err != nil {
				return err
			}
		}
	}
	return g.sync()
}

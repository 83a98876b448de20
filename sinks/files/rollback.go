package files

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoPrevious means that there is nothing to roll back to.
var ErrNoPrevious = errors.New("nothing previous is kept")

// Rollback puts the previous generation of a target back. It is what should be in
// place then, and put right when somebody changes it, until something else is
// wanted or Redeliver is called. The hooks are not called for all that.
func (fs *Files) Rollback(path string) error {
	t, err := fs.target(path)
	if err != nil {
		return err
	}
	if err := fs.rollback(t); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return e
		}
		return &Error{Path: t.path, Op: "roll back", Err: err, Remedy: t.remedy(err)}
	}
	fs.check(t) // who may read it may have been changed while it lay there
	return nil
}

func (fs *Files) rollback(t *target) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.show()
	b := &batch{fs: fs, dirs: map[string]*dir{}}
	defer b.close()
	d, err := b.dir(t)
	if err != nil {
		return err
	}
	if t.set != nil {
		err = t.rollbackSet(d)
	} else {
		err = t.rollbackFile(d)
	}
	if err != nil {
		return err
	}
	d.touched = true
	t.held, t.heldFrom, t.settled = true, t.wanted(), false
	if err := t.hold(d, t.previous); err != nil {
		return err
	}
	t.delivered, t.previous = t.previous, Delivery{}
	t.delivered.Target, t.delivered.Generation = t.path, t.generation
	fs.cfg.Log.Warn("previous version is back in place", "file", t.path, "generation", t.generation)
	return nil
}

func (t *target) rollbackFile(d *dir) error {
	prev := prevPrefix + t.base
	st, err := d.previous(t.base)
	if err != nil {
		return err
	}
	if d.isMount(t.base) {
		old, err := d.read(prev, maxRead)
		if err != nil {
			return cause(err)
		}
		if _, err := t.overwrite(d, old, t.entries[0].attr, st.Mtim.Nano()); err != nil {
			return err
		}
	} else if err := unix.Renameat(d.fd(), prev, d.fd(), t.base); err != nil {
		return os.NewSyscallError("rename", err)
	}
	return d.remove(prev)
}

func (t *target) rollbackSet(d *dir) error {
	if err := t.load(d); err != nil {
		return err
	}
	s := t.set
	now, what, _ := t.current(d)
	if what != "" {
		now = t.generation
	}
	for _, gen := range slices.Backward(s.gens) {
		if gen >= now || s.dropped[gen] {
			continue
		}
		if err := t.lead(d, gen); err != nil {
			return err
		}
		s.replaced[now], s.dropped[now] = time.Now(), true
		return nil
	}
	return ErrNoPrevious
}

// Redeliver ends a Rollback: what the target should hold is written again, with
// all that follows.
func (fs *Files) Redeliver(path string) error {
	t, err := fs.target(path)
	if err != nil {
		return err
	}
	return fs.apply([]*target{t}, func(t *target) { t.unhold() })
}

// Generation is the generation of a target that is in place, as the disk has it.
func (fs *Files) Generation(path string) (gen int64, err error) {
	err = fs.inPlace(path, func(t *target, d *dir) error {
		if gen, err = t.onDisk(d); err != nil {
			return &Error{Path: t.path, Op: "look at", Err: err}
		}
		return nil
	})
	return gen, err
}

// inPlace calls look with a target, locked, and its directory.
func (fs *Files) inPlace(path string, look func(t *target, d *dir) error) error {
	t, err := fs.target(path)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b := &batch{fs: fs, dirs: map[string]*dir{}}
	defer b.close()
	d, err := b.dir(t)
	if err != nil {
		return err
	}
	return look(t, d)
}

// onDisk is for Generation.
func (t *target) onDisk(d *dir) (int64, error) {
	if t.set != nil {
		gen, what, _ := t.current(d)
		if what != "" {
			return 0, errors.New("no generation is in place")
		}
		return gen, nil
	}
	st, err := d.stat(t.base)
	return st.Mtim.Nano(), err
}

func (fs *Files) target(path string) (*target, error) {
	t := fs.targets[path]
	if t == nil {
		return nil, fmt.Errorf("file %q: is not configured", path)
	}
	return t, nil
}

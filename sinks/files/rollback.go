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

// errReplaced means that what did not work is not in place any more.
var errReplaced = errors.New("something else was delivered meanwhile")

// Rollback puts the previous generation of a target back if the one in place is the
// one that was tried, and reports whether it did. It is what should be in
// place then, and put right when somebody changes it, until something else is
// wanted or Redeliver is called. The hooks are not called for all that.
func (fs *Files) Rollback(path string, tried int64) (done bool, err error) {
	t, err := fs.target(path)
	if err != nil {
		return false, err
	}
	err = fs.rollback(t, tried)
	if errors.Is(err, errReplaced) {
		return false, nil
	}
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return false, e
		}
		return false, &Error{Path: t.path, Op: "roll back", Err: err, Remedy: t.remedy(err)}
	}
	fs.check(t) // who may read it may have been changed while it lay there
	return true, nil
}

func (fs *Files) rollback(t *target, tried int64) error {
	return t.attend(func(s *stint) error {
		defer t.show()
		b := &batch{fs: fs, dirs: map[string]*dir{}, stint: s}
		defer b.close()
		return t.rollBack(b, tried)
	})
}

// rollBack is for Rollback. Once nobody waits for it any more it leaves the target
// as it is, or has it put right.
func (t *target) rollBack(b *batch, tried int64) error {
	d, err := b.dir(t)
	if err != nil {
		return err
	}
	d.still = func() error {
		if t.lane.hanging() {
			return errUnanswered
		}
		return nil
	}
	if gen, err := t.onDisk(d); err != nil {
		return err
	} else if gen != tried {
		return errReplaced
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
	b.sync()
	if err := b.stint.sure(); err != nil {
		t.unhold()
		t.due = time.Now()
		return err
	}
	t.delivered, t.previous = t.previous, Delivery{}
	t.delivered.Target, t.delivered.Generation = t.path, t.generation
	b.fs.cfg.Log.Warn("previous version is back in place", "file", t.path, "generation", t.generation)
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
	} else if err := d.wanted(); err != nil {
		return err
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
func (fs *Files) Generation(path string) (int64, error) {
	return inPlace(fs, path, func(t *target, d *dir) (int64, error) {
		gen, err := t.onDisk(d)
		if err != nil {
			err = &Error{Path: t.path, Op: "look at", Err: err}
		}
		return gen, err
	})
}

// inPlace is what look says of a target, locked, and its directory.
func inPlace[T any](fs *Files, path string, look func(t *target, d *dir) (T, error)) (seen T, err error) {
	t, err := fs.target(path)
	if err != nil {
		return seen, err
	}
	var found T // which may come too late
	if err := t.attend(func(s *stint) error {
		b := &batch{fs: fs, dirs: map[string]*dir{}, stint: s}
		defer b.close()
		d, err := b.dir(t)
		if err == nil {
			found, err = look(t, d)
		}
		return err
	}); err != nil {
		return seen, err
	}
	return found, nil
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

package files

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// write does a job of the target.
func (t *target) write(b *batch, j *job) error {
	if t.set != nil {
		return t.writeSet(b, j)
	}
	st, err := t.writeFile(b, j)
	if err != nil {
		return err
	}
	t.right(map[string]mark{t.base: {j.contents[0].sum, identify(st)}}, j.delivery.Generation)
	return nil
}

func (t *target) writeFile(b *batch, j *job) (st unix.Stat_t, err error) {
	e, c, n := t.entries[0], j.contents[0].bytes, j.delivery.Generation
	if t.inPlace {
		return t.writeInPlace(b, j)
	}
	if e.KeepPrevious && !j.drift {
		st, err = j.d.exchange(t.base, c, e.attr, n)
	} else {
		st, err = j.d.replace(t.base, c, e.attr, n)
	}
	if err != nil && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EXDEV)) && j.d.isMount(t.base) {
		if e.RefuseInPlace {
			return st, &Error{Path: t.path, Op: "write", Err: errors.New("it is a mount, which cannot be replaced as a whole, and in_place: refuse is set"),
				Remedy: "mount its directory instead of the file, or set in_place: write"}
		}
		b.fs.cfg.Log.Warn("file is a mount and is written in place: readers may see it half written", "file", t.path,
			"marker", markPrefix+t.base)
		t.inPlace = true
		b.fs.wakeUp() // it is to be watched
		return t.writeInPlace(b, j)
	}
	return st, err
}

// exchange is replace, but what the file held before stays as the previous one.
func (d *dir) exchange(name string, content []byte, a attributes, generation int64) (st unix.Stat_t, err error) {
	old, err := d.stat(name)
	if err != nil || old.Mode&unix.S_IFMT != unix.S_IFREG {
		return d.replace(name, content, a, generation)
	}
	next := nextPrefix + name
	if err := d.remove(next); err != nil { // a crash has left it
		return st, err
	}
	if _, err = d.create(next, content, a, generation); err != nil {
		return st, err
	}
	err = unix.Renameat2(d.fd(), next, d.fd(), name, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // a file system that cannot: nothing previous then
		err = unix.Renameat(d.fd(), next, d.fd(), name)
	case err == nil:
		err = unix.Renameat(d.fd(), next, d.fd(), prevPrefix+name)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd(), next, 0)
		return st, os.NewSyscallError("rename", err)
	}
	d.touched = true
	return d.stat(name)
}

// isMount reports whether something is mounted on a name.
func (d *dir) isMount(name string) bool {
	var stx unix.Statx_t
	err := unix.Statx(d.fd(), name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &stx)
	return err == nil && stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// writeInPlace writes over a file that cannot be replaced. While that lasts a
// marker lies beside it, and one that a crash has left has the file written
// again. The file is never empty: it is cut to its length at the end.
func (t *target) writeInPlace(b *batch, j *job) (st unix.Stat_t, err error) {
	e, d := t.entries[0], j.d
	if e.KeepPrevious && !j.drift {
		if err := t.copyPrevious(d); err != nil {
			b.fs.cfg.Log.Warn("nothing is kept to roll back to", "file", t.path, "err", err)
		}
	}
	return t.overwrite(d, j.contents[0].bytes, j.delivery.Generation)
}

func (t *target) overwrite(d *dir, content []byte, generation int64) (st unix.Stat_t, err error) {
	fd, err := openStep(d.fd(), t.base, unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		return st, os.NewSyscallError("open in place", err)
	}
	f := os.NewFile(uintptr(fd), t.base)
	defer f.Close()
	if err := unix.Fstat(fd, &st); err != nil {
		return st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return st, errors.New("what is mounted is not a regular file")
	}
	if err := d.setMark(t.base); err != nil {
		return st, fmt.Errorf("marker: %w", err)
	}
	a := t.entries[0].attr
	if err := a.dress(fd); err != nil { // before the content, as in create
		return st, err
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return st, cause(err)
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		return st, cause(err)
	}
	if err := f.Sync(); err != nil {
		return st, cause(err)
	}
	if err := stampTime(fd, generation); err != nil && !errors.Is(err, unix.EPERM) {
		return st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return st, err
	}
	return st, d.removeMark(t.base)
}

// copyPrevious keeps a copy of what is in the file now.
func (t *target) copyPrevious(d *dir) error {
	f, err := d.open(t.base)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	old, err := io.ReadAll(io.LimitReader(f, maxRead))
	if err != nil || len(old) == 0 {
		return err
	}
	_, err = d.replace(prevPrefix+t.base, old, attributes{uid: os.Geteuid(), gid: os.Getegid(), mode: 0o600}, st.Mtim.Nano())
	return err
}

// setMark says that a file is being written in place.
func (d *dir) setMark(name string) error {
	fd, err := unix.Openat(d.fd(), markPrefix+name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return os.NewSyscallError("make", err)
	}
	unix.Close(fd)
	return d.sync()
}

func (d *dir) removeMark(name string) error {
	if _, err := d.stat(markPrefix + name); err != nil {
		return nil
	}
	return d.remove(markPrefix + name)
}

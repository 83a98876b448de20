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
	t.replaced(j)
	t.right(map[string]mark{t.base: {j.models[0].sum, identify(st)}}, j.delivery.Generation)
	return nil
}

func (t *target) writeFile(b *batch, j *job) (st unix.Stat_t, err error) {
	e, m, n := t.entries[0], j.models[0], j.delivery.Generation
	if e.KeepPrevious {
		t.judgeFile(b, j)
	}
	if t.inPlace && j.d.isMount(t.base) {
		return t.writeInPlace(b, j)
	}
	if t.inPlace { // it was unmounted
		if err := j.d.removeMark(t.base); err != nil {
			return st, err
		}
		t.inPlace = false
	}
	if e.KeepPrevious && j.fate == kept {
		var unkept error
		if st, unkept, err = j.d.exchange(t.base, m.bytes, m.attr, n); unkept != nil {
			t.unkept(b, unkept)
		}
	} else {
		st, err = j.d.replace(t.base, m.bytes, m.attr, n)
	}
	if err != nil && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EXDEV)) && j.d.isMount(t.base) {
		if e.RefuseInPlace {
			return st, &Error{Path: t.path, Op: "write", Err: errors.New("it is a mount, which cannot be replaced as a whole, and in_place: refuse is set"),
				Remedy: "mount its directory instead of the file, or set in_place: write"}
		}
		b.fs.cfg.Log.Warn("file is a mount and is written in place: readers may see it half written", "file", t.path,
			"marker", markPrefix+t.base)
		t.inPlace = true
		return t.writeInPlace(b, j)
	}
	return st, err
}

// exchange is replace, but what the file held before stays as the previous one.
// The new content comes under the name of the previous one first, and then they
// change places, in one step: after a crash the previous one is what was in the
// file last, or it is later than the file and none (see previous).
func (d *dir) exchange(name string, content []byte, a attributes, generation int64) (st unix.Stat_t, unkept, err error) {
	old, err := d.stat(name)
	if err != nil || old.Mode&unix.S_IFMT != unix.S_IFREG {
		st, err = d.replace(name, content, a, generation)
		return st, nil, err
	}
	if d.isMount(name) { // or it would be known only after the previous one is lost
		return st, nil, unix.EBUSY
	}
	tmp, prev := tempName(), prevPrefix+name
	if _, err := d.create(tmp, content, a, generation); err != nil {
		return st, nil, err
	}
	if err := d.wanted(); err != nil {
		_ = unix.Unlinkat(d.fd(), tmp, 0)
		return st, nil, err
	}
	if unkept = os.NewSyscallError("rename", unix.Renameat(d.fd(), tmp, d.fd(), prev)); unkept != nil {
		prev = tmp // something is in the way there, and none of the file's business
		err = unix.Renameat(d.fd(), tmp, d.fd(), name)
	} else if err = unix.Renameat2(d.fd(), prev, d.fd(), name, unix.RENAME_EXCHANGE); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		unkept = errors.New("the file system cannot exchange files")
		err = unix.Renameat(d.fd(), prev, d.fd(), name)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd(), prev, 0)
		return st, nil, os.NewSyscallError("rename", err)
	}
	d.touched = true
	st, err = d.stat(name)
	return st, unkept, err
}

// previous is what a file held before, if that is kept. What is not older than
// the file was never in it.
func (d *dir) previous(name string) (st unix.Stat_t, err error) {
	st, err = d.stat(prevPrefix + name)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return st, ErrNoPrevious
	}
	if now, err := d.stat(name); err == nil && now.Mtim.Nano() <= st.Mtim.Nano() {
		return st, ErrNoPrevious
	}
	return st, nil
}

// isMount reports whether something is mounted on a name.
func (d *dir) isMount(name string) bool {
	var stx unix.Statx_t
	err := unix.Statx(d.fd(), name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &stx)
	return err == nil && stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// unkept says that the file is written and cannot be rolled back.
func (t *target) unkept(b *batch, err error) {
	b.fs.cfg.Log.Warn("nothing is kept to roll back to", "file", t.path, "err", err)
}

// writeInPlace writes over a file that cannot be replaced. While that lasts a
// marker lies beside it, and one that a crash has left has the file written
// again. The file is never empty: it is cut to its length at the end.
func (t *target) writeInPlace(b *batch, j *job) (st unix.Stat_t, err error) {
	e, d := t.entries[0], j.d
	if _, half := d.stat(markPrefix + t.base); e.KeepPrevious && j.fate == kept && half != nil { // what is half written is no previous one
		if err := t.copyPrevious(d); err != nil {
			t.unkept(b, err)
		}
	}
	return t.overwrite(d, j.models[0].bytes, j.models[0].attr, j.delivery.Generation)
}

// overwrite writes the file in place. If it fails the file has what it had.
func (t *target) overwrite(d *dir, content []byte, a attributes, generation int64) (st unix.Stat_t, err error) {
	fd, err := openStep(d.fd(), t.base, unix.O_RDWR|unix.O_NONBLOCK)
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
	old, err := readAll(f, maxRead)
	if err != nil {
		return st, cause(err)
	}
	// Room for all of it first: with a full disk no byte is changed.
	if err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, int64(len(content))); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return st, os.NewSyscallError("make room", err)
	}
	if err := a.dress(fd); err != nil { // before the content, as in create
		return st, err
	}
	if err := d.wanted(); err != nil {
		return st, err
	}
	half := false
	if _, err := d.stat(markPrefix + t.base); err == nil {
		half = true // the old content is none to go back to
	} else if err := d.setMark(t.base); err != nil {
		return st, fmt.Errorf("marker: %w", err)
	}
	if err := writeOver(f, content); err != nil {
		if !half && writeOver(f, old) == nil {
			_ = stampTime(fd, st.Mtim.Nano())
			_ = d.removeMark(t.base) // one that stays only means that this is no previous one
		}
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

// writeOver makes content that of an open file, and has it on the disk.
func writeOver(f *os.File, content []byte) error {
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		return err
	}
	return f.Sync()
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

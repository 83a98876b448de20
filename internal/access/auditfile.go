package access

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A writer is the file behind an Audit. It is owned by Audit.run.
type writer struct {
	path string
	// maxSize and keep are of AuditConfig.
	maxSize int64
	keep    int

	f       *os.File
	size    int64
	prev    [sha256.Size]byte // of the last line chained
	durable [sha256.Size]byte // of the last line on the disk
	lines   uint64
	out     []byte // chained and not yet written
	dirty   bool   // written and not yet synced
}

// open opens or makes the file, cuts off a torn last line, and finds the hash to
// go on from. It reports how many bytes were cut off.
func (w *writer) open() (torn int, err error) {
	f, err := os.OpenFile(w.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, errors.Unwrap(err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return 0, errors.New("another process writes to it")
	}
	last, size, torn, err := lastLine(f)
	if err != nil {
		return 0, err
	}
	if torn > 0 {
		if err := f.Truncate(size); err != nil {
			return 0, err
		}
	}
	if last == nil { // a new file goes on from the one before it
		if last, err = w.before(); err != nil {
			return 0, err
		}
	}
	if last != nil {
		w.prev = hashLine(last)
	}
	w.f, w.size, w.durable = f, size, w.prev
	return torn, nil
}

// lastLine finds the last whole line, the size of the file up to its end, and
// how many bytes follow.
func lastLine(f *os.File) (line []byte, size int64, torn int, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, 0, err
	}
	size = info.Size()
	for n := int64(64 << 10); ; n *= 4 {
		n = min(n, size)
		tail := make([]byte, n)
		if _, err := f.ReadAt(tail, size-n); err != nil && err != io.EOF {
			return nil, 0, 0, err
		}
		end := bytes.LastIndexByte(tail, '\n')
		if end < 0 {
			if n < size {
				continue
			}
			return nil, 0, int(size), nil // not a single whole line
		}
		start := bytes.LastIndexByte(tail[:end], '\n')
		if start < 0 && n < size {
			continue
		}
		return tail[start+1 : end], size - n + int64(end) + 1, len(tail) - end - 1, nil
	}
}

// chain completes the lines of a batch, adds them to what is to be written, and
// reports how many there were.
func (w *writer) chain(batch []byte) (n uint64) {
	for ; len(batch) > 0; n++ {
		end := bytes.IndexByte(batch, '\n')
		start := len(w.out)
		w.out = append(w.out, batch[:end]...)
		w.out = hex.AppendEncode(w.out, w.prev[:])
		w.out = append(w.out, `"}`...)
		w.prev = hashLine(w.out[start:])
		w.out = append(w.out, '\n')
		w.lines++
		batch = batch[end+1:]
	}
	return n
}

// drain writes what is to be written. What could not be written stays, from the
// very byte on, for the next time.
func (w *writer) drain() error {
	if len(w.out) == 0 {
		return nil
	}
	n, err := w.f.Write(w.out)
	w.size += int64(n)
	w.dirty = w.dirty || n > 0
	if err != nil {
		w.out = append(w.out[:0], w.out[n:]...)
		return cause(err)
	}
	w.out = w.out[:0]
	if cap(w.out) > 256<<10 {
		w.out = nil
	}
	if w.maxSize > 0 && w.size >= w.maxSize {
		return w.setAside()
	}
	return nil
}

// probe syncs the file and finds out whether the next line could be written:
// the file may have been moved away to rotate it, or the disk be full.
func (w *writer) probe() error {
	if err := w.drain(); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	if err := w.follow(); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(w.f.Fd()), &fs); err != nil {
		return err
	}
	free := fs.Bavail
	if os.Geteuid() == 0 {
		free = fs.Bfree
	}
	if fs.Blocks > 0 && free == 0 {
		return unix.ENOSPC
	}
	return nil
}

func (w *writer) sync() error {
	if !w.dirty {
		return nil
	}
	if err := w.f.Sync(); err != nil {
		return cause(err)
	}
	w.dirty = false
	if len(w.out) == 0 {
		w.durable = w.prev
	}
	return nil
}

// follow opens the file anew if its name is no longer that of the open one. The
// chain goes on from file to file.
func (w *writer) follow() error {
	var here, there unix.Stat_t
	if err := unix.Fstat(int(w.f.Fd()), &here); err != nil {
		return err
	}
	err := unix.Lstat(w.path, &there)
	if err == nil && here.Dev == there.Dev && here.Ino == there.Ino {
		return nil
	}
	if err := w.drain(); err != nil {
		return err
	}
	return w.reopen()
}

// reopen goes on with the file that the name now stands for, or makes it.
func (w *writer) reopen() error {
	next := writer{path: w.path}
	if _, err := next.open(); err != nil {
		return err
	}
	w.close()
	w.f, w.size = next.f, next.size
	return nil
}

func (w *writer) close() {
	if w.f != nil {
		w.f.Close()
	}
}

// cause leaves out the path, which AuditError says.
func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}

package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir holds the directory for this process. The file stays when the lock
// goes: to remove it would let two processes lock two files of one name.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &Error{Op: "lock the directory", Path: dir, Err: plainPath(err)}
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	// A program that the last holder was about to start has the lock too, until
	// it has begun: it is waited for.
	for n := 0; errors.Is(err, unix.EWOULDBLOCK) && n < 25; n++ {
		<-time.After(20 * time.Millisecond)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, &LockedError{Dir: dir, PID: holder(f)}
	}
	if err != nil {
		return nil, errors.Join(&Error{Op: "lock the directory", Path: dir, Err: err}, f.Close())
	}
	// The number only helps to find the holder; a full disk is no reason not
	// to start.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

func holder(f *os.File) int {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path that can be connected to.
const maxPath = 107

// Listen makes a Unix socket at path, with mode from the moment it can be
// reached. A socket that a dead process left there is replaced; one that still
// answers, or anything that is not a socket, is an error. Closing the listener
// removes the path, unless it is another's by then.
func Listen(path string, mode os.FileMode) (net.Listener, error) {
	ln, err := listen(path, mode)
	if err != nil {
		return nil, fmt.Errorf("socket %q: %w", path, err)
	}
	return ln, nil
}

func listen(path string, mode os.FileMode) (_ net.Listener, err error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path is longer than %d bytes, which no program can connect to", maxPath)
	}
	if err := vacant(path); err != nil {
		return nil, err
	}
	// Bound in a directory that nobody else can enter, then moved into place.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".signet-socket-")
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer os.Remove(dir)
	tmp := filepath.Join(dir, "s")
	bound := tmp
	if len(bound) > maxPath { // there is a shorter name by way of /proc
		d, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		bound = "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/s"
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: bound, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			ln.Close()
			os.Remove(tmp)
		}
	}()
	if err := os.Chmod(tmp, mode.Perm()); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(tmp, &st); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	return &owned{UnixListener: ln, path: path, dev: st.Dev, ino: st.Ino}, nil
}

// vacant reports whether path can be taken.
func vacant(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Unwrap(err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("there is something else that is not a socket; remove it")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return errors.New("another process answers there")
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// owned is a listener that removes its path when it is closed.
type owned struct {
	*net.UnixListener
	path string
	dev  uint64
	ino  uint64
	once sync.Once
}

// Close stops listening and removes the path if it still is this socket's.
func (l *owned) Close() error {
	l.once.Do(func() {
		var st unix.Stat_t
		if unix.Lstat(l.path, &st) == nil && st.Dev == l.dev && st.Ino == l.ino {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}

package files

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tmpPrefix begins the names of temporary files: .signet-PID-RANDOM.tmp.
const (
	tmpPrefix = ".signet-"
	tmpSuffix = ".tmp"
)

// A dir is an open directory. All work in it is relative to it, so that nobody
// can exchange it meanwhile.
type dir struct {
	f *os.File
}

// openDir opens the directory of a target and checks whether files of the
// target's owner are safe in it.
func (t *target) openDir() (*dir, error) {
	fault := func(err error, remedy string) (*dir, error) {
		return nil, &Error{Path: t.Path, Op: "open directory " + t.dir, Err: err, Remedy: remedy}
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, t.dir, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	switch {
	case errors.Is(err, unix.ELOOP):
		return fault(errors.New("there is a symbolic link in its path"), "write the path that the link leads to")
	case errors.Is(err, unix.ENOENT):
		return fault(err, "make the directory; the agent does not, as it cannot know whose it is")
	case err != nil:
		return fault(err, "the agent needs to enter and to write to the directory")
	}
	d := &dir{os.NewFile(uintptr(fd), t.dir)}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		d.close()
		return fault(err, "")
	}
	if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() && uid != t.uid {
		d.close()
		return fault(fmt.Errorf("it belongs to user %d, who could replace the file", uid), "give it to root, the agent, or the owner of the file")
	}
	if st.Mode&0o002 != 0 {
		d.close()
		return fault(errors.New("everyone can write to it"), "chmod o-w "+t.dir)
	}
	return d, nil
}

func (d *dir) close() { d.f.Close() }

func (d *dir) fd() int { return int(d.f.Fd()) }

// stat looks at a name without following a link.
func (d *dir) stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// read reads a regular file of at most limit bytes.
func (d *dir) read(name string, limit int64) ([]byte, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// replace makes content the file called name. Its steps, and nothing less:
//
//	openat(O_CREAT|O_EXCL, 0000), fchown, fchmod, write, fsync, renameat, fsync(directory)
func (d *dir) replace(name string, content []byte, uid, gid int, mode fs.FileMode) (st unix.Stat_t, err error) {
	tmp := tmpPrefix + strconv.Itoa(os.Getpid()) + "-" + rand.Text()[:12] + tmpSuffix
	fd, err := unix.Openat(d.fd(), tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, os.NewSyscallError("make temporary file", err)
	}
	f := os.NewFile(uintptr(fd), tmp)
	renamed := false
	defer func() {
		f.Close()
		if !renamed {
			_ = unix.Unlinkat(d.fd(), tmp, 0) // what is left is cleaned up at the next start
		}
	}()
	if uid != os.Geteuid() || gid != os.Getegid() {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return st, os.NewSyscallError(fmt.Sprintf("give to %d:%d", uid, gid), err)
		}
	}
	if err := unix.Fchmod(fd, uint32(mode)); err != nil {
		return st, os.NewSyscallError("chmod", err)
	}
	if _, err := f.Write(content); err != nil {
		return st, cause(err)
	}
	if err := f.Sync(); err != nil {
		return st, cause(err)
	}
	if err := unix.Renameat(d.fd(), tmp, d.fd(), name); err != nil {
		return st, os.NewSyscallError("rename", err)
	}
	renamed = true
	if err := unix.Fstat(fd, &st); err != nil {
		return st, err
	}
	if err := d.f.Sync(); err != nil {
		return st, cause(err)
	}
	return st, nil
}

// tidy removes temporary files that a crashed run has left: those of a process
// that is no more, of our own number before we wrote any, and those older than
// an hour, whose number may be another's by now.
func (d *dir) tidy() error {
	names, err := d.f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, ok := tmpOf(name)
		if !ok {
			continue
		}
		st, err := d.stat(name)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		gone := pid == os.Getpid() || unix.Kill(pid, 0) == unix.ESRCH
		if gone || time.Since(time.Unix(st.Mtim.Unix())) > time.Hour {
			if err := unix.Unlinkat(d.fd(), name, 0); err != nil && err != unix.ENOENT {
				return os.NewSyscallError("remove "+name, err)
			}
		}
	}
	return nil
}

// tmpOf is the process that made a temporary file.
func tmpOf(name string) (pid int, ok bool) {
	rest, ok1 := strings.CutPrefix(name, tmpPrefix)
	rest, ok2 := strings.CutSuffix(rest, tmpSuffix)
	number, random, ok3 := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(number)
	return pid, ok1 && ok2 && ok3 && random != "" && err == nil && pid > 0
}

// cause leaves out the path of the temporary file.
func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}

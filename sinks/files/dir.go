package files

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The names of what the agent puts beside a target.
const (
	tmpPrefix   = ".signet-" // of temporary files: .signet-PID-RANDOM.tmp
	tmpSuffix   = ".tmp"
	prevPrefix  = ".signet-prev-"    // what a file held before
	markPrefix  = ".signet-writing-" // there while a file is written in place
	storePrefix = ".signet-set-"     // the directory with the generations of a set
)

// A dir is an open directory. All work in it is relative to it, so that nobody
// can exchange it meanwhile.
type dir struct {
	f *os.File
	// foreign are the owners on the way to it who are neither root nor the
	// agent, each with one of theirs.
	foreign map[uint32]string
	touched bool // needs to be synced
	// still says why what is being written is not to appear any more; nil is never.
	still func() error
}

// wanted asks still.
func (d *dir) wanted() error {
	if d.still == nil {
		return nil
	}
	return d.still()
}

// openDir opens a directory component by component. None of them may be a link,
// or writable for everyone in a way that lets them exchange the next.
func openDir(path string, trusted map[uint32]bool) (*dir, error) {
	flags := unix.O_PATH | unix.O_DIRECTORY
	d := &dir{foreign: map[uint32]string{}}
	at, sofar := unix.AT_FDCWD, "/"
	rest := strings.Split(strings.Trim(path, "/"), "/")
	if path == "/" {
		rest = nil
	}
	for i := -1; i < len(rest); i++ {
		name := "/"
		if i >= 0 {
			name = rest[i]
			sofar = filepath.Join(sofar, name)
		}
		last := i == len(rest)-1
		if last {
			flags = unix.O_RDONLY | unix.O_DIRECTORY
		}
		fd, err := openStep(at, name, flags)
		if at >= 0 {
			unix.Close(at)
		}
		if err != nil {
			return nil, dirError(path, sofar, err)
		}
		if err := d.inspect(fd, sofar, last, trusted); err != nil {
			unix.Close(fd)
			return nil, err
		}
		at = fd
	}
	d.f = os.NewFile(uintptr(at), path)
	return d, nil
}

// openStep opens one component of a path, and nothing that a link leads to.
func openStep(at int, name string, flags int) (int, error) {
	fd, err := unix.Openat2(at, name, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if !errors.Is(err, unix.ENOSYS) {
		return fd, err
	}
	// RestrictSUIDSGID= of systemd takes openat2 away, as seccomp cannot look
	// into its arguments. For a single component O_NOFOLLOW is as good.
	fd, err = unix.Openat(at, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	var st unix.Stat_t
	if errors.Is(err, unix.ENOTDIR) && unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		err = unix.ELOOP
	}
	return fd, err
}

// inspect notes whose a directory on the way is, and refuses one that everyone
// can write to.
func (d *dir) inspect(fd int, path string, last bool, trusted map[uint32]bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&0o002 != 0 && (last || st.Mode&unix.S_ISVTX == 0) {
		return &Error{Path: path, Op: "open directory", Err: errors.New("everyone can write to it"), Remedy: "chmod o-w " + path}
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() && (last || !trusted[st.Uid]) {
		if _, ok := d.foreign[st.Uid]; !ok || last {
			d.foreign[st.Uid] = path
		}
	}
	return nil
}

func dirError(path, at string, err error) error {
	e := &Error{Path: path, Op: "open directory", Err: err, Remedy: "the agent needs to enter and to write to the directory"}
	switch {
	case errors.Is(err, unix.ELOOP):
		e.Err, e.Remedy = fmt.Errorf("there is a symbolic link in its path, %s", at), "write the path that the link leads to"
	case errors.Is(err, unix.ENOENT):
		e.Remedy = "make the directory; the agent does not, as it cannot know whose it is"
	}
	return e
}

// safeFor reports why files of some owner are not safe in the directory.
func (d *dir) safeFor(uid int) error {
	for owner, path := range d.foreign {
		if int(owner) != uid {
			return &Error{Path: path, Op: "open directory",
				Err: fmt.Errorf("it belongs to user %d, who could replace the file", owner), Remedy: "give it to root, the agent, or the owner of the file"}
		}
	}
	return nil
}

func (d *dir) close() { d.f.Close() }

func (d *dir) fd() int { return int(d.f.Fd()) }

// sync brings what was renamed in the directory to the disk.
func (d *dir) sync() error { return cause(d.f.Sync()) }

// setMode is that of the directories of sets. Who may read is said by the files,
// their names are no secret.
const setMode = 0o755

// below opens a directory in this one, which has to be the agent's own, and so
// has each on the way there. One of the agent's that has another mode than setMode
// gets it back, and mended is told of it as it was.
func (d *dir) below(path string, mended func(path string, was unix.Stat_t)) (*dir, error) {
	at, sofar := d.fd(), d.f.Name()
	for name := range strings.SplitSeq(path, "/") {
		fd, err := openStep(at, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if at != d.fd() {
			unix.Close(at)
		}
		if err != nil {
			return nil, err
		}
		sofar = filepath.Join(sofar, name)
		if err := ownDir(fd, sofar, mended); err != nil {
			unix.Close(fd)
			return nil, err
		}
		at = fd
	}
	return &dir{f: os.NewFile(uintptr(at), sofar)}, nil
}

// make makes a directory of the agent's.
func (d *dir) make(name string) (*dir, error) {
	if err := unix.Mkdirat(d.fd(), name, 0o700); err != nil {
		return nil, os.NewSyscallError("make "+name, err)
	}
	d.touched = true
	return d.below(name, func(string, unix.Stat_t) {}) // the mode is to be another
}

// ownDir is for below.
func ownDir(fd int, path string, mended func(path string, was unix.Stat_t)) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case int(st.Uid) == os.Geteuid() && modeOf(st) != setMode:
		if err := unix.Fchmod(fd, setMode); err != nil {
			return os.NewSyscallError("chmod", err)
		}
		mended(path, st)
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return &Error{Path: path, Op: "open directory", Err: fmt.Errorf("it belongs to user %d, and not to the agent", st.Uid),
			Remedy: "move it away; the agent writes the set again"}
	case st.Mode&0o022 != 0:
		return &Error{Path: path, Op: "open directory", Err: errors.New("others can write to it"), Remedy: "chmod go-w " + path}
	}
	return nil
}

// stat looks at a name without following a link.
func (d *dir) stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// open opens a regular file for reading, or whatever else stands there without
// waiting for it.
func (d *dir) open(name string) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// read reads a regular file of at most limit bytes.
func (d *dir) read(name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// create makes a file with all that belongs to it. Until it is whole it is only
// the agent's; its modification time is the generation.
//
//	openat(O_CREAT|O_EXCL, 0600), write, futimens, fchown(group), fchmod, fsetxattr, fchown(owner), fsync
func (d *dir) create(name string, content []byte, a attributes, generation int64) (st unix.Stat_t, err error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return st, os.NewSyscallError("make temporary file", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err = fill(f, content, a, generation); err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd(), name, 0) // what is left is cleaned up at the next start
	}
	return st, err
}

// fill writes an open, empty file of the agent's.
func fill(f *os.File, content []byte, a attributes, generation int64) error {
	if _, err := f.Write(content); err != nil {
		return cause(err)
	}
	if err := stampTime(int(f.Fd()), generation); err != nil {
		return err
	}
	if err := a.dress(int(f.Fd())); err != nil {
		return err
	}
	return cause(f.Sync())
}

// stampTime makes the generation the modification time.
func stampTime(fd int, generation int64) error {
	ts := unix.NsecToTimespec(generation)
	err := unix.UtimesNanoAt(fd, "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH)
	return os.NewSyscallError("set time", err)
}

// replace makes content the file called name. The caller syncs the directory.
func (d *dir) replace(name string, content []byte, a attributes, generation int64) (st unix.Stat_t, err error) {
	tmp := tempName()
	if st, err = d.create(tmp, content, a, generation); err != nil {
		return st, err
	}
	if err = d.wanted(); err == nil {
		err = os.NewSyscallError("rename", unix.Renameat(d.fd(), tmp, d.fd(), name))
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd(), tmp, 0)
		return st, err
	}
	d.touched = true
	return d.stat(name) // the rename has changed a time of it
}

// remove removes a file that need not be there.
func (d *dir) remove(name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if err == unix.EROFS { // said of what is not there as well
		if _, none := d.stat(name); none == unix.ENOENT {
			err = none
		}
	}
	if err == unix.ENOENT {
		return nil
	}
	d.touched = true
	return os.NewSyscallError("remove", err)
}

// bearer tells this process from those that had its number before.
var bearer = rand.Text()[:6]

func tempName() string {
	return tmpPrefix + strconv.Itoa(os.Getpid()) + "-" + bearer + rand.Text()[:12] + tmpSuffix
}

// tidy removes temporary files that a crashed run has left: those of a process
// that is no more, of one that had our number, and those older than an hour, whose
// number may be another's by now.
func (d *dir) tidy() error {
	names, err := d.f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, random, ok := tmpOf(name)
		if !ok {
			continue
		}
		st, err := d.stat(name)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			continue
		}
		gone := pid == os.Getpid() && !strings.HasPrefix(random, bearer) || unix.Kill(pid, 0) == unix.ESRCH
		if gone || time.Since(time.Unix(st.Ctim.Unix())) > time.Hour {
			if err := d.remove(name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// tmpOf is the process that made a temporary file.
func tmpOf(name string) (pid int, random string, ok bool) {
	rest, ok1 := strings.CutPrefix(name, tmpPrefix)
	rest, ok2 := strings.CutSuffix(rest, tmpSuffix)
	number, random, ok3 := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(number)
	return pid, random, ok1 && ok2 && ok3 && random != "" && err == nil && pid > 0
}

// cause leaves out the path of the temporary file.
func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}

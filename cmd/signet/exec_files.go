package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// marker is a file that says that `signet exec` made all there is in a
// directory, so that the next one may remove it.
const marker = ".signet-exec"

// privateFiles is a directory in memory with the fields of secrets. Each secret
// is a symbolic link to a directory of one generation of it, so that its fields
// change together.
type privateFiles struct {
	dir    string
	lock   *os.File // the directory, locked; nil if it is a mount that nobody else sees
	made   bool     // to be removed at the end
	root   *os.Root
	number int               // of the last generation
	now    map[string]string // the generation of each secret
}

// openPrivateFiles makes the directory. The calling goroutine must be locked to
// its thread, and start the program: others do not see the directory if it is
// mounted.
func openPrivateFiles(dir string) (_ *privateFiles, err error) {
	f := &privateFiles{now: map[string]string{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("private files: %w", errors.Join(err, f.close()))
		}
	}()
	if f.dir, err = locate(dir); err != nil {
		return nil, err
	}
	made := os.Mkdir(f.dir, 0o700) == nil // why not, the next line says
	if err := usable(f.dir); err != nil {
		return nil, err
	}
	// A directory that is mounted over stays, empty as it is: others who use the
	// path have mounts of their own, which to remove it would end.
	mounted, err := mount(f.dir)
	if err == nil && !mounted {
		err = f.claim(made)
	}
	if err != nil {
		return nil, err
	}
	if f.root, err = os.OpenRoot(f.dir); err != nil {
		return nil, err
	}
	return f, f.root.WriteFile(marker, nil, 0o400)
}

// locate makes a path of what --files says.
func locate(dir string) (string, error) {
	if filepath.IsAbs(dir) {
		return filepath.Clean(dir), nil
	}
	if !filepath.IsLocal(dir) || strings.Contains(dir, "/") {
		return "", fmt.Errorf("%s: neither an absolute path nor a name", dir)
	}
	if base := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) {
		return filepath.Join(base, dir), nil
	}
	base := "/dev/shm/signet-" + strconv.Itoa(os.Geteuid())
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return filepath.Join(base, dir), ours(base)
}

// ours refuses a directory that others can get at or have made.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s: not a directory", dir)
	case !ok || int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s: belongs to another user", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s: mode %04o lets others in; want 0700", dir, info.Mode().Perm())
	}
	return nil
}

// usable refuses a directory with files in it that are not of signet exec.
func usable(dir string) error {
	if err := ours(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 && !marked(dir) {
		return fmt.Errorf("%s: there are files in it that signet exec did not make", dir)
	}
	return nil
}

// marked reports whether the directory has the marker.
func marked(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, marker))
	return err == nil
}

// claim takes a directory for this process, and removes what a run left in it
// that was killed. At the end the directory goes, unless somebody else made it.
func (f *privateFiles) claim(made bool) error {
	if err := inMemory(f.dir); err != nil {
		if made {
			err = errors.Join(err, os.Remove(f.dir))
		}
		return err
	}
	lock, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("%s: in use by another signet exec", f.dir), lock.Close())
	}
	f.lock, f.made = lock, made || marked(f.dir)
	entries, err := lock.ReadDir(-1)
	if err != nil {
		return err
	}
	return empty(f.dir, entries)
}

// empty removes all there is in a directory, the marker last.
func empty(dir string, entries []fs.DirEntry) error {
	for _, e := range entries {
		if e.Name() != marker {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(filepath.Join(dir, marker))
}

// mount puts a tmpfs on the directory that only this thread and its children
// see. It reports false where this user may not.
func mount(dir string) (bool, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return false, nil //nolint:nilerr // not allowed: there is the other way
	}
	// What the host mounts from now on is seen; what is mounted here stays here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return false, nil //nolint:nilerr // as above
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	const options = "mode=0700,size=16m"
	err := unix.Mount("signet", dir, "tmpfs", flags, options+",noswap")
	if err == unix.EINVAL { // before Linux 6.4
		err = unix.Mount("signet", dir, "tmpfs", flags, options)
	}
	if err == unix.EPERM || err == unix.EACCES {
		return false, nil
	}
	return err == nil, err
}

// inMemory refuses a directory whose files would go to a disk.
func inMemory(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return fmt.Errorf("%s: not on a tmpfs; take a directory below /run, or /dev/shm", dir)
	}
	return nil
}

// write puts the fields of a secret into files, all at once.
func (f *privateFiles) write(secret string, fields map[string]string) error {
	if !fileName(secret) {
		return fmt.Errorf("secret %q: cannot be the name of a file", secret)
	}
	f.number++
	next := "." + secret + "." + strconv.Itoa(f.number)
	if err := f.root.Mkdir(next, 0o700); err != nil {
		return err
	}
	for field, value := range fields {
		if !fileName(field) {
			return errors.Join(fmt.Errorf("secret %q: field %q: cannot be the name of a file", secret, field), f.root.RemoveAll(next))
		}
		if err := f.root.WriteFile(filepath.Join(next, field), []byte(value), 0o400); err != nil {
			return errors.Join(err, f.root.RemoveAll(next))
		}
	}
	link := next + ".link"
	if err := f.root.Symlink(next, link); err != nil {
		return err
	}
	if err := f.root.Rename(link, secret); err != nil {
		return err
	}
	old := f.now[secret]
	f.now[secret] = next
	if old == "" {
		return nil
	}
	return f.root.RemoveAll(old)
}

// remove takes the files of a secret away.
func (f *privateFiles) remove(secret string) error {
	old := f.now[secret]
	if old == "" {
		return nil
	}
	delete(f.now, secret)
	return errors.Join(f.root.Remove(secret), f.root.RemoveAll(old))
}

// fileName reports whether a name can be that of a file that is not hidden.
func fileName(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\x00") && len(name) < 200
}

// close removes everything.
func (f *privateFiles) close() error {
	var errs []error
	if f.root != nil {
		for secret := range f.now {
			errs = append(errs, f.remove(secret))
		}
		errs = append(errs, f.root.Remove(marker), f.root.Close())
	}
	if f.lock != nil {
		if f.made {
			errs = append(errs, os.Remove(f.dir))
		}
		errs = append(errs, f.lock.Close())
	}
	return errors.Join(errs...)
}

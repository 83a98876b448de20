package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// copySuffix is added to the name of the file for its copy.
const copySuffix = ".copy"

// Copy keeps a second copy of the file as it is now, for Open to go on from if
// the file is found damaged. What was written after it is lost then. It may be
// called by many at once: the copy is of after the call began, and whole.
func (s *Store) Copy() error {
	s.copying.Lock()
	defer s.copying.Unlock()
	fail := func(err error) error { return &Error{Op: "copy", Path: s.path, Err: plain(plainPath(err))} }
	temp := s.path + copySuffix + ".new" // nobody else writes here: the directory is locked, and so is copying
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	// SQLite would make the file readable to others, but writes into an empty one.
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fail(err)
	}
	_, err = s.db.Exec("VACUUM INTO ?", temp)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(errors.Join(err, os.Remove(temp)))
	}
	if err := os.Rename(temp, s.path+copySuffix); err != nil {
		return fail(err)
	}
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return fail(err)
	}
	return nil
}

// hasCopy reports whether a copy was ever made, and so whether there was a file.
func (s *Store) hasCopy() bool {
	_, err := os.Stat(s.path + copySuffix)
	return err == nil
}

// restore puts the copy in the place of the file that was set aside. The copy
// stays. It reports false if there is none.
func (s *Store) restore() (bool, error) {
	from, err := os.Open(s.path + copySuffix)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer from.Close()
	temp := s.path + ".new"
	to, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Sync()
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(temp, s.path)
}

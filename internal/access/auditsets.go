package access

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// AuditFiles are the audit file at path and those that were set aside before
// it, oldest first. What logrotate makes of it, path.1, counts as set aside
// last.
func AuditFiles(path string) ([]string, error) {
	aside, err := setAside(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range append(aside, path+".1", path) {
		if _, err := os.Lstat(name); err == nil {
			out = append(out, name)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return out, nil
}

// setAside are the files that were set aside for their size, oldest first.
func setAside(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, cause(err)
	}
	var out []string
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if ok && len(number) == digits && strings.Trim(number, "0123456789") == "" {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// digits is how many a file that is set aside has at the end of its name.
const digits = 6

// setAside gives the file, which has grown large, another name and begins a new
// one. All lines are in it and synced.
func (w *writer) setAside() error {
	if err := w.sync(); err != nil {
		return err
	}
	aside, err := setAside(w.path)
	if err != nil {
		return err
	}
	n := 0
	if len(aside) > 0 {
		last := aside[len(aside)-1]
		if _, err := fmt.Sscanf(last[len(last)-digits:], "%d", &n); err != nil {
			return err
		}
	}
	if err := os.Rename(w.path, fmt.Sprintf("%s.%0*d", w.path, digits, n+1)); err != nil {
		return cause(err)
	}
	if w.keep > 0 && len(aside)+1 > w.keep {
		for _, old := range aside[:len(aside)+1-w.keep] {
			if err := os.Remove(old); err != nil {
				return cause(err)
			}
		}
	}
	return w.reopen()
}

// before is the last line of the file before this one, or nil if there is none.
func (w *writer) before() ([]byte, error) {
	files, err := AuditFiles(w.path)
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(name string) bool { return name == w.path })
	if len(files) == 0 {
		return nil, nil
	}
	f, err := os.Open(files[len(files)-1])
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	last, _, _, err := lastLine(f)
	return last, err
}

// AuditKeysFile is where the public keys that verify the audit at path lie, as
// PEM with the name of the key as header "Key".
func AuditKeysFile(path string) string { return path + ".keys" }

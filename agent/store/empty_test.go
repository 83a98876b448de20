package store

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestWhatACrashLeavesIsNoState holds that a file which a crash has emptied,
// filled with zeros or taken away is noticed where there was a state, and that
// the last copy of it is gone on from; and that it is nothing where there was
// none. (T33)
func TestWhatACrashLeavesIsNoState(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(path string) error
	}{
		{"empty", func(path string) error { return os.Truncate(path, 0) }},
		{"zeros", func(path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, make([]byte, len(b)), 0o600))
		}},
		{"gone", os.Remove},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			must(t, s.SaveRecord("certificate", "host", []byte("enrolled")))
			must(t, s.Copy())
			must(t, s.Close())
			must(t, tt.damage(filepath.Join(dir, fileName)))
			for range 2 { // it may crash again before anything was written
				s = open(t, dir)
				got, err := s.Record("certificate", "host")
				if string(got) != "enrolled" || err != nil {
					t.Errorf("record %q, %v", got, err)
				}
				must(t, s.Close())
			}
		})
	}
	t.Run("before there was any", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, fileName), nil, 0o600))
		if s := open(t, dir); s.Damaged() != nil {
			t.Errorf("damaged: %v", s.Damaged())
		}
	})
	t.Run("the copy too", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{fileName, fileName + copySuffix} {
			must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		s := open(t, dir)
		if s.Damaged() == nil {
			t.Error("nothing was noticed")
		}
		must(t, s.SaveRecord("certificate", "host", []byte("anew")))
	})
}

// TestAWriteIsOnTheDiskWhenItReturns holds that the file is written through at
// each commit, which is what lets an acknowledged write survive a power cut.
func TestAWriteIsOnTheDiskWhenItReturns(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, s.SaveRecord("certificate", "host", bytes.Repeat([]byte{1}, 10000)))
	var mode int
	must(t, s.db.QueryRow("PRAGMA synchronous").Scan(&mode))
	if mode < 2 { // FULL: in WAL mode, NORMAL syncs at checkpoints only
		t.Errorf("synchronous is %d", mode)
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	if errors.Is(err, fs.ErrNotExist) || info.Size() == 0 {
		t.Errorf("a file in use is empty, as a damaged one is: %v", err)
	}
}

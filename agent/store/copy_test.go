package store

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// TestCopiesAtOnce holds that certificates which change at the same time do not
// spoil each other's copy of the state, and that the last copy has all of them.
func TestCopiesAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var certificates sync.WaitGroup
	for i := range 8 {
		certificates.Go(func() {
			for n := range 4 {
				name := strconv.Itoa(10*i + n)
				if err := s.SaveRecord("certificate", name, bytes.Repeat([]byte(name), 1000)); err != nil {
					t.Error(err)
				}
				if err := s.Copy(); err != nil {
					t.Errorf("copy for %s: %v", name, err)
				}
			}
		})
	}
	certificates.Wait()
	must(t, s.Close())

	must(t, os.WriteFile(filepath.Join(dir, fileName), []byte("rubbish"), 0o600))
	s = open(t, dir)
	got, err := s.Records("certificate")
	if d := s.Damaged(); d == nil || !d.Restored || err != nil || len(got) != 8*4 {
		t.Errorf("%d of %d certificates are in the copy: %v, %v", len(got), 8*4, d, err)
	}
	must(t, s.Close())
}

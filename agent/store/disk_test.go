package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		t.Skipf("a small file system can be mounted by root only: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDiskFull holds that a full disk is told as such, that nothing
// acknowledged is lost by it, and that it works again once there is room.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t)
	s := open(t, filepath.Join(dir, "state"))
	must(t, s.SaveSecret("first", []byte("kept")))
	filler := filepath.Join(dir, "filler")
	fill(t, filler)

	var err error
	saved := map[string]bool{"first": true}
	for i := 0; err == nil && i < 1000; i++ {
		name := fmt.Sprint(i)
		if err = s.SaveSecret(name, bytes.Repeat([]byte{7}, 4000)); err == nil {
			saved[name] = true
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
		t.Fatalf("error %v", err)
	}
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Hint(), "make room") {
		t.Errorf("no hint with %v", err)
	}
	if all, err := s.Secrets(); len(all) != len(saved) || err != nil {
		t.Errorf("%d secrets, %v; want %d", len(all), err, len(saved))
	}
	must(t, os.Remove(filler))
	must(t, s.SaveSecret("after", []byte("x")))
	must(t, s.Close())
	s = open(t, filepath.Join(dir, "state"))
	all, err := s.Secrets()
	if len(all) != len(saved)+1 || string(all["first"]) != "kept" || err != nil || s.Damaged() != nil {
		t.Errorf("after a restart: %d secrets, %v, %v; want %d", len(all), err, s.Damaged(), len(saved)+1)
	}
}

// TestDiskFullAtStart holds that a start on a full disk has one clear error.
func TestDiskFullAtStart(t *testing.T) {
	dir := smallDisk(t)
	fill(t, filepath.Join(dir, "filler"))
	_, err := Open(filepath.Join(dir, "state"))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
}

// TestReadOnly holds that a start on a read-only disk has one clear error that
// says what to do.
func TestReadOnly(t *testing.T) {
	dir := smallDisk(t)
	state := filepath.Join(dir, "state")
	must(t, open(t, state).Close())
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := Open(state)
	if !errors.Is(err, syscall.EROFS) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("error %v", err)
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Path != state || e.Hint() == "" {
		t.Errorf("error %+v", err)
	}
}

// fill takes all the room there is.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for block := bytes.Repeat([]byte{1}, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

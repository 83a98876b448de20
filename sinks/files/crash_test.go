package files

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a crash or somebody has spoilt while the agent was away is right after
// its start, whatever it looks like from outside. (T33, T38, T42)
func TestWhatWasSpoiltMeanwhileIsWrittenAtTheStart(t *testing.T) {
	zeros := func(path string) error { // as a file whose length reached the disk and whose content did not
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(path, make([]byte, info.Size()), 0o640), os.Chtimes(path, info.ModTime(), info.ModTime()))
	}
	for _, tt := range []struct {
		name  string
		spoil func(path string) error
	}{
		{"empty", func(path string) error { return os.Truncate(path, 0) }},
		{"zeros", zeros},
		{"gone", os.Remove},
		{"open to the world", func(path string) error { return os.Chmod(path, 0o666) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tempDir(t)
			file, set := filepath.Join(dir, "file"), filepath.Join(dir, "tls", "password")
			cfg := Config{Sets: []Set{pairSet(dir, 1)}, Files: []File{{Path: file, Secret: "db", Field: "password", Mode: 0o640}}}
			f, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.PublishSecret(both(1)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(tt.spoil(file), tt.spoil(set)); err != nil {
				t.Fatal(err)
			}
			again, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.PublishSecret(both(1)); err != nil {
				t.Fatal(err)
			}
			want := passwordOf(both(1))
			if !holds(file, want, 0o640) || !holds(set, want, 0o640) {
				t.Error("not right after a start")
			}
		})
	}
}

// A file has all that says who may read it before it has its name: where that
// cannot be given, the name does not come to be. (T41)
func TestWhoMayReadIsSetBeforeTheName(t *testing.T) {
	dir := tempDir(t)
	if err := unix.Mount("ramfs", dir, "ramfs", 0, "mode=755"); err != nil { // has no ACLs
		t.Skipf("no ramfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "pw")
	f, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password", ACL: []string{"u:65534:r"}}}})
	if err != nil {
		t.Fatal(err)
	}
	err = f.PublishSecret(db("1", "hunter2"))
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, unix.ENOTSUP) || e.Hint() == "" {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
}

// What was published is on the disk, not only on its way there. (T33)
func TestWhatIsPublishedIsOnTheDisk(t *testing.T) {
	dir := tempDir(t)
	control := filepath.Join(dir, "control")
	if err := os.WriteFile(control, bytes.Repeat([]byte("x"), 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	if onItsWay(t, control) == 0 {
		t.Skip("no disk is behind the temporary directory")
	}
	file := filepath.Join(dir, "file")
	f, err := New(Config{Sets: []Set{pairSet(dir, 1)}, Files: []File{{Path: file, Secret: "db", Field: "password"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.PublishSecret(both(10000)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(dir, "tls", "user"), filepath.Join(dir, "tls", "password")} {
		if n := onItsWay(t, path); n != 0 {
			t.Errorf("%s: %d pages are not on the disk", path, n)
		}
	}
}

// onItsWay is how many pages of a file the disk does not have yet.
func onItsWay(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var c unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &c, 0); err != nil {
		t.Skipf("cachestat: %v", err) // of Linux 6.5
	}
	return c.Dirty + c.Writeback
}

// Readers find a file at any moment, although what it held before is kept beside
// it. (T35)
func TestAFileIsThereWhileItsPreviousIsKept(t *testing.T) {
	path := filepath.Join(memDir(t), "pw")
	f, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password", KeepPrevious: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.PublishSecret(both(0)); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := os.Lstat(path); err != nil {
				done <- err
				return
			}
		}
	}()
	for n := range 1000 {
		if err := f.PublishSecret(both(n)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("a reader found nothing: %v", err)
	}
	if err := rollBack(f, path); err != nil || !holds(path, passwordOf(both(998)), 0o600) {
		t.Errorf("the previous one is not what is kept: %v", err)
	}
}

// A file that cannot be written is tried ever more rarely, and those that wait
// longest not in step. (T15, T18)
func TestAFileThatCannotBeWrittenIsTriedEverMoreRarely(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		least, most := time.Hour, time.Duration(0)
		for range 50 {
			d := backoff(failures)
			least, most = min(least, d), max(most, d)
		}
		if least <= 0 || most > 10*time.Minute || failures > 12 && least < 5*time.Minute {
			t.Fatalf("after %d failures: from %v to %v", failures, least, most)
		}
		if most-least < least/10 {
			t.Fatalf("after %d failures: always about %v", failures, least)
		}
	}
}

// A file that cannot be written fills neither the log nor its directory. (T15)
func TestAFileThatCannotBeWrittenIsSaidOnce(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "pw")
	if err := os.Mkdir(path, 0o755); err != nil { // cannot be renamed onto
		t.Fatal(err)
	}
	var log strings.Builder
	f, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password"}}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := f.PublishSecret(db("1", "hunter2")); err == nil {
			t.Fatal("written over a directory")
		}
	}
	if n := strings.Count(log.String(), "file not written"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
	if due := f.Status()[0].RetryAt; time.Until(due) < time.Minute {
		t.Errorf("tried again in %v", time.Until(due))
	}
}

package files

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bindOver mounts the file behind over path.
func bindOver(t *testing.T, behind, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(behind, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mounts: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// smallDisks are file systems of little room: one that can be asked for room
// before a byte is written, and one that cannot.
var smallDisks = map[string]func(t *testing.T, dir string){
	"tmpfs": func(t *testing.T, dir string) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=755"); err != nil {
			t.Skipf("no tmpfs: %v", err)
		}
	},
	"ext2": func(t *testing.T, dir string) {
		img := filepath.Join(tempDir(t), "img")
		if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, 256<<10)); err != nil {
			t.Fatal(err)
		}
		for _, argv := range [][]string{{"mkfs.ext2", "-q", img}, {"mount", "-o", "loop", img, dir}} {
			if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Skipf("%v: %v %s", argv, err, out)
			}
		}
	},
}

// fillUp writes as much as fits.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		if _, err = f.Write(make([]byte, 1024)); err == nil {
			err = f.Sync()
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// A file that is written in place keeps what it has when its disk is full, and so
// does what is kept to roll back to.
func TestFullDiskUnderAMountKeepsTheLastGoodFile(t *testing.T) {
	for name, mount := range smallDisks {
		t.Run(name, func(t *testing.T) {
			small, dir := tempDir(t), tempDir(t)
			mount(t, small)
			t.Cleanup(func() {
				if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			behind, path := filepath.Join(small, "behind"), filepath.Join(dir, "pw")
			if err := os.WriteFile(behind, []byte("by hand"), 0o600); err != nil {
				t.Fatal(err)
			}
			bindOver(t, behind, path)
			r := start(t, File{Path: path, Secret: "db", Field: "password", KeepPrevious: true})
			text := func(s string, n int) string { return strings.Repeat(s, n) }
			for _, s := range []string{"0", "1"} {
				if err := r.PublishSecret(db(s, text(s, 3000))); err != nil {
					t.Fatal(err)
				}
			}
			before, err := r.Generation(path)
			if err != nil {
				t.Fatal(err)
			}
			fillUp(t, filepath.Join(small, "filler"))
			for range 2 {
				err := r.PublishSecret(db("2", text("2", 40000)))
				if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, unix.ENOSPC) || e.Hint() == "" {
					t.Errorf("error %v", err)
				}
				if !holds(path, text("1", 3000), 0o600) {
					b, _ := os.ReadFile(path)
					t.Errorf("the last good file is gone: %d bytes, %.5q", len(b), b)
				}
				if now, err := r.Generation(path); err != nil || now != before {
					t.Errorf("generation %d, %v; want %d", now, err, before)
				}
			}
			if err := os.Remove(filepath.Join(small, "filler")); err != nil {
				t.Fatal(err)
			}
			if err := r.PublishSecret(db("2", text("2", 40000))); err != nil || !holds(path, text("2", 40000), 0o600) {
				t.Errorf("not written once there is room: %v", err)
			}
			if err := rollBack(r, path); err != nil || !holds(path, text("1", 3000), 0o600) {
				t.Errorf("what was kept is not what was in it last: %v", err)
			}
		})
	}
}

// What a crash has left half written in place is nothing to roll back to.
func TestHalfWrittenIsNotKept(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "pw")
	behind := mountFile(t, path, "old")
	cfg := Config{Files: []File{{Path: path, Secret: "db", Field: "password", KeepPrevious: true}}}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.PublishSecret(db("1", "first")), f.PublishSecret(db("2", "second"))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(behind, []byte("halnd"), 0o600), os.WriteFile(filepath.Join(dir, markPrefix+"pw"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if f, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := f.PublishSecret(db("3", "third")); err != nil || !holds(path, "third", 0o600) {
		t.Fatalf("not written after a crash: %v", err)
	}
	if err := rollBack(f, path); err != nil || !holds(path, "first", 0o600) {
		t.Errorf("rolled back to something else than the last good one: %v", err)
	}
}

// A file that cannot be written is tried again when its time has come, however
// much goes on around it: a failed write is an event as well.
func TestEventsDoNotHastenTheNextTry(t *testing.T) {
	path := filepath.Join(tempDir(t), "pw")
	tries := make(chan time.Time, 1000)
	r := startWith(t, Config{Files: []File{{Path: path, Secret: "db", Field: "password"}},
		Writing: func([]Delivery) error { tries <- time.Now(); return nil }})
	if err := r.PublishSecret(db("1", "hunter2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "events are listened to", func() bool { return holds(path, "hunter2", 0o600) })
	// Nothing can be renamed onto a directory.
	if err := os.Mkdir(path+".new", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, path+".new", unix.AT_FDCWD, path, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the failure", func() bool { return r.Status()[0].Err != nil })
	var last time.Time
	for len(tries) > 0 {
		last = <-tries
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case again := <-tries:
			if waited := again.Sub(last); waited < 500*time.Millisecond {
				t.Errorf("tried again after %v and %d events", waited, n)
			}
			return
		case <-tick.C:
			if err := os.Chmod(path, 0o700|os.FileMode(n%2)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is not a mount any more is replaced as a whole again, also where it was
// removed meanwhile, and rolled back like that.
func TestUnmountedIsNotWrittenInPlace(t *testing.T) {
	dir := tempDir(t)
	behind, path := filepath.Join(tempDir(t), "behind"), filepath.Join(dir, "pw")
	if err := errors.Join(os.WriteFile(behind, []byte("by hand"), 0o600), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(behind, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mounts: %v", err)
	}
	unmount := sync.OnceValue(func() error { return unix.Unmount(path, unix.MNT_DETACH) })
	defer unmount()
	f, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password", KeepPrevious: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.PublishSecret(db("1", "first")); err != nil || !holds(behind, "first", 0o600) {
		t.Fatalf("not written in place: %v", err)
	}
	if err := errors.Join(unmount(), os.WriteFile(filepath.Join(dir, markPrefix+"pw"), nil, 0o600)); err != nil { // as of a write that failed
		t.Fatal(err)
	}
	publish := func(version, content string) {
		t.Helper()
		var was, is unix.Stat_t
		_ = unix.Stat(path, &was)
		if err := f.PublishSecret(db(version, content)); err != nil || !holds(path, content, 0o600) {
			t.Fatalf("%s: not written: %v", content, err)
		}
		if err := unix.Stat(path, &is); err != nil || is.Ino == was.Ino {
			t.Errorf("%s: written in place, %v", content, err)
		}
	}
	publish("2", "second")
	publish("3", "third")
	if _, err := os.Lstat(filepath.Join(dir, markPrefix+"pw")); err == nil {
		t.Error("the marker is still there")
	}
	if err := rollBack(f, path); err != nil || !holds(path, "second", 0o600) {
		t.Errorf("not rolled back: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	publish("4", "fourth")
	if !holds(behind, "first", 0o600) {
		t.Error("what was mounted was written to")
	}
}

// What was a mount and is gone is put there again.
func TestUnmountedAndRemovedComesBack(t *testing.T) {
	path := filepath.Join(tempDir(t), "pw")
	behind := filepath.Join(tempDir(t), "behind")
	if err := errors.Join(os.WriteFile(behind, nil, 0o600), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(behind, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mounts: %v", err)
	}
	r := start(t, File{Path: path, Secret: "db", Field: "password"})
	err := r.PublishSecret(db("1", "first"))
	if err := errors.Join(err, unix.Unmount(path, unix.MNT_DETACH)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the file", func() bool { return holds(path, "first", 0o600) })
}

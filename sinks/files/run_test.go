package files

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A safeBuffer is what several goroutines write to.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// While one file system hangs, the status is there, and files elsewhere are
// written and repaired.
func TestAHangingFileSystemStopsNothingElse(t *testing.T) {
	stuck, elsewhere := filepath.Join(tempDir(t), "pw"), filepath.Join(tempDir(t), "pw")
	hang, hangs := make(chan struct{}), make(chan struct{}, 10)
	var once sync.Once
	free := func() { once.Do(func() { close(hang) }) }
	defer free()
	var spoilt bool // when stuck is to hang
	r := startWith(t, Config{Files: []File{{Path: stuck, Secret: "db", Field: "password"}, {Path: elsewhere, Secret: "other", Field: "password"}},
		Writing: func(ds []Delivery) error { // with the target locked, as a write would be
			if ds[0].Target == stuck && spoilt {
				hangs <- struct{}{}
				<-hang
			}
			return nil
		}})
	other := *db("1", "elsewhere")
	other.Name = "other"
	if err := errors.Join(r.PublishSecret(db("1", "hunter2")), r.PublishSecret(&other)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{stuck, elsewhere} { // events are listened to
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the repair", func() bool { _, err := os.Stat(path); return err == nil })
	}
	eventually(t, 5*time.Second, "it is right", func() bool {
		target := r.targets[stuck]
		target.mu.Lock()
		defer target.mu.Unlock()
		spoilt = target.settled
		return spoilt
	})
	if err := os.Remove(stuck); err != nil {
		t.Fatal(err)
	}
	<-hangs
	seen := make(chan []Status)
	go func() { seen <- r.Status() }()
	select {
	case all := <-seen:
		if len(all) != 2 || all[0].Version != "1" || all[1].Version != "1" {
			t.Errorf("status %+v", all)
		}
	case <-time.After(5 * time.Second):
		t.Error("the status waits")
	}
	if err := os.Remove(elsewhere); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "the repair elsewhere", func() bool { return holds(elsewhere, "elsewhere", 0o600) })
	free()
	eventually(t, time.Second, "the repair", func() bool { return holds(stuck, "hunter2", 0o600) })
}

// Where the kernel watches nothing more the agent says so, once, and looks at its
// files from time to time; when it does again, so does the agent.
func TestWithoutWatches(t *testing.T) {
	const env = "SIGNET_TEST_NO_WATCHES"
	limit := os.Getenv(env)
	if limit == "" {
		for _, what := range []string{"instances", "watches"} {
			t.Run(what, func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^TestWithoutWatches$")
				cmd.Env = append(os.Environ(), env+"=/proc/sys/user/max_inotify_"+what)
				id := []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: id, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
				out, err := cmd.CombinedOutput()
				if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), "--- SKIP") {
					t.Skipf("no limits of our own: %v", err)
				}
				if err != nil || !strings.Contains(string(out), "--- PASS") {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
		return
	}
	if err := os.WriteFile(limit, []byte("0"), 0); err != nil {
		t.Skip(err)
	}
	dir := tempDir(t)
	file, set := filepath.Join(dir, "pw"), filepath.Join(dir, "tls")
	log := &safeBuffer{}
	r := prepare(t, Config{Files: []File{{Path: file, Secret: "db", Field: "password"}}, Sets: []Set{pairSet(dir, 1)}, Log: slog.New(slog.NewTextHandler(log, nil))})
	r.slow = 20 * time.Millisecond
	r.run(t)
	if err := r.PublishSecret(both(1)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := errors.Join(os.Remove(file), os.Remove(filepath.Join(set, "password"))); err != nil {
			t.Fatal(err)
		}
		want := passwordOf(both(1))
		eventually(t, 5*time.Second, "the repair", func() bool { return holds(file, want, 0o600) && holds(filepath.Join(set, "password"), want, 0o640) })
	}
	if n := strings.Count(log.String(), "watches no more files"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	if err := os.WriteFile(limit, []byte("100"), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the set is watched", func() bool { return len(r.watched()) == 1 })
}

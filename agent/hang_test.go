package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// hangAt mounts a file system that answers nothing until it is freed, as one of a
// server that is away.
func hangAt(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no file systems of our own: %v", err)
	}
	free = sync.OnceFunc(func() { f.Close() }) // then all calls end
	if err := unix.Mount("hang", dir, "fuse", unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())); err != nil {
		free()
		t.Skipf("no file systems of our own: %v", err)
	}
	t.Cleanup(func() {
		free()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return free
}

// An agent that has reloads to make up for is made, runs, and ends while the file
// system of some files hangs; other consumers are told of theirs.
func TestAFileSystemThatHangsDelaysNoStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	far, told := filepath.Join(dir, "far"), filepath.Join(dir, "told")
	if err := os.Mkdir(far, 0o755); err != nil {
		t.Fatal(err)
	}
	f := config.File{Reload: config.Reload{Exec: []string{"touch", told}}}
	other := config.File{Path: filepath.Join(far, "pw"), Reload: config.Reload{Exec: []string{"true"}}}
	other.Secret, other.Field = "far", "password"
	r := newConsumerRig(t, dir, f, other)
	r.publish("one")
	r.publishSecret(&sinks.Secret{Name: "far", Version: "1", Fields: sinks.FieldsOf(map[string]secret.Value{"password": secret.New([]byte("x"))})})
	r.close() // it dies here

	free := hangAt(t, far)
	hung := time.AfterFunc(5*time.Second, free)
	r = newConsumerRig(t, dir, f, other)
	stop := r.run()
	eventuallyTrue(t, "the reload of the other", func() bool { _, err := os.Stat(told); return err == nil })
	stop()
	if !hung.Stop() {
		t.Error("it waits for the file system that hangs")
	}
}

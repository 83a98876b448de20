package files

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A directory that the agent may not write to is one clear line with what to do,
// its files keep what they hold, the others are written, and so are they once
// the right is there.
func TestMissingRights(t *testing.T) {
	readOnly := func(flags uintptr) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	mode := func(m os.FileMode) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Chmod(dir, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name       string
		mount      bool
		take, give func(t *testing.T, dir string)
		want, hint string
	}{
		{"ReadOnlyFileSystem", true, readOnly(unix.MS_RDONLY), readOnly(0), "read-only file system", "ReadWritePaths="},
		{"ModeOfDirectory", false, mode(0o555), mode(0o755), "permission denied", "let the agent write to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, elsewhere := tempDir(t), tempDir(t)
			if tt.mount {
				if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
					t.Skipf("no tmpfs: %v", err)
				}
				t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			} else if mayWriteAnywhere() {
				asMereOwner(t)
				return
			}
			path, other := filepath.Join(dir, "pw"), filepath.Join(elsewhere, "pw")
			r := start(t, File{Path: path, Secret: "db", Field: "password"}, File{Path: other, Secret: "db", Field: "password"})
			if err := r.PublishSecret(db("1", "first")); err != nil {
				t.Fatal(err)
			}
			tt.take(t, dir)
			err := r.PublishSecret(db("2", "second"))
			if e, ok := errors.AsType[*Error](err); !ok || e.Path != path || !strings.Contains(e.Hint(), tt.hint) {
				t.Errorf("error %v", err)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "second") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if !holds(path, "first", 0o600) || !holds(other, "second", 0o600) {
				t.Error("the last good file is gone, or the other one was not written")
			}
			tt.give(t, dir)
			eventually(t, 5*time.Second, "it is written", func() bool { return holds(path, "second", 0o600) })
		})
	}
}

// A start finds nothing to complain of in a directory that can only be read, if
// nothing was left there, and says what it cannot remove.
func TestReadOnlyDirectoryAtAStart(t *testing.T) {
	dir := tempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	left := filepath.Join(dir, prevPrefix+"left")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"none": "", "left": "read-only file system"} {
		var said bytes.Buffer
		f, err := New(Config{Files: []File{{Path: filepath.Join(dir, name), Secret: "db"}}, Log: slog.New(slog.NewTextHandler(&said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		l := newLane(f, dir)
		l.targets = f.sorted()
		l.tidy()
		if (said.Len() > 0) != (want != "") || !strings.Contains(said.String(), want) {
			t.Errorf("%s: said %q, want %q", name, said.String(), want)
		}
	}
}

// Users and groups that are not there keep the files back that are to be theirs,
// and no others; once they are there the files are.
func TestSomebodyWhoIsNotThereYet(t *testing.T) {
	for name, f := range map[string]File{
		"owner": {Owner: "no-such-user"}, "group": {Group: "no-such-group"}, "acl": {ACL: []string{"u:no-such-user:r"}}, "both": {Owner: "no-such-user", ACL: []string{"g:no-such-group:r"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			path, other, set := filepath.Join(dir, "pw"), filepath.Join(dir, "other"), filepath.Join(dir, "tls")
			f.Path, f.Secret, f.Field = path, "db", "password"
			if acl, err := parseACL([]string{"u:0:r"}, 0o755); err != nil {
				t.Fatal(err)
			} else if err := unix.Setxattr(dir, xattrACL, acl, 0); err != nil && f.ACL != nil {
				t.Skipf("no ACLs here: %v", err)
			}
			in := f
			in.Path = "pw"
			r := startWith(t, Config{Files: []File{f, {Path: other, Secret: "db", Field: "password"}}, Sets: []Set{{Dir: set, Keep: 1, Entries: []File{in}}}})
			err := r.PublishSecret(db("1", "hunter2"))
			if e, ok := errors.AsType[*Error](err); !ok || e.Hint() == "" || strings.Count(err.Error(), "there is no ") != 2 || !strings.Contains(err.Error(), `"no-such-`) {
				t.Errorf("error %v", err)
			}
			if !holds(other, "hunter2", 0o600) {
				t.Error("the other file is not written")
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
				t.Errorf("left in the directory: %v, %v", left, err)
			}
			for _, target := range r.targets { // as when the consumer is installed
				target.mu.Lock()
				for _, e := range target.entries {
					if e.Owner != "" {
						e.Owner = "root"
					}
					if e.Group != "" {
						e.Group = "root"
					}
					if e.ACL != nil {
						e.ACL = []string{"u:0:r"}
					}
				}
				target.mu.Unlock()
			}
			eventually(t, 5*time.Second, "they are written", func() bool {
				b, err := os.ReadFile(path)
				c, err2 := os.ReadFile(filepath.Join(set, "pw"))
				return errors.Join(err, err2) == nil && string(b) == "hunter2" && string(c) == "hunter2"
			})
		})
	}
}

// mayWriteAnywhere reports whether modes do not hold for this process.
func mayWriteAnywhere() bool { return os.Getuid() == 0 && os.Getenv("SIGNET_TEST_FENCED") == "" }

// asMereOwner runs a test again in a process of root's for which modes hold.
func asMereOwner(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "setpriv", "--bounding-set=-dac_override,-dac_read_search",
		os.Args[0], "-test.v", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	cmd.Env = append(os.Environ(), "SIGNET_TEST_FENCED=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
}

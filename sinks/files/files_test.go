package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

func db(version, password string) *sinks.Secret {
	return &sinks.Secret{Name: "db", Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{
		"username": secret.New([]byte("robot")), "password": secret.New([]byte(password))})}
}

// A rig is a running Files with a record of what it told.
type rig struct {
	*Files
	mu      sync.Mutex
	written []Delivery
	drifted []Drift
	stop    func() // ends run
}

func (r *rig) counts() (written, drifted int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.written), len(r.drifted)
}

// repaired reports whether the last delivery was one of a repair.
func (r *rig) repaired() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.written) > 0 && r.written[len(r.written)-1].Repaired
}

// tempDir is a directory that nobody else can write to, whatever the umask.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, files ...File) *rig { return startWith(t, Config{Files: files}) }

func startWith(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := prepare(t, cfg)
	r.run(t)
	return r
}

func prepare(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{}
	cfg.Written = func(ds []Delivery) { r.mu.Lock(); r.written = append(r.written, ds...); r.mu.Unlock() }
	cfg.Drifted = func(d Drift) { r.mu.Lock(); r.drifted = append(r.drifted, d); r.mu.Unlock() }
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Files = f
	return r
}

// run runs until the test ends, or stop is called.
func (r *rig) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
}

// eventually waits until f holds, for limit at most.
func eventually(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(limit); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func holds(path, content string, mode fs.FileMode) bool {
	b, err := os.ReadFile(path)
	info, err2 := os.Lstat(path)
	return err == nil && err2 == nil && string(b) == content && info.Mode() == mode
}

func TestPublishWritesAndDoesNotWriteAgain(t *testing.T) {
	path := filepath.Join(tempDir(t), "pw")
	r := start(t, File{Path: path, Secret: "db", Field: "password", Mode: 0o640})
	for _, version := range []string{"1", "1", "2"} { // the last has another version, and the same field
		if err := r.PublishSecret(db(version, "hunter2")); err != nil {
			t.Fatal(err)
		}
	}
	if !holds(path, "hunter2", 0o640) {
		t.Error("the file is not as it should be")
	}
	if n, _ := r.counts(); n != 1 {
		t.Errorf("written %d times, want once", n)
	}
	if err := r.PublishSecret(db("3", "hunter3")); err != nil {
		t.Fatal(err)
	}
	if !holds(path, "hunter3", 0o640) {
		t.Error("the change did not arrive")
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("left in the directory: %v", entries)
	}
	if s := r.Status()[0]; s.Version != "3" || s.Err != nil {
		t.Errorf("status %+v", s)
	}

	// Another run finds it right and leaves it alone.
	before, _ := os.Stat(path)
	again := start(t, File{Path: path, Secret: "db", Field: "password", Mode: 0o640})
	if err := again.PublishSecret(db("3", "hunter3")); err != nil {
		t.Fatal(err)
	}
	after, _ := os.Stat(path)
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("written again though nothing changed")
	}
}

func TestReadersSeeWholeFilesOnly(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "signet-test-") // in memory, as it is about renames and not about disks
	if err != nil {
		dir = tempDir(t)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "f")
	r := start(t, File{Path: path, Secret: "db", Field: "password"})
	content := func(i int) string { return strings.Repeat(strconv.Itoa(i)+"\n", 2000) + "end" }
	if err := r.PublishSecret(db("0", content(0))); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	reads := 0
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Errorf("missing: %v", err)
				return
			}
			first, _, _ := strings.Cut(string(b), "\n")
			if i, err := strconv.Atoi(first); err != nil || string(b) != content(i) {
				t.Errorf("partial or mixed: %d bytes, begins with %q", len(b), first)
				return
			}
			reads++
		}
	})
	for i := range 2000 {
		if err := r.PublishSecret(db(strconv.Itoa(i), content(i))); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if _, drifts := r.counts(); drifts != 0 {
		t.Errorf("own writes were taken for %d drifts", drifts)
	}
	t.Logf("%d reads during 2000 replacements", reads)
}

func TestDriftIsRepairedWithinASecond(t *testing.T) {
	for _, tt := range []struct {
		what   string
		change func(t *testing.T, path string) error
	}{
		{"deleted", func(_ *testing.T, path string) error { return os.Remove(path) }},
		{"deleted", func(_ *testing.T, path string) error { return os.Rename(path, path+".bak") }},
		{"content", func(_ *testing.T, path string) error { return os.WriteFile(path, []byte("hunterX"), 0o640) }},
		{"content", func(_ *testing.T, path string) error { return os.Truncate(path, 0) }},
		{"content", func(_ *testing.T, path string) error {
			if err := os.WriteFile(path+".new", []byte("longer than before"), 0o640); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}},
		{"mode", func(_ *testing.T, path string) error { return os.Chmod(path, 0o644) }},
		{"type", func(_ *testing.T, path string) error {
			if err := os.Symlink("/etc/passwd", path+".link"); err != nil {
				return err
			}
			return os.Rename(path+".link", path)
		}},
		{"owner", func(t *testing.T, path string) error {
			if os.Getuid() != 0 {
				t.Skip("needs root")
			}
			return os.Chown(path, 65534, 65534)
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "pw")
			r := start(t, File{Path: path, Secret: "db", Field: "password", Mode: 0o640})
			if err := r.PublishSecret(db("1", "hunter2")); err != nil {
				t.Fatal(err)
			}
			if err := tt.change(t, path); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Second, "the repair", func() bool {
				var st unix.Stat_t
				return r.repaired() && holds(path, "hunter2", 0o640) && unix.Stat(path, &st) == nil && int(st.Uid) == os.Getuid()
			})
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.drifted) != 1 || r.drifted[0].What != tt.what || r.drifted[0].Path != path {
				t.Errorf("told of %+v, want %s once", r.drifted, tt.what)
			}
			if said := r.drifted[0].String(); tt.what == "owner" && said != "owner; found with owner 65534:65534 and mode 0640" || tt.what == "deleted" && said != tt.what {
				t.Errorf("said as %q", said)
			}
		})
	}
}

// A definite refusal takes the value away everywhere, and at once.
func TestWithdrawnSecretIsRemoved(t *testing.T) {
	dir := tempDir(t)
	path, other, tmpl := filepath.Join(dir, "pw"), filepath.Join(dir, "other"), filepath.Join(dir, "both")
	r := start(t, File{Path: path, Secret: "db", Field: "password", KeepPrevious: true}, File{Path: other, Secret: "other", Field: "password"},
		File{Path: tmpl, Template: `{{ secret "db" "password" }} {{ secret "other" "password" }}`})
	other2 := *db("1", "still good")
	other2.Name = "other"
	for _, s := range []*sinks.Secret{db("1", "hunter1"), db("2", "hunter2"), &other2} {
		if err := r.PublishSecret(s); err != nil {
			t.Fatal(err)
		}
	}
	if !holds(tmpl, "hunter2 still good", 0o600) {
		t.Fatal("the template of two secrets was not written")
	}
	if err := r.WithdrawSecret("db"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || !holds(other, "still good", 0o600) {
		t.Errorf("left: %v, want the other secret alone", left)
	}
	r.checkAll()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("a withdrawn value was written again")
	}
	if err := r.PublishSecret(db("3", "hunter3")); err != nil || !holds(path, "hunter3", 0o600) {
		t.Errorf("not written when the upstream gave it again: %v", err)
	}
}

// What this process has not delivered is not its to remove.
func TestWithdrawnSecretLeavesForeignFiles(t *testing.T) {
	path := filepath.Join(tempDir(t), "pw")
	if err := os.WriteFile(path, []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, File{Path: path, Secret: "db", Field: "password"})
	if err := r.WithdrawSecret("db"); err != nil || !holds(path, "by hand", 0o600) {
		t.Errorf("a file that was never delivered is gone: %v", err)
	}
}

func (r *rig) checkAll() {
	for _, t := range r.targets {
		r.check(t)
	}
}

func TestOneBadFileDoesNotStopTheOthers(t *testing.T) {
	dir := tempDir(t)
	missing := filepath.Join(dir, "missing")
	open := filepath.Join(dir, "open")
	for _, d := range []string{open} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(open, link); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good")
	r := start(t,
		File{Path: filepath.Join(missing, "f"), Secret: "db", Field: "password"},
		File{Path: filepath.Join(open, "f"), Secret: "db", Field: "password"},
		File{Path: filepath.Join(link, "f"), Secret: "db", Field: "password"},
		File{Path: filepath.Join(dir, "field"), Secret: "db", Field: "nope"},
		File{Path: filepath.Join(dir, "which"), Secret: "db"},
		File{Path: good, Secret: "db", Field: "password"})
	err := r.PublishSecret(db("1", "hunter2"))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"missing: no such file", "open: everyone can write to it", "link: there is a symbolic link", `no field "nope"; it has password, username`, "several fields"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Hint() == "" {
		t.Errorf("no hint: %v", err)
	}
	if !holds(good, "hunter2", 0o600) {
		t.Error("the good file was not written")
	}
	// The directory is made: the file follows by itself.
	if err := os.Mkdir(missing, 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "the file appears", func() bool { return holds(filepath.Join(missing, "f"), "hunter2", 0o600) })
	// And again when it is moved away and made anew.
	if err := os.Rename(missing, missing+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(missing, 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "the file appears again", func() bool { return holds(filepath.Join(missing, "f"), "hunter2", 0o600) })
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := tempDir(t)
	if err := os.Chown(dir, 61777, 61777); err != nil {
		t.Fatal(err)
	}
	r := start(t, File{Path: filepath.Join(dir, "f"), Secret: "db", Field: "password"})
	if err := r.PublishSecret(db("1", "x")); err == nil || !strings.Contains(err.Error(), "belongs to user 61777") {
		t.Errorf("error %v", err)
	}
	// The owner of the file may own its directory.
	r = start(t, File{Path: filepath.Join(dir, "g"), Secret: "db", Field: "password", Owner: "61777"})
	if err := r.PublishSecret(db("1", "x")); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(dir, "g"))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "g"), &st); err != nil || st.Uid != 61777 || info.Mode() != 0o600 {
		t.Errorf("owner %d, mode %v, %v", st.Uid, info.Mode(), err)
	}
}

func TestFullDiskKeepsTheLastGoodFile(t *testing.T) {
	dir := tempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=755"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path, filler := filepath.Join(dir, "f"), filepath.Join(dir, "filler")
	r := start(t, File{Path: path, Secret: "db", Field: "password"})
	if err := r.PublishSecret(db("1", "first")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filler, make([]byte, 1<<20), 0o600) // as much as fits
	err := r.PublishSecret(db("2", strings.Repeat("second", 2000)))
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, unix.ENOSPC) || e.Hint() == "" {
		t.Errorf("error %v", err)
	}
	if !holds(path, "first", 0o600) {
		t.Error("the last good file is gone")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left in the directory: %v", entries)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "it is written once there is room", func() bool { return holds(path, strings.Repeat("second", 2000), 0o600) })
}

func TestLeftOversOfACrashAreRemoved(t *testing.T) {
	dir := tempDir(t)
	for _, name := range []string{".signet-4194399-ABCDEF.tmp", fmt.Sprintf(".signet-%d-ABCDEF.tmp", os.Getpid()), // dead, and our number's last bearer
		".signet-1-ABCDEF.tmp", ".signet-x.tmp", ".signet-4194399-ABC", "signet-4194399-A.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Files: []File{{Path: filepath.Join(dir, "f"), Secret: "db", Field: "password"}}}
	if _, err := New(cfg); err != nil {
		t.Fatal(err)
	}
	names := func() []os.DirEntry {
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := names(); len(left) != 6 {
		t.Errorf("left: %v; the file system may hang, and is not touched before the rest of the agent runs", left)
	}
	startWith(t, cfg)
	eventually(t, 5*time.Second, "what is not ours to remove is left alone", func() bool { return len(names()) == 4 })
}

// The hook that notes what has to follow can keep the file from changing.
func TestWritingHookComesFirst(t *testing.T) {
	path := filepath.Join(tempDir(t), "f")
	var fail error
	f, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password"}}, Writing: func(ds []Delivery) error {
		if b, _ := os.ReadFile(path); bytes.Contains(b, []byte(ds[0].Items[0].Version)) {
			t.Error("called after the file was replaced")
		}
		return fail
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.PublishSecret(db("v1", "v1")); err != nil {
		t.Fatal(err)
	}
	fail = errors.New("queue not writable")
	if err := f.PublishSecret(db("v2", "v2")); !errors.Is(err, fail) {
		t.Errorf("error %v", err)
	}
	if !holds(path, "v1", 0o600) {
		t.Error("replaced although what follows could not be noted")
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := New(Config{Files: []File{
		{Path: "relative", Secret: "db"}, {Path: "/a", Secret: "db", Certificate: "web"}, {Path: "/b", Secret: "db", Format: "pem-key"},
		{Path: "/c", Secret: "db", Owner: "4294967295"}, {Path: "/d", Secret: "db", Group: "4294967296"}, {Path: "/e", Secret: "db", Template: "{{"},
		{Path: "/f", Secret: "db", Mode: 0o4755 | fs.ModeSetuid}, {Path: "/g", Secret: "db"}, {Path: "/g", Secret: "db"}, {Path: "/h/../i", Secret: "db"},
	}})
	for _, want := range []string{`"relative"`, `"/a": configuration: needs either`, `"pem-key" is not one of a secret`, "user 4294967295 is not",
		"group 4294967296 is not", `file "/e"`, "more than permission bits", "taken by an earlier file", `"/h/../i"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

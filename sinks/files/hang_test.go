package files

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// hangAt mounts a file system that answers nothing until it is freed, as one of a
// server that is away. Then it is gone, and the directory is as it was.
func hangAt(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no file systems of our own: %v", err)
	}
	if err := unix.Mount("hang", dir, "fuse", unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())); err != nil {
		f.Close()
		t.Skipf("no file systems of our own: %v", err)
	}
	free = sync.OnceFunc(func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), f.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(free)
	return free
}

// iceAt mounts a file system that can be frozen: then whoever writes to it waits.
func iceAt(t *testing.T, dir string) (freeze, thaw func()) {
	t.Helper()
	img := filepath.Join(tempDir(t), "img")
	if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, 4<<20)); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", img}, {"mount", "-o", "loop", img, dir}} {
		if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v %s", argv, err, out)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const fifreeze, fithaw = 0xC0045877, 0xC0045878
	ioctl := func(req uint) func() {
		return func() {
			if err := unix.IoctlSetInt(int(d.Fd()), req, 0); err != nil {
				t.Error(err)
			}
		}
	}
	freeze, thaw = ioctl(fifreeze), sync.OnceFunc(ioctl(fithaw))
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(d.Fd()), fithaw, 0)
		d.Close()
		eventually(t, 5*time.Second, "nobody uses it", func() bool { return unix.Unmount(dir, 0) == nil })
	})
	return freeze, thaw
}

// A farRig has files of one secret in three directories, of which the second hangs,
// and one of another secret there and elsewhere.
type farRig struct {
	*rig
	paths           []string // of the secret db
	gone, elsewhere string
	log             *safeBuffer
}

func newFarRig(t *testing.T) (r *farRig, far string) {
	dir := tempDir(t)
	r = &farRig{log: &safeBuffer{}}
	var cfg Config
	for _, name := range []string{"a", "b", "c"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		r.paths = append(r.paths, filepath.Join(dir, name, "pw"))
	}
	far = filepath.Dir(r.paths[1])
	r.gone, r.elsewhere = filepath.Join(far, "other"), filepath.Join(filepath.Dir(r.paths[2]), "other")
	for _, p := range r.paths {
		cfg.Files = append(cfg.Files, File{Path: p, Secret: "db", Field: "password"})
	}
	cfg.Files = append(cfg.Files, File{Path: r.gone, Secret: "other", Field: "password"}, File{Path: r.elsewhere, Secret: "other", Field: "password"})
	cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.rig = prepare(t, cfg)
	r.patience, r.hanging = 100*time.Millisecond, 300*time.Millisecond
	return r, far
}

func other(version, password string) *sinks.Secret {
	s := db(version, password)
	s.Name = "other"
	return s
}

// promptly calls f, which must not wait for what hangs.
func promptly[T any](t *testing.T, what string, f func() T) T {
	t.Helper()
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case out := <-done:
		return out
	case <-time.After(5 * time.Second):
		t.Fatalf("%s waits for the file system that hangs", what)
		panic("not reached")
	}
}

// unanswered is what is said of a target on the file system that hangs.
func unanswered(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && errors.Is(err, errUnanswered) && e.Hint() != ""
}

func (r *farRig) errOf(path string) error {
	all := r.Status()
	return all[slices.IndexFunc(all, func(s Status) bool { return s.Path == path })].Err
}

// What a change does to files in several directories is announced and told at once,
// and before anything is written.
func TestOneChangeIsAnnouncedAtOnce(t *testing.T) {
	var paths []string
	var said []string
	cfg := Config{Writing: func(ds []Delivery) error {
		said = append(said, fmt.Sprintf("writing %d", len(ds)))
		for _, p := range paths {
			if _, err := os.Lstat(p); err == nil {
				t.Errorf("%s is written before", p)
			}
		}
		return nil
	}}
	for range 5 {
		paths = append(paths, filepath.Join(tempDir(t), "pw"))
		cfg.Files = append(cfg.Files, File{Path: paths[len(paths)-1], Secret: "db", Field: "password"})
	}
	r := prepare(t, cfg)
	r.patience = time.Hour
	r.cfg.Written = func(ds []Delivery) { said = append(said, fmt.Sprintf("written %d", len(ds))) }
	if err := r.PublishSecret(db("1", "x")); err != nil || !slices.Equal(said, []string{"writing 5", "written 5"}) {
		t.Errorf("%q, %v", said, err)
	}
}

// What keeps a directory from getting on is waited for by the first who comes, for as
// long as patience says, and told of later. What is newest then comes there too.
func TestHowLongWhatHangsIsWaitedFor(t *testing.T) {
	dirs := []string{tempDir(t), tempDir(t)}
	synctest.Test(t, func(t *testing.T) {
		var hangs atomic.Bool
		freed := make(chan struct{})
		password := func() (secret.Value, error) { // is read with the target locked
			if hangs.Load() {
				<-freed
			}
			return secret.New([]byte("x")), nil
		}
		store, near := filepath.Join(dirs[0], "web.p12"), filepath.Join(dirs[1], "web.pem")
		r := prepare(t, Config{Files: []File{{Path: store, Certificate: "web", Format: "pkcs12", Password: password}, {Path: near, Certificate: "web"}}})
		if err := r.PublishCertificate(web(t, 1, 0)); err != nil {
			t.Fatal(err)
		}
		hangs.Store(true)
		for i, want := range []time.Duration{patience, 0} {
			began := time.Now()
			if err := r.PublishCertificate(web(t, i+2, 0)); !unanswered(err) || time.Since(began) != want {
				t.Errorf("%d: after %v, want %v: %v", i, time.Since(began), want, err)
			}
		}
		at := func(path string) Status {
			all := r.Status()
			return all[slices.IndexFunc(all, func(s Status) bool { return s.Path == path })]
		}
		if s := at(near); s.Version != "aaa" || s.Err != nil || at(store).Err != nil {
			t.Errorf("%+v and %+v", s, at(store))
		}
		time.Sleep(hanging)
		if !unanswered(at(store).Err) || at(near).Err != nil {
			t.Errorf("later %+v and %+v", at(near), at(store))
		}
		hangs.Store(false)
		close(freed)
		synctest.Wait()
		if s := at(store); s.Err != nil || s.Version != "aaa" || s.Generation == 0 {
			t.Errorf("in the end %+v", s)
		}
		for _, d := range r.written {
			if d.Target == store && d.Items[0].Version == "aa" {
				t.Error("what was not the newest any more was written")
			}
		}
	})
}

// Publishing, withdrawing and looking wait only briefly for a file system that
// hangs while it is written to, also the next time, and what is elsewhere is
// written. When it answers it gets what is newest, and nothing else.
func TestAFileSystemThatHangsInAWriteKeepsNobodyWaiting(t *testing.T) {
	r, far := newFarRig(t)
	freeze, thaw := iceAt(t, far)
	r.run(t)
	if err := errors.Join(r.PublishSecret(db("1", "first")), r.PublishSecret(other("1", "first"))); err != nil {
		t.Fatal(err)
	}
	freeze()
	for _, text := range []string{"second", "third"} {
		err := promptly(t, "publishing", func() error { return r.PublishSecret(db(text, text)) })
		if !unanswered(err) {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "what is elsewhere", func() bool { return holds(r.paths[0], text, 0o600) && holds(r.paths[2], text, 0o600) })
	}
	if err := promptly(t, "withdrawing", func() error { return r.WithdrawSecret("other") }); !unanswered(err) {
		t.Errorf("withdrawn: %v", err)
	}
	eventually(t, 5*time.Second, "the withdrawal elsewhere", func() bool { _, err := os.Lstat(r.elsewhere); return err != nil })
	before := runtime.NumGoroutine()
	for range 50 {
		_ = promptly(t, "publishing", func() error { return r.PublishSecret(other("2", "brief")) })
		_ = promptly(t, "withdrawing", func() error { return r.WithdrawSecret("other") })
		_ = promptly(t, "publishing", func() error { return r.PublishSecret(db("4", "newest")) })
	}
	if n := runtime.NumGoroutine(); n > before+5 {
		t.Errorf("%d goroutines more wait", n-before)
	}
	for what, f := range map[string]func() error{
		"roll-back": func() error { return rollBack(r, r.paths[1]) },
		"reading":   func() error { _, err := r.Read(r.paths[1], ""); return err },
		"wanted":    func() error { _, err := r.Wanted(r.paths[1]); return err },
		"revives":   func() error { _, err := r.Revives(r.paths[1]); return err },
		"redeliver": func() error { return r.Redeliver(r.paths[1]) },
		"leaves":    func() error { r.Leaves(r.paths[1]); return r.targets[r.paths[1]].enter() },
	} {
		if err := promptly(t, what, f); !unanswered(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	eventually(t, 5*time.Second, "the status says it", func() bool { return unanswered(r.errOf(r.paths[1])) && unanswered(r.errOf(r.gone)) })
	if r.errOf(r.paths[0]) != nil || r.errOf(r.elsewhere) != nil {
		t.Error("the status says it of files elsewhere")
	}
	thaw()
	eventually(t, 5*time.Second, "the newest", func() bool {
		_, err := os.Lstat(r.gone)
		return holds(r.paths[1], "newest", 0o600) && err != nil && r.errOf(r.paths[1]) == nil && r.errOf(r.gone) == nil
	})
	r.stop()
	for _, d := range r.written {
		if v := d.Items[0].Version; d.Target == r.paths[1] && v != "1" && v != "4" || d.Target == r.gone && v != "1" {
			t.Errorf("%s has had version %s", d.Target, v)
		}
	}
	for _, said := range []string{"does not answer", "answers again"} {
		if n := strings.Count(r.log.String(), said); n != 1 {
			t.Errorf("%q said %d times:\n%s", said, n, r.log)
		}
	}
}

// A roll-back that nobody waits for any more is none, of a file or of a set.
func TestARollBackThatComesTooLateIsNone(t *testing.T) {
	dir := tempDir(t)
	freeze, thaw := iceAt(t, dir)
	r := prepare(t, Config{Files: []File{{Path: filepath.Join(dir, "pw"), Secret: "db", Field: "password", KeepPrevious: true}}, Sets: []Set{pairSet(dir, 1)}})
	r.hanging = 300 * time.Millisecond
	r.run(t)
	if err := errors.Join(r.PublishSecret(both(1)), r.PublishSecret(both(2))); err != nil {
		t.Fatal(err)
	}
	freeze()
	for _, st := range r.Status() {
		if err := promptly(t, "roll-back", func() error { return rollBack(r, st.Path) }); !unanswered(err) {
			t.Errorf("%s: %v", st.Path, err)
		}
	}
	thaw()
	eventually(t, 5*time.Second, "what is wanted", func() bool {
		for _, st := range r.Status() {
			if st.Err != nil || st.RolledBack {
				return false
			}
		}
		return holds(filepath.Join(dir, "pw"), passwordOf(both(2)), 0o600) && holds(filepath.Join(dir, "tls", "password"), passwordOf(both(2)), 0o640)
	})
}

// Where a file system hangs from the start, files elsewhere are written and
// repaired, and the end waits only briefly. When it is gone its files are written.
func TestAFileSystemThatHangsAtTheStartStopsNothingElse(t *testing.T) {
	r, far := newFarRig(t)
	sub := filepath.Join(far, "pw")
	free := hangAt(t, far)
	r.run(t)
	if err := promptly(t, "publishing", func() error { return r.PublishSecret(db("1", "first")) }); !unanswered(err) {
		t.Fatal(err)
	}
	for _, path := range []string{r.paths[0], r.paths[2], r.paths[0], r.paths[2]} {
		eventually(t, 5*time.Second, "the file, or its repair", func() bool { return holds(path, "first", 0o600) })
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, "the status says it", func() bool { return unanswered(r.errOf(sub)) })
	promptly(t, "the end", func() error { r.stop(); return nil })
	r.run(t)
	free()
	eventually(t, 5*time.Second, "the file", func() bool { return holds(sub, "first", 0o600) && r.errOf(sub) == nil })
	if err := os.Remove(sub); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the repair", func() bool { return holds(sub, "first", 0o600) })
}

// A set is not looked into while its file system hangs: whoever waits for a watch
// keeps the events of all others waiting.
func TestASetThatHangsKeepsNoEventsWaiting(t *testing.T) {
	far, near := tempDir(t), filepath.Join(tempDir(t), "pw")
	r := startWith(t, Config{Files: []File{{Path: near, Secret: "db", Field: "password"}}, Sets: []Set{pairSet(far, 1)}})
	if err := r.PublishSecret(both(1)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	defer hangAt(t, far)()
	r.run(t)
	for range 2 {
		eventually(t, 5*time.Second, "the repair", func() bool { return holds(near, passwordOf(both(1)), 0o600) })
		if err := os.Remove(near); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, "the repair", func() bool { return holds(near, passwordOf(both(1)), 0o600) })
}

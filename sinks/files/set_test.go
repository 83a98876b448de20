package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// memDir is a directory in memory, for what is about renames and not about disks.
func memDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "signet-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// pairSet is a set of both fields of db.
func pairSet(dir string, keep int) Set {
	return Set{Dir: filepath.Join(dir, "tls"), Keep: keep, Entries: []File{
		{Path: "user", Secret: "db", Field: "username", Mode: 0o644}, {Path: "password", Secret: "db", Field: "password", Mode: 0o640}}}
}

// both is a version of db whose fields say which they are of.
func both(n int) *sinks.Secret {
	text := strings.Repeat(strconv.Itoa(n)+"\n", 300) + "end"
	return &sinks.Secret{Name: "db", Version: strconv.Itoa(n), Fields: sinks.FieldsOf(map[string]secret.Value{
		"username": secret.New([]byte(text)), "password": secret.New([]byte(text))})}
}

// readSet reads a set as a consumer does that holds the directory open.
func readSet(dir string) (user, password string, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", "", err
	}
	d := &openDirectory{os.NewFile(uintptr(fd), dir)}
	defer d.Close()
	u, err1 := d.read("user")
	p, err2 := d.read("password")
	return u, p, errors.Join(err1, err2)
}

type openDirectory struct{ *os.File }

func (d *openDirectory) read(name string) (string, error) {
	b, err := (&dir{f: d.File}).read(name, maxRead)
	return string(b), err
}

// readersSeeOneGeneration replaces a set n times under readers.
func readersSeeOneGeneration(t *testing.T, n int) {
	dir := memDir(t)
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}})
	if err := r.PublishSecret(both(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var reads [2]int
	for i := range reads {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				user, password, err := readSet(filepath.Join(dir, "tls"))
				if err != nil || user != password || !strings.HasSuffix(user, "end") {
					t.Errorf("missing, mixed or partial: %v, %.9q and %.9q", err, user, password)
					return
				}
				reads[i]++
			}
		})
	}
	for i := range n {
		if err := r.PublishSecret(both(i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if _, drifts := r.counts(); drifts != 0 {
		t.Errorf("own writes were taken for %d drifts", drifts)
	}
	t.Logf("%d reads of a set during %d replacements: all whole and of one generation", reads[0]+reads[1], n)
}

// A reader that holds the directory open sees one generation.
func TestReadersOfASetSeeOneGeneration(t *testing.T) { readersSeeOneGeneration(t, 1000) }

func generations(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, ".signet-set-tls"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSetIsWrittenOnceAndKept(t *testing.T) {
	dir := tempDir(t)
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 2)}})
	for _, n := range []int{1, 1, 2, 3, 4} {
		if err := r.PublishSecret(both(n)); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := r.counts(); n != 4 {
		t.Errorf("delivered %d times, want 4", n)
	}
	gen, err := r.Generation(filepath.Join(dir, "tls"))
	if d := r.written[3]; err != nil || d.Generation != gen || d.Items[0].Version != "4" || len(d.Items) != 1 {
		t.Errorf("delivered %+v, generation %d, %v", d, gen, err)
	}
	for name, mode := range map[string]os.FileMode{"user": 0o644, "password": 0o640} {
		if info, err := os.Stat(filepath.Join(dir, "tls", name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	// Beyond those kept, generations stay for a moment for readers, then go with their keys.
	eventually(t, readerGrace+3*time.Second, "old generations go", func() bool { return len(generations(t, dir)) == 3 })

	// Another run leaves a right set alone, and removes what a crash has left.
	if err := os.Mkdir(filepath.Join(dir, ".signet-set-tls", strconv.FormatInt(gen+5, 10)), 0o700); err != nil {
		t.Fatal(err)
	}
	again := startWith(t, Config{Sets: []Set{pairSet(dir, 2)}})
	if err := again.PublishSecret(both(4)); err != nil {
		t.Fatal(err)
	}
	if n, _ := again.counts(); n != 0 || len(generations(t, dir)) != 3 {
		t.Errorf("written %d times; generations %v", n, generations(t, dir))
	}
	if now, err := again.Generation(filepath.Join(dir, "tls")); now != gen || err != nil {
		t.Errorf("generation %d, %v; want %d", now, err, gen)
	}
}

func TestDriftOfASetIsRepairedWithinASecond(t *testing.T) {
	for _, tt := range []struct {
		what, at string
		change   func(set string) error
	}{
		{"deleted", "", os.Remove},
		{"link", "", func(set string) error {
			if err := os.Symlink("/etc", set+".new"); err != nil {
				return err
			}
			return os.Rename(set+".new", set)
		}},
		{"type", "", func(set string) error {
			// In one step: between two, a repair of the missing link would be right.
			if err := os.Mkdir(set+".new", 0o755); err != nil {
				return err
			}
			return unix.Renameat2(unix.AT_FDCWD, set+".new", unix.AT_FDCWD, set, unix.RENAME_EXCHANGE)
		}},
		{"content", "/password", func(set string) error { return os.WriteFile(set+"/password", []byte("edited"), 0o640) }},
		{"deleted", "/password", func(set string) error { return os.Remove(set + "/password") }},
		{"mode", "/password", func(set string) error { return os.Chmod(set+"/password", 0o666) }},
		{"added", "/more", func(set string) error { return os.WriteFile(set+"/more", nil, 0o600) }},
		{"deleted", "", func(set string) error {
			link, err := os.Readlink(set)
			return errors.Join(err, os.Rename(filepath.Join(filepath.Dir(set), link), set+".moved"))
		}},
	} {
		t.Run(tt.what+tt.at, func(t *testing.T) {
			dir := tempDir(t)
			set := filepath.Join(dir, "tls")
			r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}})
			if err := r.PublishSecret(both(1)); err != nil {
				t.Fatal(err)
			}
			link, err := os.Readlink(set)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Second, "the generation is watched", func() bool { return slices.Contains(r.watched(), filepath.Join(dir, link)) })
			if err := tt.change(set); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Second, "the repair", func() bool {
				user, password, err := readSet(set)
				names, _ := os.ReadDir(set)
				return err == nil && r.repaired() && user == password && strings.HasSuffix(user, "end") && len(names) == 2 && holds(set+"/password", password, 0o640)
			})
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.drifted) != 1 || r.drifted[0].What != tt.what || r.drifted[0].Path != set+tt.at || r.drifted[0].Target != set {
				t.Errorf("told of %+v, want %s of %s once", r.drifted, tt.what, set+tt.at)
			}
			if err := rollBack(r, set); !errors.Is(err, ErrNoPrevious) {
				t.Errorf("what somebody else has changed can be rolled back to: %v", err)
			}
		})
	}
}

// The directories of a set are the agent's to write to, and everybody's to enter:
// what somebody else makes of them is put right and told, and keeps nothing back.
func TestModesOfTheDirectoriesOfASetAreRepaired(t *testing.T) {
	for _, mode := range []os.FileMode{0o775, 0o777, 0o700} {
		for _, of := range []string{"store", "generation"} {
			t.Run(fmt.Sprintf("%s,%o", of, mode), func(t *testing.T) {
				dir := tempDir(t)
				set := filepath.Join(dir, "tls")
				r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}})
				if err := r.PublishSecret(both(1)); err != nil {
					t.Fatal(err)
				}
				link, err := os.Readlink(set)
				if err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, link)
				eventually(t, time.Second, "the generation is watched", func() bool { return slices.Contains(r.watched(), path) })
				if of == "store" {
					path = filepath.Dir(path)
				}
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
				eventually(t, time.Second, "the repair", func() bool {
					info, err := os.Stat(path)
					_, told := r.counts()
					return err == nil && info.Mode().Perm() == 0o755 && told > 0
				})
				if err := r.PublishSecret(both(2)); err != nil {
					t.Errorf("no delivery any more: %v", err)
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				if len(r.drifted) != 1 || r.drifted[0].What != "mode" || r.drifted[0].Path != path || r.drifted[0].Mode != mode || len(r.written) != 2 {
					t.Errorf("told of %+v", r.drifted)
				}
			})
		}
	}
}

// What is another's is not written into, and nobody is told to delete files that
// are in use.
func TestForeignDirectoryOfASetIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := tempDir(t)
	f, err := New(Config{Sets: []Set{pairSet(dir, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.PublishSecret(both(1)), os.Chown(filepath.Join(dir, ".signet-set-tls"), 61777, 0)); err != nil {
		t.Fatal(err)
	}
	err = f.PublishSecret(both(2))
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(err.Error(), "belongs to user 61777") || !strings.HasPrefix(e.Hint(), "move it away") {
		t.Errorf("error %v", err)
	}
	if u, _, err := readSet(filepath.Join(dir, "tls")); err != nil || u != passwordOf(both(1)) {
		t.Errorf("the last good generation is gone: %v", err)
	}
}

// watched is what the agent watches.
func (r *rig) watched() []string {
	var out []string
	for _, t := range r.targets {
		if w := t.watching.Load(); w != nil {
			out = append(out, *w)
		}
	}
	return out
}

// A set can be rolled back, stays so, and is written again when asked to or when
// there is something new.
func TestRollback(t *testing.T) {
	dir := tempDir(t)
	set, file, plain := filepath.Join(dir, "tls"), filepath.Join(dir, "file"), filepath.Join(dir, "plain")
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}, Files: []File{
		{Path: file, Secret: "db", Field: "password", Mode: 0o640, KeepPrevious: true}, {Path: plain, Secret: "db", Field: "password"}}})
	if err := r.PublishSecret(both(1)); err != nil {
		t.Fatal(err)
	}
	if err := rollBack(r, set); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("nothing previous: %v", err)
	}
	if err := rollBack(r, file); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("nothing previous: %v", err)
	}
	first, err := r.Generation(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.PublishSecret(both(2)); err != nil {
		t.Fatal(err)
	}
	if second, err := r.Generation(file); err != nil || second <= first {
		t.Errorf("generation %d after %d, %v", second, first, err)
	}
	text := func(n int) string { return passwordOf(both(n)) }
	at := func(n int) bool {
		u, p, err := readSet(set)
		return err == nil && u == text(n) && p == text(n) && holds(file, text(n), 0o640)
	}
	if err := errors.Join(rollBack(r, set), rollBack(r, file)); err != nil || !at(1) {
		t.Fatalf("not rolled back: %v", err)
	}
	if err := rollBack(r, plain); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("a file without KeepPrevious has one: %v", err)
	}
	if gen, err := r.Generation(file); err != nil || gen != first {
		t.Errorf("generation %d, %v; want %d again", gen, err, first)
	}
	if err := r.PublishSecret(both(2)); err != nil || !at(1) { // as each refresh does
		t.Errorf("the same version came back by itself: %v", err)
	}
	r.checkAll()
	if !at(1) {
		t.Error("the roll-back was taken for a drift")
	}
	for _, s := range r.Status() {
		if s.RolledBack != (s.Path != plain) {
			t.Errorf("status %+v", s)
		}
	}
	if err := errors.Join(r.Redeliver(set), r.Redeliver(file)); err != nil || !at(2) {
		t.Errorf("not delivered again: %v", err)
	}
	if err := errors.Join(rollBack(r, set), rollBack(r, file)); err != nil || !at(1) {
		t.Fatalf("not rolled back again: %v", err)
	}
	if err := r.PublishSecret(both(3)); err != nil || !at(3) {
		t.Errorf("a new version did not come: %v", err)
	}
}

// A withdrawn secret goes from all generations; what else is in the set stays.
func TestWithdrawnSecretLeavesTheSet(t *testing.T) {
	dir := tempDir(t)
	s := pairSet(dir, 3)
	s.Entries = append(s.Entries, File{Path: "other", Secret: "other", Field: "password"})
	r := startWith(t, Config{Sets: []Set{s}})
	other := *db("1", "still good")
	other.Name = "other"
	if err := r.PublishSecret(both(1)); err != nil {
		t.Fatal(err)
	}
	if len(generations(t, dir)) != 0 {
		t.Error("written before all of its items were there")
	}
	if err := errors.Join(r.PublishSecret(&other), r.PublishSecret(both(2)), r.WithdrawSecret("db")); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, ".signet-set-tls", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if filepath.Base(path) != "other" {
			t.Errorf("%s is left", path)
		}
	}
	if !holds(filepath.Join(dir, "tls", "other"), "still good", 0o600) {
		t.Error("the other file of the set is gone")
	}
	if err := r.WithdrawSecret("other"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "tls")); !os.IsNotExist(err) || len(generations(t, dir)) != 0 {
		t.Errorf("left: %v, %v", err, generations(t, dir))
	}
	if err := errors.Join(r.PublishSecret(&other), r.PublishSecret(both(3))); err != nil {
		t.Fatal(err)
	}
	if u, _, err := readSet(filepath.Join(dir, "tls")); err != nil || !strings.HasPrefix(u, "3") {
		t.Errorf("not written when they were given again: %v", err)
	}
}

// A directory that stands where the link should be is taken over if nothing
// else is in it, and can be rolled back to.
func TestSetTakesOverADirectory(t *testing.T) {
	dir := tempDir(t)
	set := filepath.Join(dir, "tls")
	if err := os.Mkdir(set, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"user", "password", "mine"} {
		if err := os.WriteFile(filepath.Join(set, name), []byte("by hand"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}})
	if err := r.PublishSecret(both(1)); err == nil || !strings.Contains(err.Error(), `other files stands there, such as "mine"`) {
		t.Errorf("error %v", err)
	}
	eventually(t, time.Second, "the generation that nothing leads to goes", func() bool { return len(generations(t, dir)) == 0 })
	if err := os.Remove(filepath.Join(set, "mine")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "it is taken over", func() bool {
		u, _, err := readSet(set)
		return err == nil && strings.HasPrefix(u, "1")
	})
	if err := rollBack(r, set); err != nil || !holds(filepath.Join(set, "user"), "by hand", 0o600) {
		t.Errorf("what was there is not back: %v", err)
	}
}

// A kill while a directory is taken over leaves a link among the generations, and
// all of the directory where it was.
func TestAKillWhileADirectoryIsTakenOver(t *testing.T) {
	dir := tempDir(t)
	set, store := filepath.Join(dir, "tls"), filepath.Join(dir, ".signet-set-tls")
	for _, d := range []string{set, store, filepath.Join(store, "7")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(set, "password"), []byte("by hand"), 0o600), os.Symlink(".signet-set-tls/7", filepath.Join(store, "6"))); err != nil {
		t.Fatal(err)
	}
	f, err := New(Config{Sets: []Set{pairSet(dir, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.PublishSecret(both(1)); err != nil {
		t.Fatal(err)
	}
	if left := generations(t, dir); len(left) != 2 || slices.Contains(left, "6") || slices.Contains(left, "7") {
		t.Errorf("generations %v", left)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := rollBack(f, set); err != nil || !holds(filepath.Join(set, "password"), "by hand", 0o600) {
		t.Errorf("what was there is not back: %v", err)
	}
}

// The agent does not write where others have put something in its way.
func TestPlantedStoreIsRefused(t *testing.T) {
	dir, elsewhere := tempDir(t), tempDir(t)
	if err := os.Symlink(elsewhere, filepath.Join(dir, ".signet-set-tls")); err != nil {
		t.Fatal(err)
	}
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}})
	if err := r.PublishSecret(both(1)); err == nil {
		t.Error("written by way of a planted link")
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) != 0 {
		t.Errorf("written elsewhere: %v, %v", left, err)
	}
}

// passwordOf is the value of the field of that name.
func passwordOf(s *sinks.Secret) string {
	v, _ := s.Fields.Get("password")
	return string(v.Reveal())
}

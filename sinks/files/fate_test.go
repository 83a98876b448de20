package files

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// What a roll-back puts back is what was taken up last, however much was written
// since, over starts and after a repair as well.
func TestARollBackLeadsToWhatWasTakenUpLast(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		dir := tempDir(t)
		set, file := filepath.Join(dir, "tls"), filepath.Join(dir, "file")
		behind, mounted := filepath.Join(tempDir(t), "behind"), filepath.Join(dir, "mounted")
		if err := os.WriteFile(behind, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		paths := []string{set, file, mounted}
		bindOver(t, behind, mounted)
		untaken := map[string]int64{} // from which generation on
		cfg := Config{Sets: []Set{pairSet(dir, 1)}, TakenUp: func(target string, gen int64) bool { return untaken[target] == 0 || gen < untaken[target] },
			Files: []File{{Path: file, Secret: "db", Field: "password", KeepPrevious: true}, {Path: mounted, Secret: "db", Field: "password", KeepPrevious: true}}}
		var fs *Files
		begin := func() {
			t.Helper()
			var err error
			if fs, err = New(cfg); err != nil {
				t.Fatal(err)
			}
		}
		publish := func(n int) {
			t.Helper()
			if err := fs.PublishSecret(both(n)); err != nil {
				t.Fatal(err)
			}
			if restarted {
				begin()
				if err := fs.PublishSecret(both(n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		rollBack := func(want int, when string) {
			t.Helper()
			text := passwordOf(both(want))
			for _, path := range paths {
				if err := rollBack(fs, path); err != nil {
					t.Fatalf("%s, restarted=%v: %v", when, restarted, err)
				}
			}
			if u, p, err := readSet(set); err != nil || u != text || p != text || !holds(file, text, 0o600) || !holds(mounted, text, 0o600) {
				t.Errorf("%s, restarted=%v: not rolled back to %d: %.5q, %v", when, restarted, want, u, err)
			}
		}
		refused := func() {
			t.Helper()
			for _, path := range paths {
				var err error
				if untaken[path], err = fs.Generation(path); err != nil {
					t.Fatal(err)
				}
			}
		}
		begin()
		for n := 1; n < 4; n++ {
			publish(n)
		}
		refused()
		for n := 4; n < 6; n++ {
			publish(n)
		}
		rollBack(2, "after a burst")
		if err := errors.Join(os.Remove(set+"/user"), os.Remove(file)); err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			fs.check(fs.targets[path])
			if err := fs.Redeliver(path); err != nil {
				t.Fatal(err)
			}
		}
		publish(6)
		rollBack(2, "after a repair of what was rolled back")
		if err := fs.PublishSecret(both(7)); err != nil {
			t.Fatal(err)
		}
		clear(untaken) // all is well
		publish(8)
		refused()
		rollBack(7, "when all was taken up again")
	}
}

// Where nothing is in place there is nothing to keep: what is kept is what it was,
// and known as that.
func TestWhatIsGoneIsNotKept(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "f")
	fs, err := New(Config{Files: []File{{Path: path, Template: `{{ secret "db" "password" }} {{ (certificate "web").serial }}`, KeepPrevious: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fs.PublishSecret(db("1", "one")), fs.PublishCertificate(web(t, 1, 0)), fs.PublishSecret(db("2", "two")),
		os.Remove(path), fs.PublishCertificate(web(t, 2, 0))); err != nil {
		t.Fatal(err)
	}
	if why, err := fs.Revives(path); err != nil || len(why) != 1 {
		t.Errorf("a secret that was replaced would come back, and nobody says so: %v, %v", why, err)
	}
}

// What is not taken up is no previous generation, and goes like any older one.
func TestASetKeepsWhatWasTakenUp(t *testing.T) {
	dir := tempDir(t)
	first := int64(0)
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}, TakenUp: func(_ string, gen int64) bool { return first == 0 || gen <= first }})
	if err := r.PublishSecret(both(1)); err != nil {
		t.Fatal(err)
	}
	gen, err := r.Generation(filepath.Join(dir, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	first = gen
	for n := 2; n < 6; n++ {
		if err := r.PublishSecret(both(n)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, readerGrace+3*time.Second, "what was refused goes", func() bool { return len(generations(t, dir)) == 2 })
	if err := rollBack(r, filepath.Join(dir, "tls")); err != nil {
		t.Fatal(err)
	}
	if now, err := r.Generation(filepath.Join(dir, "tls")); err != nil || now != first {
		t.Errorf("generation %d, %v; want %d", now, err, first)
	}
}

// web is a certificate with the n-th key, of which those before usable are revoked.
func web(t *testing.T, n, usable int) *sinks.Certificate {
	t.Helper()
	der, key := pair(t)
	return &sinks.Certificate{Name: "web", Generation: n, UsableFrom: usable, Serial: strings.Repeat("a", n), Chain: [][]byte{der}, Key: secret.New(key)}
}

// A key that is revoked does not stay, nor what was there before it, and no
// roll-back brings it back.
func TestNothingThatIsRevokedStays(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		dir := tempDir(t)
		set, file := filepath.Join(dir, "tls"), filepath.Join(dir, "web.pem")
		cfg := Config{Files: []File{{Path: file, Certificate: "web", KeepPrevious: true}},
			Sets: []Set{{Dir: set, Keep: 3, Entries: []File{{Path: "web.pem", Certificate: "web"}}}}}
		r := startWith(t, cfg)
		publish := func(c *sinks.Certificate) {
			t.Helper()
			if err := r.PublishCertificate(c); err != nil {
				t.Fatal(err)
			}
		}
		for n := 1; n < 4; n++ {
			publish(web(t, n, 0))
		}
		if restarted { // before what is in place was looked at
			r.stop()
			r = startWith(t, cfg)
		}
		was := generations(t, dir)
		publish(web(t, 4, 4))
		if _, err := os.Lstat(filepath.Join(dir, prevPrefix+"web.pem")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("restarted=%v: the revoked key is kept: %v", restarted, err)
		}
		if left := generations(t, dir); len(was) != 3 || slices.Contains(left, was[0]) && !slices.Contains(left, was[2]) {
			t.Errorf("restarted=%v: generations %v, then %v", restarted, was, left)
		}
		for _, path := range []string{file, set} {
			if why, err := r.Revives(path); err != nil || !slices.Equal(why, []string{"the previous certificate web is revoked"}) {
				t.Errorf("%s: revives %v, %v", path, why, err)
			}
			if err := rollBack(r, path); !errors.Is(err, ErrNoPrevious) {
				t.Errorf("%s: rolled back: %v", path, err)
			}
		}
		eventually(t, readerGrace+3*time.Second, "the revoked generations go", func() bool { return len(generations(t, dir)) == 1 })
		publish(web(t, 5, 4)) // the key after it is as good as any
		for _, path := range []string{file, set} {
			if why, err := r.Revives(path); err != nil || why != nil {
				t.Errorf("%s: revives %v, %v", path, why, err)
			}
			if err := rollBack(r, path); err != nil {
				t.Errorf("%s: not rolled back: %v", path, err)
			}
		}
	}
}

// What a crash amid the delivery of a new key leaves of the revoked ones goes at the
// start: nobody knows them any more.
func TestWhatACrashLeavesOfARevokedKeyGoes(t *testing.T) {
	dir := tempDir(t)
	cfg := Config{Sets: []Set{{Dir: filepath.Join(dir, "tls"), Keep: 3, Entries: []File{{Path: "web.pem", Certificate: "web"}}}}}
	fs, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	newest := web(t, 2, 0)
	if err := errors.Join(fs.PublishCertificate(web(t, 1, 0)), fs.PublishCertificate(newest)); err != nil || len(generations(t, dir)) != 2 {
		t.Fatal(err, generations(t, dir))
	}
	r := startWith(t, cfg)
	again := *newest
	again.UsableFrom = 2
	if err := r.PublishCertificate(&again); err != nil || len(generations(t, dir)) != 1 {
		t.Errorf("left: %v, %v", generations(t, dir), err)
	}
}

// Who waits for a file that could not be written and then was withdrawn is told.
// Of a set of which something is left, what is left is told.
func TestAWithdrawnTargetIsOwedNothing(t *testing.T) {
	dir := tempDir(t)
	file, set := filepath.Join(dir, "pw"), filepath.Join(dir, "tls")
	other := func(version string) *sinks.Secret { s := *db(version, version); s.Name = "other"; return &s }
	var written, unwritten, withdrawn []string
	tell := func(what *[]string) func([]Delivery) {
		return func(ds []Delivery) {
			for _, d := range ds {
				*what = append(*what, d.Target)
			}
		}
	}
	fs, err := New(Config{Files: []File{{Path: file, Secret: "db", Field: "password"}},
		Sets:    []Set{{Dir: set, Entries: []File{{Path: "db", Secret: "db", Field: "password"}, {Path: "other", Secret: "other", Field: "password"}}}},
		Writing: func([]Delivery) error { return nil }, Written: tell(&written), Unwritten: tell(&unwritten),
		Withdrawn: func(target string) { withdrawn = append(withdrawn, target) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fs.PublishSecret(other("1")), fs.PublishSecret(db("1", "one"))); err != nil {
		t.Fatal(err)
	}
	written = nil
	store := filepath.Join(dir, storePrefix+"tls")
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o755), os.Rename(store, store+".away"), os.WriteFile(store, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := fs.PublishSecret(db("2", "two")); err == nil || !slices.Equal(unwritten, []string{file, set}) {
		t.Fatalf("written: %v, told %v", err, unwritten)
	}
	if err := errors.Join(os.Remove(file), os.Remove(store), os.Rename(store+".away", store)); err != nil {
		t.Fatal(err)
	}
	if err := fs.WithdrawSecret("db"); err != nil || !slices.Equal(withdrawn, []string{file}) || !slices.Equal(written, []string{set}) {
		t.Errorf("%v; told that %v are withdrawn, and %v written", err, withdrawn, written)
	}
	if err := fs.PublishSecret(db("3", "three")); err != nil || !slices.Equal(written, []string{set, file, set}) {
		t.Errorf("%v; told that %v are written", err, written)
	}
}

// The log says what can be done about a file that could not be written.
func TestTheLogSaysWhatToDo(t *testing.T) {
	for what, tt := range map[string]struct {
		file  File
		spoil func(dir string) error
		hint  string
	}{
		"no directory":    {File{}, os.Remove, "make the directory"},
		"world-writable":  {File{}, func(dir string) error { return os.Chmod(dir, 0o777) }, "chmod o-w"},
		"foreign owner":   {File{}, func(dir string) error { return unix.Chown(dir, 61777, -1) }, "give it to root"},
		"a link":          {File{}, func(dir string) error { return errors.Join(os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir)) }, "write the path that the link leads to"},
		"something there": {File{}, func(dir string) error { return os.Mkdir(filepath.Join(dir, "pw"), 0o755) }, "something stands at the path"},
		"no user":         {File{Owner: "nobody-of-this-name"}, func(string) error { return nil }, "install the consumer"},
		"no field":        {File{Field: "nothing"}, func(string) error { return nil }, "correct field"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(tempDir(t), "d")
			if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755), tt.spoil(dir)); err != nil {
				t.Skip(err)
			}
			var log strings.Builder
			tt.file.Path, tt.file.Secret = filepath.Join(dir, "pw"), "db"
			if tt.file.Field == "" {
				tt.file.Field = "password"
			}
			fs, err := New(Config{Files: []File{tt.file}, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			if err := fs.PublishSecret(db("1", "hunter2")); err == nil {
				t.Fatal("written")
			}
			if !strings.Contains(log.String(), `hint="`+tt.hint) {
				t.Errorf("no hint in %s", log.String())
			}
		})
	}
}

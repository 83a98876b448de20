package files

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// A start does not make a generation good that was rolled back before it, or
// that a crash has left half written: neither is rolled back to.
func TestRollbackAfterAStart(t *testing.T) {
	dir := tempDir(t)
	tls := filepath.Join(dir, "tls")
	begin := func() *Files {
		f, err := New(Config{Sets: []Set{pairSet(dir, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	rollsBackTo := func(r *Files, n int, when string) {
		t.Helper()
		if err := rollBack(r, tls); err != nil {
			t.Fatal(err)
		}
		want := passwordOf(both(n))
		if user, password, err := readSet(tls); err != nil || user != want || password != want {
			t.Errorf("%s: rolled back to %.5q, %.5q, %v; want %.5q", when, user, password, err, want)
		}
	}
	r := begin()
	for _, n := range []int{1, 2} {
		if err := r.PublishSecret(both(n)); err != nil {
			t.Fatal(err)
		}
	}
	rollsBackTo(r, 1, "at first")

	r = begin()
	if err := r.PublishSecret(both(3)); err != nil {
		t.Fatal(err)
	}
	rollsBackTo(r, 1, "what was rolled back before a start")

	gen, err := r.Generation(tls)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, ".signet-set-tls", strconv.FormatInt(gen+1e6, 10)), 0o700); err != nil {
		t.Fatal(err)
	}
	r = begin()
	if err := r.PublishSecret(both(4)); err != nil {
		t.Fatal(err)
	}
	rollsBackTo(r, 1, "what a crash has left")
}

// What is kept to roll back to is what was in the file last, at whatever moment
// the agent is killed: what was never in the file is none.
func TestAKillBetweenTwoRenamesKeepsThePrevious(t *testing.T) {
	dir := memDir(t)
	path := filepath.Join(dir, "pw")
	cfg := Config{Files: []File{{Path: path, Secret: "db", Field: "password", KeepPrevious: true}}}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if err := f.PublishSecret(both(n)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := openDir(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	// As it is before the exchange of the third delivery.
	if _, err := d.replace(prevPrefix+"pw", []byte(passwordOf(both(3))), attributes{mode: 0o600}, time.Now().UnixNano()); err != nil {
		t.Fatal(err)
	}
	if f, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := rollBack(f, path); !errors.Is(err, ErrNoPrevious) || !holds(path, passwordOf(both(2)), 0o600) {
		t.Errorf("rolled back to what was never in the file: %v", err)
	}
	if err := f.PublishSecret(both(3)); err != nil {
		t.Fatal(err)
	}
	if err := rollBack(f, path); err != nil || !holds(path, passwordOf(both(2)), 0o600) {
		t.Errorf("not rolled back to what was in it last: %v", err)
	}
}

// Something that stands where the previous one is kept costs the roll-back, and
// neither the delivery nor the reload after it.
func TestAFileIsDeliveredWhereNothingCanBeKept(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "pw")
	if err := os.Mkdir(filepath.Join(dir, prevPrefix+"pw"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := start(t, File{Path: path, Secret: "db", Field: "password", KeepPrevious: true})
	for n := 1; n <= 2; n++ {
		if err := r.PublishSecret(both(n)); err != nil || !holds(path, passwordOf(both(n)), 0o600) {
			t.Errorf("not delivered: %v", err)
		}
		if written, _ := r.counts(); written != n {
			t.Errorf("told of %d deliveries, want %d", written, n)
		}
	}
	if err := rollBack(r, path); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("rolled back: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
}

// What is kept to roll back to goes once nobody is there who could need it: there
// may be a key in it.
func TestWhatIsNotKeptAnyMoreGoes(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "pw")
	r := start(t, File{Path: path, Secret: "db", Field: "password", KeepPrevious: true})
	if err := errors.Join(r.PublishSecret(both(1)), r.PublishSecret(both(2))); err != nil || !holds(filepath.Join(dir, prevPrefix+"pw"), passwordOf(both(1)), 0o600) {
		t.Fatalf("nothing is kept: %v", err)
	}
	start(t, File{Path: path, Secret: "db", Field: "password"})
	eventually(t, 5*time.Second, "it goes", func() bool { left, err := os.ReadDir(dir); return err == nil && len(left) == 1 })
	if !holds(path, passwordOf(both(2)), 0o600) {
		t.Error("the file has gone as well")
	}
}

// rollBack rolls a target back, whatever is in place.
func rollBack(fs interface {
	Generation(path string) (int64, error)
	Rollback(path string, tried int64) (bool, error)
}, path string) error {
	gen, err := fs.Generation(path)
	if err != nil {
		return err
	}
	_, err = fs.Rollback(path, gen)
	return err
}

// What was delivered after the try that failed stays: nobody has tried it yet.
func TestARollBackTakesOnlyWhatWasTried(t *testing.T) {
	for _, target := range []string{"file", "set"} {
		dir := tempDir(t)
		path := filepath.Join(dir, target)
		cfg := Config{Files: []File{{Path: path, Secret: "db", Field: "password", KeepPrevious: true}}}
		if target == "set" {
			cfg = Config{Sets: []Set{{Dir: path, Keep: 2, Entries: []File{{Path: "pw", Secret: "db", Field: "password"}}}}}
		}
		fs, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var gens []int64
		for n := 1; n < 4; n++ {
			if err := fs.PublishSecret(db(strconv.Itoa(n), strconv.Itoa(n))); err != nil {
				t.Fatal(err)
			}
			gen, err := fs.Generation(path)
			if err != nil {
				t.Fatal(err)
			}
			gens = append(gens, gen)
		}
		if done, err := fs.Rollback(path, gens[1]); done || err != nil {
			t.Errorf("%s: what nobody has tried was rolled back: %v, %v", target, done, err)
		}
		if gen, err := fs.Generation(path); err != nil || gen != gens[2] {
			t.Errorf("%s: generation %d, %v, want %d", target, gen, err, gens[2])
		}
		if done, err := fs.Rollback(path, gens[2]); !done || err != nil {
			t.Errorf("%s: not rolled back: %v, %v", target, done, err)
		}
	}
}

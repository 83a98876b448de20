package files

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// A start does not make a generation good that was rolled back before it, or
// that a crash has left half written: neither is rolled back to.
func TestRollbackAfterAStart(t *testing.T) {
	dir := tempDir(t)
	tls := filepath.Join(dir, "tls")
	begin := func() *rig { return startWith(t, Config{Sets: []Set{pairSet(dir, 1)}}) }
	rollsBackTo := func(r *rig, n int, when string) {
		t.Helper()
		if err := r.Rollback(tls); err != nil {
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

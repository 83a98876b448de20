package files

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/signet-agent/signet/sinks"
)

// What was rolled back is not written again by a start that says so, until it is
// asked to or something else is wanted: a new version, or another mode.
func TestARollBackOutlivesTheProcess(t *testing.T) {
	dir := tempDir(t)
	path, set := filepath.Join(dir, "pw"), filepath.Join(dir, "tls")
	begin := func(mode os.FileMode) *Files {
		t.Helper()
		fs, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password", Mode: mode, KeepPrevious: true}}, Sets: []Set{pairSet(dir, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		return fs
	}
	at := func(n int) bool {
		u, p, err := readSet(set)
		b, err2 := os.ReadFile(path)
		text := passwordOf(both(n))
		return errors.Join(err, err2) == nil && u == text && p == text && string(b) == text
	}
	fs := begin(0o600)
	if err := errors.Join(fs.PublishSecret(both(1)), fs.PublishSecret(both(2))); err != nil {
		t.Fatal(err)
	}
	wanted := map[string]string{}
	for _, target := range []string{path, set} {
		var err error
		if wanted[target], err = fs.Wanted(target); err != nil || wanted[target] == "" {
			t.Fatalf("wanted %q, %v", wanted[target], err)
		}
		if err := fs.Rollback(target); err != nil {
			t.Fatal(err)
		}
	}
	held := func(mode os.FileMode) *Files {
		fs := begin(mode)
		for target, w := range wanted {
			if err := fs.Hold(target, w); err != nil {
				t.Fatal(err)
			}
		}
		return fs
	}
	for range 3 {
		fs = held(0o600)
		if err := fs.PublishSecret(both(2)); err != nil || !at(1) {
			t.Fatalf("a start has written what was rolled back: %v", err)
		}
	}
	if err := errors.Join(fs.Redeliver(path), fs.Redeliver(set)); err != nil || !at(2) {
		t.Errorf("not delivered again: %v", err)
	}
	if err := errors.Join(fs.Rollback(path), fs.Rollback(set)); err != nil || !at(1) {
		t.Fatal("not rolled back again", err)
	}
	if err := held(0o640).PublishSecret(both(2)); err != nil || !holds(path, passwordOf(both(2)), 0o640) {
		t.Errorf("a file that is configured otherwise is not written: %v", err)
	}
	if err := held(0o600).PublishSecret(both(3)); err != nil || !at(3) {
		t.Errorf("a new version did not come: %v", err)
	}
}

// A roll-back would bring a secret back that its upstream has replaced. That is
// known before it is made; where it is not known which one it would be, it counts
// as replaced.
func TestWhichSecretsARollBackRevives(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "f")
	other := func(version string) *sinks.Secret { s := *db(version, version); s.Name = "other"; return &s }
	cfg := Config{Files: []File{{Path: path, Template: `{{ secret "db" "password" }} {{ secret "other" "password" }}`, KeepPrevious: true}}}
	fs, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(all ...*sinks.Secret) {
		t.Helper()
		for _, s := range all {
			if err := fs.PublishSecret(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	revives := func(want ...string) {
		t.Helper()
		if got, err := fs.Revives(path); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	publish(db("1", "one"), other("a"), db("2", "two"))
	revives("db")
	publish(other("b"))
	revives("other")
	if fs, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	publish(db("2", "two"), other("b"))
	revives("db", "other") // an earlier process knew
}

// Of all that Writing was told, Written or Unwritten is told: one file that cannot
// be written keeps nobody waiting for it.
func TestWhatCouldNotBeWrittenIsTold(t *testing.T) {
	dir := tempDir(t)
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	if err := os.Mkdir(bad, 0o755); err != nil {
		t.Fatal(err)
	}
	told := map[string][]string{}
	var refuse error
	tell := func(what string) func([]Delivery) {
		return func(ds []Delivery) {
			for _, d := range ds {
				told[what] = append(told[what], d.Target)
			}
		}
	}
	fs, err := New(Config{Files: []File{{Path: good, Secret: "db", Field: "password"}, {Path: bad, Secret: "db", Field: "password"}},
		Writing: func([]Delivery) error { return refuse }, Written: tell("written"), Unwritten: tell("unwritten")})
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.PublishSecret(db("1", "x")); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if !slices.Equal(told["written"], []string{good}) || !slices.Equal(told["unwritten"], []string{bad}) {
		t.Errorf("told %v", told)
	}
	clear(told)
	refuse = errors.New("disk full")
	if err := fs.PublishSecret(db("2", "y")); !errors.Is(err, refuse) || !slices.Equal(told["unwritten"], []string{bad, good}) {
		t.Errorf("refused: told %v, %v", told, err)
	}
}

package files

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A goneRig is an agent whose configuration loses its files. It is in a bubble, as
// readers are left their time.
type goneRig struct {
	t          *testing.T
	dir        string
	remembered []byte
	log        bytes.Buffer
}

func (g *goneRig) path(name string) string { return filepath.Join(g.dir, name) }

// begin is a start of the agent.
func (g *goneRig) begin(cfg Config) *Files {
	g.t.Helper()
	cfg.Remembered = g.remembered
	cfg.Remember = func(b []byte) error { g.remembered = b; return nil }
	cfg.Log = slog.New(slog.NewTextHandler(&g.log, nil))
	fs, err := New(cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	fs.clearGone(g.t.Context())
	return fs
}

// deliver has two versions delivered to a file and to a set.
func (g *goneRig) deliver() {
	g.t.Helper()
	fs := g.begin(Config{Files: []File{{Path: g.path("pw"), Secret: "db", Field: "password", KeepPrevious: true}},
		Sets: []Set{{Dir: g.path("tls"), Keep: 3, Entries: []File{{Path: "key", Secret: "db", Field: "password"}}}}})
	for _, version := range []string{"1", "2", "3"} {
		if err := fs.PublishSecret(db(version, "version "+version)); err != nil {
			g.t.Fatal(err)
		}
	}
	if g.holding("version 1")+g.holding("version 2") == 0 {
		g.t.Fatal("nothing is kept")
	}
}

// holding counts the files with some content, wherever they are.
func (g *goneRig) holding(content string) (n int) {
	g.t.Helper()
	err := filepath.WalkDir(g.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && holds(path, content, 0o600) {
			n++
		}
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

func (g *goneRig) names() (names []string) {
	g.t.Helper()
	es, err := os.ReadDir(g.dir)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

func inGoneRig(t *testing.T, f func(g *goneRig)) {
	t.Helper()
	dir := memDir(t)
	synctest.Test(t, func(t *testing.T) { f(&goneRig{t: t, dir: dir}) })
}

// What is kept to roll back to goes with the file's entry in the configuration: a key
// that nobody looks after. What was delivered stays, as it may be in use.
func TestWhatIsKeptGoesWithTheConfiguration(t *testing.T) {
	inGoneRig(t, func(g *goneRig) {
		g.deliver()
		g.begin(Config{})
		if g.holding("version 1") != 0 || g.holding("version 2") != 0 {
			t.Errorf("old versions are still there: %v", g.names())
		}
		if !holds(g.path("pw"), "version 3", 0o600) || !holds(g.path("tls/key"), "version 3", 0o600) {
			t.Error("what was delivered is gone")
		}
		if err := os.Remove(g.path("tls")); err != nil { // by whoever needs it no more
			t.Fatal(err)
		}
		g.begin(Config{})
		if got := g.names(); !slices.Equal(got, []string{"pw"}) {
			t.Errorf("left: %v", got)
		}
		g.begin(Config{Sets: []Set{{Dir: g.path("never"), Entries: []File{{Path: "key", Secret: "db", Field: "password"}}}}})
		g.begin(Config{})
		if g.log.Len() > 0 || strings.Contains(string(g.remembered), g.dir) {
			t.Errorf("log %s, still remembered: %s", &g.log, g.remembered)
		}
	})
}

// What is still configured keeps what it has to roll back to.
func TestWhatIsConfiguredKeepsWhatItHas(t *testing.T) {
	inGoneRig(t, func(g *goneRig) {
		g.deliver()
		before := g.holding("version 2")
		fs := g.begin(Config{Files: []File{{Path: g.path("pw"), Secret: "db", Field: "password", KeepPrevious: true, Mode: 0o640}}})
		if after := g.holding("version 2"); before != 2 || after != 1 {
			t.Errorf("%d of it, and %d before", after, before)
		}
		if err := errors.Join(fs.PublishSecret(db("4", "version 4")), rollBack(fs, g.path("pw"))); err != nil {
			t.Error(err)
		}
		// A set in the place of the file has nothing of it.
		fs = g.begin(Config{Sets: []Set{{Dir: g.path("pw"), Entries: []File{{Path: "key", Secret: "db", Field: "password"}}}}})
		if err := errors.Join(os.Remove(g.path("pw")), fs.PublishSecret(db("5", "version 5"))); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(g.path(prevPrefix + "pw")); err == nil || !holds(g.path("pw/key"), "version 5", 0o600) {
			t.Errorf("left: %v", g.names())
		}
	})
}

// Whoever may write to the directory cannot have anything else removed, and what
// cannot be removed yet is tried again at the next start.
func TestNothingElseGoesWithTheConfiguration(t *testing.T) {
	inGoneRig(t, func(g *goneRig) {
		g.deliver()
		other := filepath.Join(memDir(t), "other")
		gen, err := os.Readlink(g.path("tls"))
		if err != nil {
			t.Fatal(err)
		}
		mine := g.path(filepath.Join(filepath.Dir(gen), "notes"))
		if err := errors.Join(os.Mkdir(other, 0o755), os.WriteFile(other+"/file", nil, 0o600), os.WriteFile(mine, nil, 0o600),
			os.Symlink(other, g.path(filepath.Join(filepath.Dir(gen), "1"))), os.Remove(g.path(prevPrefix+"pw")), os.Symlink(other+"/file", g.path(prevPrefix+"pw")),
			os.Chmod(g.dir, 0o777)); err != nil {
			t.Fatal(err)
		}
		before := g.holding("version 1") + g.holding("version 2")
		g.begin(Config{})
		if after := g.holding("version 1") + g.holding("version 2"); after != before || !strings.Contains(g.log.String(), "everyone can write to it") {
			t.Errorf("%d of %d in a directory that is not safe; log %s", after, before, &g.log)
		}
		if err := os.Chmod(g.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		g.begin(Config{})
		if n := g.holding("version 1") + g.holding("version 2"); n != 0 {
			t.Errorf("%d old versions are still there", n)
		}
		for _, path := range []string{other + "/file", mine} {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(g.dir); err != nil {
			t.Fatal(err)
		}
		g.log.Reset()
		g.begin(Config{})
		if g.log.Len() > 0 || strings.Contains(string(g.remembered), g.dir) {
			t.Errorf("log %s, still remembered: %s", &g.log, g.remembered)
		}
	})
}

// A link that somebody has made otherwise may lead to any generation.
func TestALinkOfSomebodyElseKeepsTheGenerations(t *testing.T) {
	inGoneRig(t, func(g *goneRig) {
		g.deliver()
		gen, err := os.Readlink(g.path("tls"))
		if err == nil {
			err = errors.Join(os.Remove(g.path("tls")), os.Symlink(g.path(gen), g.path("tls")))
		}
		if err != nil {
			t.Fatal(err)
		}
		g.begin(Config{})
		if !holds(g.path("tls/key"), "version 3", 0o600) || g.holding("version 1") != 1 {
			t.Error("generations were removed")
		}
	})
}

// Readers of the generation before have their time also when the set goes.
func TestReadersHaveTheirTimeWhenASetGoes(t *testing.T) {
	inGoneRig(t, func(g *goneRig) {
		g.deliver()
		ctx, stop := context.WithTimeout(g.t.Context(), readerGrace-time.Millisecond)
		defer stop()
		fs, err := New(Config{Remembered: g.remembered})
		if err != nil {
			t.Fatal(err)
		}
		fs.clearGone(ctx)
		if g.holding("version 2") == 0 {
			t.Error("nobody could finish to read")
		}
	})
}

// Run does it.
func TestRunClearsWhatIsGone(t *testing.T) {
	dir := memDir(t)
	var remembered []byte
	cfg := Config{Files: []File{{Path: filepath.Join(dir, "pw"), Secret: "db", Field: "password", KeepPrevious: true}},
		Remember: func(b []byte) error { remembered = b; return nil }}
	r := startWith(t, cfg)
	if err := errors.Join(r.PublishSecret(db("1", "first")), r.PublishSecret(db("2", "second"))); err != nil {
		t.Fatal(err)
	}
	r.stop()
	prev := filepath.Join(dir, prevPrefix+"pw")
	if !holds(prev, "first", 0o600) {
		t.Fatal("nothing is kept")
	}
	startWith(t, Config{Remembered: remembered, Remember: cfg.Remember})
	eventually(t, 3*time.Second, "the removal", func() bool { _, err := os.Lstat(prev); return err != nil })
}

package files

import (
	"cmp"
	"errors"
	"fmt"
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
		if err := rollBack(fs, target); err != nil {
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
	if err := errors.Join(rollBack(fs, path), rollBack(fs, set)); err != nil || !at(1) {
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
	web := func(serial string) *sinks.Certificate {
		der, key := pair(t)
		return &sinks.Certificate{Name: "web", Chain: [][]byte{der}, Key: secret.New(key), Serial: serial}
	}
	cfg := Config{Files: []File{{Path: path, KeepPrevious: true,
		Template: `{{ secret "db" "password" }} {{ secret "other" "password" }} {{ (certificate "web").chain }}`}}}
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
	revives := func(names ...string) {
		t.Helper()
		var want []string
		for _, name := range names {
			want = append(want, "its upstream has replaced secret "+name)
		}
		if got, err := fs.Revives(path); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	certificate := func(serial string) {
		t.Helper()
		if err := fs.PublishCertificate(web(serial)); err != nil {
			t.Fatal(err)
		}
	}
	certificate("1")
	publish(db("1", "one"), other("a"), db("2", "two"))
	revives("db")
	publish(other("b"))
	revives("other")
	certificate("2") // the secrets have stayed
	revives()
	if fs, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	certificate("2")
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

// What a roll-back has put back is kept right like anything else, with who may read
// it: it may well be there for an hour. Nobody is reloaded for it.
func TestDriftOfARollBackIsRepairedWithinASecond(t *testing.T) {
	for _, tt := range []struct {
		what, at string
		change   func(path string) error
	}{
		{"deleted", "", os.Remove},
		{"content", "", func(path string) error { return os.WriteFile(path, []byte("edited"), 0o600) }},
		{"mode", "", func(path string) error { return os.Chmod(path, 0o666) }},
		{"added", "more", func(path string) error { return os.WriteFile(path, nil, 0o600) }},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,restarted=%v", tt.what, restarted), func(t *testing.T) {
				dir := tempDir(t)
				path, set := filepath.Join(dir, "pw"), filepath.Join(dir, "tls")
				cfg := Config{Files: []File{{Path: path, Secret: "db", Field: "password", KeepPrevious: true}}, Sets: []Set{pairSet(dir, 1)}}
				fs, err := New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				r := &rig{Files: fs}
				if restarted {
					if err := errors.Join(fs.PublishSecret(both(1)), fs.PublishSecret(both(2)), rollBack(fs, path), rollBack(fs, set)); err != nil {
						t.Fatal(err)
					}
					wanted, err := fs.Wanted(path)
					wantedSet, err2 := fs.Wanted(set)
					r = startWith(t, cfg)
					if err := errors.Join(err, err2, r.Hold(path, wanted), r.Hold(set, wantedSet), r.PublishSecret(both(2))); err != nil {
						t.Fatal(err)
					}
				} else {
					r = startWith(t, cfg)
					if err := errors.Join(r.PublishSecret(both(1)), r.PublishSecret(both(2)), rollBack(r, path), rollBack(r, set)); err != nil {
						t.Fatal(err)
					}
				}
				before, _ := r.counts()
				link, err := os.Readlink(set)
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, time.Second, "the generation is watched", func() bool { return slices.Contains(r.watched(), filepath.Join(dir, link)) })
				drifts := []string{filepath.Join(set, cmp.Or(tt.at, "password"))}
				if tt.at == "" {
					drifts = append(drifts, path)
				}
				for _, p := range drifts {
					if err := tt.change(p); err != nil {
						t.Fatal(err)
					}
				}
				want := passwordOf(both(1))
				eventually(t, time.Second, "the repair", func() bool {
					u, p, err := readSet(set)
					names, _ := os.ReadDir(set)
					_, told := r.counts()
					return err == nil && u == want && p == want && len(names) == 2 && holds(set+"/password", want, 0o640) && holds(path, want, 0o600) && told == len(drifts)
				})
				r.mu.Lock()
				for _, d := range r.drifted {
					if d.What != tt.what || !slices.Contains(drifts, d.Path) {
						t.Errorf("told of %+v, want %s of %v", d, tt.what, drifts)
					}
				}
				r.mu.Unlock()
				if after, _ := r.counts(); after != before {
					t.Errorf("%d deliveries told of", after-before)
				}
				if err := errors.Join(r.Redeliver(path), r.Redeliver(set)); err != nil || !holds(path, passwordOf(both(2)), 0o600) || !holds(set+"/password", passwordOf(both(2)), 0o640) {
					t.Errorf("not delivered again: %v", err)
				}
				if err := errors.Join(rollBack(r, path), rollBack(r, set)); err == nil && !holds(path, want, 0o600) || !holds(set+"/password", want, 0o640) {
					t.Errorf("not rolled back again: %v", err)
				}
			})
		}
	}
}

// What lies ready to be put back may have been opened to others meanwhile.
func TestARollBackHasItsModeAgain(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "pw")
	r := start(t, File{Path: path, Secret: "db", Field: "password", KeepPrevious: true})
	if err := errors.Join(r.PublishSecret(both(1)), r.PublishSecret(both(2)), os.Chmod(filepath.Join(dir, prevPrefix+"pw"), 0o666)); err != nil {
		t.Fatal(err)
	}
	if err := rollBack(r, path); err != nil || !holds(path, passwordOf(both(1)), 0o600) {
		t.Errorf("not put back with its mode: %v", err)
	}
}

// What Writing was called for and then found right, whoever has made it so, is
// told of: else its consumer would be waited for, and never reloaded.
func TestWhatWasAnnouncedIsToldOnceItIsRight(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "pw")
	if err := os.Mkdir(path, 0o755); err != nil { // cannot be renamed onto
		t.Fatal(err)
	}
	var told []Delivery
	fs, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password"}}, Writing: func([]Delivery) error { return nil },
		Written: func(ds []Delivery) { told = append(told, ds...) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.PublishSecret(db("1", "hunter2")); err == nil {
		t.Fatal("written over a directory")
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("hunter2"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := fs.PublishSecret(db("1", "hunter2")); err != nil {
			t.Fatal(err)
		}
	}
	if gen, err := fs.Generation(path); err != nil || len(told) != 1 || told[0].Generation != gen || told[0].Repaired {
		t.Errorf("told of %+v, want generation %d once; %v", told, gen, err)
	}
}

// A set whose old generations cannot be removed is delivered all the same.
func TestOldGenerationsThatStayDoNotKeepTheReloadBack(t *testing.T) {
	dir := tempDir(t)
	if err := os.MkdirAll(filepath.Join(dir, ".signet-set-tls", "5", "foreign"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 0)}})
	if err := r.PublishSecret(both(1)); err == nil || !strings.Contains(err.Error(), "remove generation") {
		t.Errorf("error %v", err)
	}
	if n, _ := r.counts(); n != 1 {
		t.Errorf("told of %d deliveries", n)
	}
}

// What a roll-back has put back and the agent may not read is written again from
// what this process has delivered. Where an earlier one did, it is told, and left
// for its consumer's next try.
func TestDriftOfARollBackThatTheAgentMayNotRead(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if mayWriteAnywhere() {
		asMereOwner(t)
		return
	}
	path := filepath.Join(tempDir(t), "pw")
	var told []string
	cfg := Config{Files: []File{{Path: path, Secret: "db", Field: "password", Owner: "61777", KeepPrevious: true}},
		Drifted: func(d Drift) { told = append(told, d.What) }}
	begin := func() *Files {
		t.Helper()
		fs, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return fs
	}
	stat := func() (st unix.Stat_t) {
		t.Helper()
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	fs := begin()
	if err := errors.Join(fs.PublishSecret(db("1", "one")), fs.PublishSecret(db("2", "two or more")), rollBack(fs, path)); err != nil {
		t.Fatal(err)
	}
	before := stat()
	fs.check(fs.targets[path])
	if now := stat(); now.Ino != before.Ino || now.Size != 3 || len(told) != 0 {
		t.Errorf("written again, though nobody changed it: %d bytes, told %v", now.Size, told)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	fs.check(fs.targets[path])
	if now := stat(); now.Uid != 61777 || now.Size != 3 || now.Mode&0o777 != 0o600 || !slices.Equal(told, []string{"deleted"}) {
		t.Errorf("not as it was: %+v, told %v", now, told)
	}

	wanted, err := fs.Wanted(path)
	if err != nil {
		t.Fatal(err)
	}
	fs, told = begin(), nil
	if err := errors.Join(fs.Hold(path, wanted), fs.PublishSecret(db("2", "two or more"))); err != nil || stat().Size != 3 || len(told) != 0 {
		t.Errorf("a start has not left it: %v, told %v", err, told)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := fs.PublishSecret(db("2", "two or more")); !errors.Is(err, errUnread) || !slices.Equal(told, []string{"deleted"}) {
		t.Errorf("error %v, told %v", err, told)
	}
	if err := fs.Redeliver(path); err != nil || stat().Size != 11 {
		t.Errorf("not written at the next try: %v", err)
	}
}

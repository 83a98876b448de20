package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// must is for calls whose failure is not what the test is about.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var host1 = LedgerKey{
	ID: "a1", Token: "default", Name: "host", Generation: 1, Type: "rsa-2048", State: "intended",
	Created: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC), Serial: "77",
}

// TestKept holds that everything is there again after a restart, as it was.
func TestKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	must(t, s.SaveKey(host1))
	live := host1
	live.State = "live"
	must(t, s.SaveKey(live))
	must(t, s.SaveRecord("certificate", "web", []byte(`{"a":1}`)))
	must(t, s.SaveRecord("certificate", "web", []byte(`{"a":2}`)))
	must(t, s.SaveRecord("certificate", "gone", []byte(`{}`)))
	must(t, s.DeleteRecord("certificate", "gone"))
	must(t, s.SaveRecord("reload", "web", nil))
	must(t, s.SaveSecret("db", []byte{0, 1, 2}))
	must(t, s.SaveSecret("old", []byte{3}))
	must(t, s.DeleteSecret("old"))
	must(t, s.SetMeta("data-key", []byte("wrapped")))
	salt, err := s.Guard().Salt()
	must(t, err)
	must(t, s.Guard().SetRefused("one", []byte("digest"), "wrong PIN"))
	must(t, s.Close())

	s = open(t, dir)
	keys, err := s.Keys()
	must(t, err)
	if diff := cmp.Diff(keys, []LedgerKey{live}); diff != "" {
		t.Errorf("keys: %s", diff)
	}
	recs, err := s.Records("certificate")
	must(t, err)
	if diff := cmp.Diff(recs, map[string][]byte{"web": []byte(`{"a":2}`)}); diff != "" {
		t.Errorf("records: %s", diff)
	}
	secrets, err := s.Secrets()
	must(t, err)
	if diff := cmp.Diff(secrets, map[string][]byte{"db": {0, 1, 2}}); diff != "" {
		t.Errorf("secrets: %s", diff)
	}
	if b, err := s.Record("reload", "web"); b == nil || len(b) != 0 || err != nil {
		t.Errorf("empty record: %v %v", b, err)
	}
	if b, err := s.Meta("data-key"); string(b) != "wrapped" || err != nil {
		t.Errorf("meta: %q %v", b, err)
	}
	if b, err := s.Meta("none"); b != nil || err != nil {
		t.Errorf("what is not there: %q %v", b, err)
	}
	guard := s.Guard()
	if again, err := guard.Salt(); len(salt) == 0 || !bytes.Equal(again, salt) || err != nil {
		t.Errorf("salt of the guard: %x, before %x, %v", again, salt, err)
	}
	refused := func(want string, token, digest string) {
		t.Helper()
		if got, err := guard.Refused(token, []byte(digest)); got != want || err != nil {
			t.Errorf("guard of %s and %s: %q, want %q; %v", token, digest, got, want, err)
		}
	}
	refused("wrong PIN", "one", "digest")
	refused("", "one", "digest of another")
	refused("", "two", "digest")
	must(t, guard.SetRefused("two", []byte("digest"), "locked"))
	must(t, guard.Clear("one"))
	refused("", "one", "digest")
	refused("locked", "two", "digest")
}

// TestOneKeyPerGeneration holds that a generation is never given twice.
func TestOneKeyPerGeneration(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s.SaveKey(host1))
	twice := host1
	twice.ID = "b2"
	if err := s.SaveKey(twice); err == nil {
		t.Fatal("two keys are host#1")
	}
	if keys, err := s.Keys(); len(keys) != 1 || err != nil {
		t.Errorf("keys %v, %v", keys, err)
	}
}

// TestOneBadWriteFailsAlone holds that writes that share a transaction do not
// share a failure.
func TestOneBadWriteFailsAlone(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s.SaveKey(host1))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			k := host1
			k.ID, k.Generation = fmt.Sprint("k", i), i%25+2
			_ = s.SaveKey(k) // of each two with one generation, one fails
		})
		wg.Go(func() {
			if err := s.SaveSecret(fmt.Sprint(i), []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	keys, err := s.Keys()
	if len(keys) != 26 || err != nil {
		t.Errorf("%d keys, %v; want 26", len(keys), err)
	}
	secrets, err := s.Secrets()
	if len(secrets) != 50 || err != nil {
		t.Errorf("%d secrets, %v; want 50", len(secrets), err)
	}
}

func TestNobodyElseReadsIt(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	must(t, s.SaveSecret("db", []byte("x")))
	check := func(path string, want os.FileMode) {
		info, err := os.Stat(path)
		must(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
	check(dir, 0o700)
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		check(filepath.Join(dir, f.Name()), 0o600)
	}
}

// TestOneProcess holds that a directory has one agent, and that a second one is
// told which.
func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(dir)
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.PID != os.Getpid() {
		t.Fatalf("second Open: %v", err)
	}
	if want := fmt.Sprintf("another signet runs with this state_dir, pid %d", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say %q", err, want)
	}
	must(t, s.Close())
	open(t, dir)
}

func TestClosed(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s.Close())
	if err := s.SaveSecret("x", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	if _, err := s.Secrets(); err == nil {
		t.Error("read after Close succeeds")
	}
	must(t, s.Close())
}

// TestDamagedFileWithACopy holds that what was there at the last copy is there
// after the file was damaged, and that a damaged copy does no harm.
func TestDamagedFileWithACopy(t *testing.T) {
	for _, copyToo := range []bool{false, true} {
		dir := t.TempDir()
		s := open(t, dir)
		must(t, s.SaveRecord("certificate", "host", []byte("first")))
		must(t, s.Copy())
		must(t, s.SaveRecord("certificate", "host", []byte("second")))
		must(t, s.Copy()) // again, in the place of the one before
		must(t, s.SaveRecord("certificate", "host", []byte("third")))
		must(t, s.Close())
		rubbish := bytes.Repeat([]byte("rubbish "), 1000)
		must(t, os.WriteFile(filepath.Join(dir, fileName), rubbish, 0o600))
		if copyToo {
			must(t, os.WriteFile(filepath.Join(dir, fileName+copySuffix), rubbish, 0o600))
		}
		s = open(t, dir)
		want := "second"
		if copyToo {
			want = ""
		}
		got, err := s.Record("certificate", "host")
		if d := s.Damaged(); d == nil || d.Restored == copyToo || string(got) != want || err != nil {
			t.Errorf("copy damaged %v: %v, record %q, %v", copyToo, d, got, err)
		}
		must(t, s.SaveRecord("certificate", "host", []byte("fourth")))
		must(t, s.Close())
		s = open(t, dir)
		if got, err := s.Record("certificate", "host"); s.Damaged() != nil || string(got) != "fourth" || err != nil {
			t.Errorf("after a restart: %v, %q, %v", s.Damaged(), got, err)
		}
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			info, err := e.Info()
			must(t, err)
			if strings.HasSuffix(e.Name(), ".new") || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", e.Name(), info.Mode())
			}
		}
	}
}

// TestDamagedFile holds that a damaged file is kept under another name, that
// the agent is told, and that it can go on.
func TestDamagedFile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"no database", func([]byte) []byte { return []byte(strings.Repeat("rubbish ", 1000)) }},
		{"overwritten inside", func(b []byte) []byte {
			for i := 4096; i < len(b); i++ {
				b[i] = 0xa5
			}
			return b
		}},
		{"cut short", func(b []byte) []byte { return b[:len(b)/2+7] }},
		{"header only", func(b []byte) []byte { return b[:50] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			for i := range 100 {
				must(t, s.SaveSecret(fmt.Sprint(i), bytes.Repeat([]byte{1}, 500)))
			}
			must(t, s.Close())
			file := filepath.Join(dir, fileName)
			data, err := os.ReadFile(file)
			must(t, err)
			damaged := tt.damage(data)
			must(t, os.WriteFile(file, damaged, 0o600))

			s = open(t, dir)
			d := s.Damaged()
			if d == nil {
				t.Fatal("nothing was noticed")
			}
			if got, err := os.ReadFile(d.Aside); !bytes.Equal(got, damaged) {
				t.Errorf("the file set aside is another one, %v", err)
			}
			if !strings.Contains(d.Error(), d.Aside) || strings.Contains(d.Error(), "\n") || d.Why == "" {
				t.Errorf("notice: %q", d.Error())
			}
			must(t, s.SaveSecret("new", []byte("x")))
			must(t, s.Close())
			s = open(t, dir)
			if s.Damaged() != nil {
				t.Errorf("the new file is damaged: %v", s.Damaged())
			}
			if all, err := s.Secrets(); len(all) != 1 || err != nil {
				t.Errorf("%d secrets in the new file, %v", len(all), err)
			}
		})
	}
}

// TestNewerSchema holds that the file of a newer program is not touched.
func TestNewerSchema(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := s.db.Exec("PRAGMA user_version = 4711")
	must(t, err)
	must(t, s.Close())
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "newer signet") {
		t.Errorf("Open: %v", err)
	}
}

// TestMigrateWholeOrNotAtAll holds that a step that fails leaves nothing, and
// that the steps before it stay.
func TestMigrateWholeOrNotAtAll(t *testing.T) {
	s := open(t, t.TempDir())
	steps := append(append([]string{}, migrations...),
		"CREATE TABLE a (x) STRICT; CREATE TABLE b (y TEXT) STRICT", "SELECT 1")
	if err := migrate(s.db, steps); err == nil {
		t.Fatal("a bad step was taken")
	}
	var version, tables int
	must(t, s.db.QueryRow("PRAGMA user_version").Scan(&version))
	must(t, s.db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE name IN ('a', 'b')").Scan(&tables))
	if version != len(migrations) || tables != 0 {
		t.Errorf("version %d with %d tables", version, tables)
	}
	steps[len(migrations)] = "CREATE TABLE a (x TEXT) STRICT"
	must(t, migrate(s.db, steps))
	must(t, s.db.QueryRow("PRAGMA user_version").Scan(&version))
	if version != len(steps) {
		t.Errorf("version %d, want %d", version, len(steps))
	}
}

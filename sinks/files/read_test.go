package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What is read of a target is what was delivered. Whoever may write to the
// directory can plant what they like there: nothing of it is handed on, and
// nothing of it is waited for.
func TestNothingButWhatWasDeliveredIsRead(t *testing.T) {
	victim := filepath.Join(tempDir(t), "victim.pem")
	if err := os.WriteFile(victim, []byte("the key of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	plants := map[string]func(path string) error{
		"link":      func(path string) error { return os.Symlink(victim, path) },
		"hard link": func(path string) error { return os.Link(victim, path) },
		"FIFO":      func(path string) error { return unix.Mkfifo(path, 0o666) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"nothing":   func(string) error { return nil },
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			path := filepath.Join(dir, "pw")
			cfg := Config{Files: []File{{Path: path, Secret: "db", Field: "password", KeepPrevious: true}}}
			fs, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			reads := func(want, when string) {
				t.Helper()
				if b, err := fs.Read(path, ""); (err == nil) != (want != "") || string(b) != want {
					t.Errorf("%s: %q, %v; want %q", when, b, err, want)
				}
			}
			for _, s := range []string{"one", "two"} {
				if err := fs.PublishSecret(db(s, s)); err != nil {
					t.Fatal(err)
				}
				reads(s, "delivered")
			}
			if err := rollBack(fs, path); err != nil {
				t.Fatal(err)
			}
			reads("one", "rolled back")
			if fs, err = New(cfg); err != nil { // which knows nothing of it yet
				t.Fatal(err)
			}
			reads("one", "at the next start")
			if err := errors.Join(os.Remove(path), plant(path)); err != nil {
				t.Fatal(err)
			}
			reads("", "planted after a start")
			if name == "directory" {
				return // nothing can be written there any more
			}
			if err := fs.PublishSecret(db("3", "three")); err != nil {
				t.Fatal(err)
			}
			reads("three", "delivered again")
			if err := errors.Join(os.Remove(path), plant(path)); err != nil {
				t.Fatal(err)
			}
			reads("", "planted after that")
		})
	}
}

// A file that another has written in place of the delivered one is not read,
// whatever its times say.
func TestForeignContentIsNotRead(t *testing.T) {
	dir := tempDir(t)
	path, set := filepath.Join(dir, "pw"), filepath.Join(dir, "tls")
	fs, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password"}}, Sets: []Set{pairSet(dir, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.PublishSecret(db("1", "good")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ target, name, path string }{{path, "", path}, {set, "password", filepath.Join(set, "password")}} {
		if b, err := fs.Read(tt.target, tt.name); err != nil || string(b) != "good" {
			t.Errorf("%s: %q, %v", tt.path, b, err)
		}
		st, err := os.Stat(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(tt.path, []byte("evil"), 0o600), os.Chtimes(tt.path, st.ModTime(), st.ModTime())); err != nil {
			t.Fatal(err)
		}
		if b, err := fs.Read(tt.target, tt.name); !errors.Is(err, errNotDelivered) {
			t.Errorf("%s, changed: %q, %v", tt.path, b, err)
		}
	}
	if _, err := fs.Read(set, "nope"); err == nil {
		t.Error("a file that the set does not have was read")
	}
}

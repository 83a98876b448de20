package access

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// rows are the lines of a file.
func rows(t *testing.T, path string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

// What somebody cut off at the end while nobody wrote to the file is found when
// it is opened again, is in the audit from then on, and fails its verification.
func TestAnEndThatWasCutOffIsFound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, path string, rows [][]byte)
		cut    bool
	}{
		{"nothing", func(*testing.T, string, [][]byte) {}, false},
		{"cut", func(t *testing.T, path string, rows [][]byte) { replace(t, path, rows[:3]) }, true},
		{"cut and made anew", func(t *testing.T, path string, rows [][]byte) {
			replace(t, path, rows[:3])
			a := openAudit(t, AuditConfig{Path: path})
			for i := range 10 {
				if err := a.Append(read(100 + i)); err != nil {
					t.Fatal(err)
				}
			}
			a.Close()
		}, true},
		{"removed", func(t *testing.T, path string, _ [][]byte) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"moved by logrotate", func(t *testing.T, path string, _ [][]byte) {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"the last line, which says that all is signed", func(t *testing.T, path string, rows [][]byte) {
			replace(t, path, rows[:len(rows)-1])
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, stamp, known := filepath.Join(t.TempDir(), "audit.jsonl"), newStamp(t), ""
			remember := func(hash string) error { known = hash; return nil }
			a := openAudit(t, AuditConfig{Path: path, Sign: stamp.sign, Remember: remember})
			for i := range 5 {
				if err := a.Append(read(i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(a.SignHead(t.Context()), a.Close()); err != nil {
				t.Fatal(err)
			}
			tt.change(t, path, rows(t, path))

			a = openAudit(t, AuditConfig{Path: path, Known: known})
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if (a.Cut() != nil) != tt.cut {
				t.Errorf("cut: %v", a.Cut())
			}
			v, err := verifyAll(t, path, stamp.keys())
			if err != nil || (v.Cut != nil) != tt.cut {
				t.Errorf("verify: %v, cut %v", err, v.Cut)
			}
		})
	}
}

// What is remembered is on the disk, or a power cut would look like an attack. It
// needs no signature: the HSM may be away.
func TestWhatIsRememberedIsOnTheDisk(t *testing.T) {
	var seen []string
	a := &Audit{cfg: AuditConfig{Remember: func(hash string) error { seen = append(seen, hash); return nil }}}
	a.w.path = filepath.Join(t.TempDir(), "audit.jsonl")
	if _, err := a.w.open(); err != nil {
		t.Fatal(err)
	}
	defer a.w.close()
	now := time.Now()
	a.end.at = now
	write := func(n int) {
		t.Helper()
		for i := range n {
			a.w.chain(read(i).appendTo(nil))
		}
		if err := a.w.drain(); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, n int) {
		t.Helper()
		if len(seen) != n {
			t.Errorf("%s: remembered %d times, want %d", what, len(seen), n)
		}
	}
	write(1)
	a.keepEnd(now.Add(signEvery), false)
	expect("a line that is not synced", 0)
	if err := a.w.sync(); err != nil {
		t.Fatal(err)
	}
	a.keepEnd(now.Add(signEvery-1), false)
	expect("too early", 0)
	a.keepEnd(now.Add(signEvery), false)
	expect("after five minutes", 1)
	first := a.w.prev
	write(1)
	a.keepEnd(now.Add(2*signEvery), true)
	expect("a later line that is not synced", 1)
	write(signLines)
	if err := a.w.sync(); err != nil {
		t.Fatal(err)
	}
	a.keepEnd(now.Add(signEvery+1), false)
	expect("after many lines", 2)
	if seen[0] != hex.EncodeToString(first[:]) || seen[1] != hex.EncodeToString(a.w.prev[:]) {
		t.Errorf("remembered %v", seen)
	}
	a.keepEnd(now.Add(9*signEvery), true)
	expect("nothing new", 2)
}

// The end of a long file is looked for a block at a time.
func TestAPlaceIsFoundAcrossBlocks(t *testing.T) {
	path, text := filepath.Join(t.TempDir(), "f"), []byte("needle")
	const size = 3<<20 + 17
	for _, at := range []int{0, 1, 17 - 3, 17, 1<<20 + 17 - 1, 2<<20 + 17 - 5, size - len(text)} {
		file := bytes.Repeat([]byte{'.'}, size)
		copy(file[at:], text)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := mentions(path, text); err != nil || !found {
			t.Errorf("at %d: %v, %v", at, found, err)
		}
	}
	if found, err := mentions(path, []byte("pin")); err != nil || found {
		t.Errorf("what is not there: %v, %v", found, err)
	}
}

func replace(t *testing.T, path string, rows [][]byte) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Join(rows, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

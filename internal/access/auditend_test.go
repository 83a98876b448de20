package access

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
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
		{"only what says that it was signed", func(t *testing.T, path string, rows [][]byte) {
			replace(t, path, rows[:len(rows)-1])
		}, false},
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
			_, err := verifyAll(t, path, stamp.keys())
			if _, broken := errors.AsType[*ChainError](err); broken != tt.cut {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

// What is remembered is on the disk, or a power cut would look like an attack;
// and of a signature that failed nothing is.
func TestWhatIsRememberedIsOnTheDisk(t *testing.T) {
	path, stamp := filepath.Join(t.TempDir(), "audit.jsonl"), newStamp(t)
	var a *Audit
	var seen []string
	a = openAudit(t, AuditConfig{Path: path, Sign: stamp.sign, Remember: func(hash string) error {
		if a.w.dirty { // its owner waits for this call
			t.Error("not all lines are synced")
		}
		seen = append(seen, hash)
		return nil
	}})
	if err := a.Append(read(1)); err != nil {
		t.Fatal(err)
	}
	if err := a.SignHead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || !bytes.Contains(rows(t, path)[2], []byte(`"hash":"`+seen[0]+`"`)) {
		t.Errorf("remembered %q", seen)
	}
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

package access

import (
	"bytes"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
			if err != nil || (v.Done() != nil) != tt.cut {
				t.Errorf("verify: %v, cut %v", err, v.Done())
			}
		})
	}
}

// What is remembered is on the disk, or a power cut would look like an attack. It
// needs no signature: the HSM may be away.
func TestWhatIsRememberedIsOnTheDisk(t *testing.T) {
	var seen []string
	var failure error
	a := &Audit{cfg: AuditConfig{Log: slog.New(slog.DiscardHandler), Remember: func(hash string) error { seen = append(seen, hash); return failure }}}
	a.w.path = filepath.Join(t.TempDir(), "audit.jsonl")
	a.cfg.Path, a.end.done = a.w.path, make(chan error, 1)
	if _, err := a.w.open(); err != nil {
		t.Fatal(err)
	}
	defer a.w.close()
	write := func() string {
		t.Helper()
		a.w.chain(read(1).appendTo(nil))
		if err := a.w.drain(); err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(a.w.prev[:])
	}
	expect := func(what string, want ...string) {
		t.Helper()
		if a.keepLastEnd(); !slices.Equal(seen, want) {
			t.Errorf("%s: remembered %q, want %q", what, seen, want)
		}
	}
	first := write()
	expect("a line that is not synced")
	if err := a.w.sync(); err != nil {
		t.Fatal(err)
	}
	expect("a line that is", first)
	write()
	expect("a later line that is not", first)
	if beside, err := ReadAuditEnd(a.w.path); err != nil || beside != first {
		t.Errorf("beside the file: %q, %v", beside, err)
	}
	if err := a.w.sync(); err != nil {
		t.Fatal(err)
	}
	second := hex.EncodeToString(a.w.prev[:])
	failure = errors.New("no room")
	expect("no room", first, second)
	failure = nil
	expect("once more", first, second, second)
	expect("nothing new", first, second, second)
}

// Who kills the agent cannot remove more unseen than what was written right
// before: the end is remembered each second, not only when it stops.
func TestTheEndIsRememberedWhileItIsWritten(t *testing.T) {
	path, known := filepath.Join(t.TempDir(), "audit.jsonl"), make(chan string, 100)
	a := openAudit(t, AuditConfig{Path: path, Remember: func(hash string) error { known <- hash; return nil }})
	for i := range 40 {
		if err := a.Append(read(i)); err != nil {
			t.Fatal(err)
		}
	}
	for last := ""; ; { // until it is the last line's, without a stop
		select {
		case last = <-known:
		case <-time.After(10 * time.Second):
			t.Fatalf("the last line is not remembered, but %s", last)
		}
		if last == a.Head().Hash && a.Head().Lines == 41 {
			return
		}
	}
}

// What is known of the end may be readable only some time after the start, and
// may have been removed.
func TestAnEndThatIsKnownLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := openAudit(t, AuditConfig{Path: path})
	if err := errors.Join(a.Append(read(1)), a.Close()); err != nil {
		t.Fatal(err)
	}
	there := a.Head().Hash
	for _, tt := range []struct {
		name, hash string
		says       string
	}{
		{"there", there, ""},
		{"not there", strings.Repeat("ab", 32), "lines at its end are missing"},
		{"removed", "", "has been removed or changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			if err := os.CopyFS(filepath.Dir(path), os.DirFS(filepath.Dir(a.cfg.Path))); err != nil {
				t.Fatal(err)
			}
			a := openAudit(t, AuditConfig{Path: path})
			if err := errors.Join(a.Append(read(2)), a.Expect(tt.hash), a.Expect(tt.hash), a.Close()); err != nil {
				t.Fatal(err)
			}
			if cut := a.Cut(); (cut != nil) != (tt.says != "") || cut != nil && !strings.Contains(cut.Error(), tt.says) {
				t.Errorf("cut: %v, want %q", cut, tt.says)
			}
			v, err := verifyAll(t, path, nil)
			if err != nil || (v.Done() != nil) != (tt.says != "") {
				t.Errorf("verify: %v, %v", err, v.Done())
			}
		})
	}
}

// Whatever is missing of a chain that is whole in itself is found by what is known
// of it otherwise.
func TestWhatIsMissingIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := openAudit(t, AuditConfig{Path: path})
	for i := range 20 {
		if err := a.Append(read(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Collect(bytes.Lines(text))
	head := a.Head().Hash
	forged := &Entry{Event: eventDropped, Outcome: "ok", Hash: hashOf(all[9])}
	for _, tt := range []struct {
		name string
		rows [][]byte
		says string
	}{
		{"nothing", all, ""},
		{"the first ten", all[10:], "beginning is missing"},
		{"the last ten", all[:len(all)-10], "end is missing"},
		{"the last line", append(slices.Clone(all[:len(all)-1]), bytes.Replace(all[len(all)-1], []byte(`"pid":7`), []byte(`"pid":8`), 1)), "end is missing"},
		{"everything", nil, "no line"},
		{"the first ten, with a word of somebody else for it", append(slices.Clone(all[10:]), chained(head, forged)), "beginning is missing"},
	} {
		v := Verifier{End: head}
		err := v.Read(bytes.NewReader(bytes.Join(tt.rows, nil)))
		if err == nil {
			err = v.Done()
		}
		if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
	v := Verifier{End: head, Growing: true}
	if err := v.Read(bytes.NewReader(append(bytes.Join(all, nil), `{"id":`...))); err != nil || v.Done() != nil {
		t.Errorf("a line that is being written: %v, %v", err, v.Done())
	}
}

// hashOf is what the next line has of a line.
func hashOf(row []byte) string {
	h := hashLine(bytes.TrimSuffix(row, []byte("\n")))
	return hex.EncodeToString(h[:])
}

// chained is an entry as a line after that of a hash.
func chained(prev string, e *Entry) []byte {
	return append(bytes.TrimSuffix(e.appendTo(nil), []byte("\n")), prev+"\"}\n"...)
}

// However the files are named by whoever set them aside, the chain says in which
// order they are.
func TestFilesAreReadInTheOrderOfTheChain(t *testing.T) {
	for _, names := range [][]string{
		{".2", ".1"}, {".10", ".9", ".2", ".1"}, {"-20300101", "-20300102"}, {"-20300101", "-20300101-2"},
		{".000001", ".1", ".000002"}, {".000001", "-20300101", ".2", ".000002", ".1"},
	} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		for i, name := range names {
			a := openAudit(t, AuditConfig{Path: path})
			if err := errors.Join(a.Append(read(i)), a.Close()); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 { // some while it is open, some after a restart
				a = openAudit(t, AuditConfig{Path: path})
			}
			if err := errors.Join(os.Rename(path, path+name), a.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(path+".000099", 0o700); err != nil { // is not one of them
			t.Fatal(err)
		}
		a := openAudit(t, AuditConfig{Path: path})
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		v, err := verifyAll(t, path, nil)
		files, _ := AuditFiles(path)
		if err == nil {
			err = v.Done()
		}
		if err != nil || len(files) != len(names)+1 {
			t.Errorf("%q: %d files, %v: %q", names, len(files), err, files)
		}
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

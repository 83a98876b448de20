package access

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func readAll(t *testing.T, r io.ReadCloser, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	return string(text)
}

// An audit that is being written to is read as one chain, up to a whole line, however
// often its file is set aside meanwhile.
func TestAnAuditIsReadWhileItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := openAudit(t, AuditConfig{Path: path, MaxSize: 4 << 10})
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 3000 && err == nil; i++ {
			err = a.Append(read(i))
		}
		done <- err
	}()
	for reading := true; reading; {
		select {
		case err := <-done:
			reading = false
			if err != nil {
				t.Fatal(err)
			}
		default:
		}
		r, err := OpenAuditLines(path, "")
		text := readAll(t, r, err)
		v := Verifier{}
		if err := v.Read(bytes.NewReader([]byte(text))); err != nil {
			t.Fatalf("after %d lines: %v", v.Lines, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := OpenAuditLines(path, "")
	v := Verifier{End: a.Head().Hash}
	if err := v.Read(bytes.NewReader([]byte(readAll(t, r, err)))); err != nil || v.Done() != nil || v.Lines != 3001 {
		t.Errorf("at the end: %d lines, %v, %v", v.Lines, err, v.Done())
	}
}

// The last lines are whole ones, and of a file of the audit.
func TestTheTailOfAnAudit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\nfo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{0: "", 1: "three\n", 2: "two\nthree\n", 3: "one\ntwo\nthree\n", 9: "one\ntwo\nthree\n"} {
		r, err := OpenAuditTail(path, n)
		if got := readAll(t, r, err); got != want {
			t.Errorf("the last %d: %q, want %q", n, got, want)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, not := range []string{link, dir, filepath.Join(dir, "none")} {
		if _, err := OpenAuditTail(not, 1); err == nil {
			t.Errorf("%s is read", not)
		}
		if _, err := OpenAuditLines(not, ""); err == nil {
			t.Errorf("%s is read whole", not)
		}
	}
}

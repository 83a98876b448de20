package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func openAudit(t *testing.T, cfg AuditConfig) *Audit {
	t.Helper()
	a, err := OpenAudit(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func read(i int) *Entry {
	return &Entry{ID: fmt.Sprint("r-", i), Time: time.Now(), Peer: &Peer{UID: 1, PID: 7, Unit: "app.service", How: HowPidfd},
		Kind: Secret, Name: "db", Event: "secret.read", Method: "GET", Status: 200, Outcome: "ok", Duration: 1500 * time.Microsecond}
}

// follow follows the chain through a text, from the hash before it on.
func follow(text []byte, prev string) (head string, lines int, err error) {
	v := Verifier{Head: prev}
	err = v.Read(bytes.NewReader(text))
	return v.Head, v.Lines, err
}

// eventually waits until f holds, for five seconds at most.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(5 * time.Second); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func TestAuditLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := openAudit(t, AuditConfig{Path: path})
	e := read(1)
	e.Name = "d\"b\n\xff<ü>"
	if err := a.Append(e); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Append(e); err == nil {
		t.Error("a closed audit takes lines")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(rows) != 2 {
		t.Fatalf("%d lines, want audit.opened and the read:\n%s", len(rows), text)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(rows[1]), &got); err != nil {
		t.Fatal(err)
	}
	caller, _ := got["caller"].(map[string]any)
	for _, tt := range []struct{ got, want any }{
		{got["id"], "r-1"}, {got["resource"], "secret/d\"b\n\ufffd<ü>"}, {got["event"], "secret.read"}, {got["method"], "GET"},
		{got["status"], 200.}, {got["outcome"], "ok"}, {got["duration"], 0.0015},
		{caller["uid"], 1.}, {caller["gid"], 0.}, {caller["pid"], 7.}, {caller["unit"], "app.service"}, {caller["how"], "pidfd"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %v, want %v in %s", tt.got, tt.want, rows[1])
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestAuditChainSurvivesRestartAndShowsTampering(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var head Head
	for run := range 3 {
		a := openAudit(t, AuditConfig{Path: path})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if err := a.Append(read(run*100 + i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		head = a.Head()
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, n, err := follow(text, strings.Repeat("0", 64))
	if err != nil || n != 153 || got != head.Hash {
		t.Fatalf("verify: %s, %d lines, %v; want %s, 153", got, n, err, head.Hash)
	}
	rows := bytes.SplitAfter(text, []byte("\n"))
	for name, damaged := range map[string][][]byte{
		"changed":   {rows[0], bytes.Replace(rows[1], []byte(`"db"`), []byte(`"dc"`), 1), bytes.Replace(rows[2], []byte(`"uid":1`), []byte(`"uid":2`), 1), rows[3]},
		"removed":   {rows[0], rows[2], rows[3]},
		"reordered": {rows[0], rows[2], rows[1], rows[3]},
		"torn":      {rows[0], rows[1][:20]},
		"foreign":   {rows[0], []byte("{}\n")},
	} {
		_, _, err := follow(bytes.Join(damaged, nil), "")
		if _, ok := errors.AsType[*ChainError](err); !ok {
			t.Errorf("%s: %v, want a ChainError", name, err)
		}
	}
}

// While the agent runs, not even the end can be cut off: the next line follows
// from one that is not there. What is missing at the beginning is said.
func TestAuditThatIsCutWhileItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := openAudit(t, AuditConfig{Path: path})
	for i := range 3 {
		if err := a.Append(read(i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "lines are written", func() bool { return a.Head().Lines == 4 })
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	if err := os.Truncate(path, int64(last)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Append(read(4)), a.Close()); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var broken *ChainError
	if _, _, err := follow(text, ""); !errors.As(err, &broken) || broken.Line != 4 {
		t.Errorf("the last line cut off: %v, want a ChainError in line 4", err)
	}
	first := bytes.IndexByte(text, '\n') + 1
	for _, tt := range []struct {
		text []byte
		want bool
	}{{text[:last], false}, {text[first:last], true}} {
		v := Verifier{}
		if err := errors.Join(v.Read(bytes.NewReader(tt.text)), v.Done()); (err != nil) != tt.want {
			t.Errorf("%d bytes: %v", len(tt.text), err)
		}
	}
}

func TestAuditCutsATornLineOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := openAudit(t, AuditConfig{Path: path})
	if err := errors.Join(a.Append(read(1)), a.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"id":"tor`)
	f.Close()
	a = openAudit(t, AuditConfig{Path: path})
	if err := errors.Join(a.Append(read(2)), a.Close()); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	if _, n, err := follow(text, ""); err != nil || n != 4 {
		t.Errorf("%d lines, %v", n, err)
	}
	if !strings.Contains(string(text), `"count":10`) {
		t.Errorf("the 10 bytes cut off are not recorded:\n%s", text)
	}
}

func TestAuditHasOneWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	openAudit(t, AuditConfig{Path: path})
	if _, err := OpenAudit(AuditConfig{Path: path}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second open: %v", err)
	}
}

func TestAuditFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := openAudit(t, AuditConfig{Path: path})
	if err := a.Append(read(1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "lines are written", func() bool { return a.Head().Lines == 2 })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file is made anew", func() bool { _, err := os.Stat(path); return err == nil })
	if err := errors.Join(a.Append(read(2)), a.Close()); err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(path + ".1")
	second, _ := os.ReadFile(path)
	head, _, err := follow(first, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, n, err := follow(second, head); err != nil || n != 1 {
		t.Errorf("second file: %d lines, %v", n, err)
	}
}

// tmpfs mounts a small file system, or skips.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAuditOnAFullDisk(t *testing.T) {
	for _, allow := range []bool{false, true} {
		t.Run(fmt.Sprintf("allow=%v", allow), func(t *testing.T) {
			dir := tmpfs(t, "64k")
			path := filepath.Join(dir, "audit.jsonl")
			a := openAudit(t, AuditConfig{Path: path, Allow: allow, Buffer: 100 << 10})
			filler := filepath.Join(dir, "filler")
			os.WriteFile(filler, make([]byte, 1<<20), 0o600) // as much of it as fits
			eventually(t, "the full disk is noticed", func() bool { return a.Err() != nil })

			refused := 0
			for i := range 1000 {
				if a.Append(read(i)) != nil {
					refused++
				}
			}
			if want := map[bool]int{false: 1000, true: 0}[allow]; refused != want {
				t.Errorf("%d refused, want %d", refused, want)
			}
			if err := a.Append(read(0)); !allow && !errors.Is(err, unix.ENOSPC) {
				t.Errorf("refused with %v, want ENOSPC", err)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if allow { // make room for what has waited
				if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "the file works again", func() bool { return a.Err() == nil })
			if err := errors.Join(a.Append(read(1)), a.Close()); err != nil {
				t.Fatal(err)
			}
			text, _ := os.ReadFile(path)
			if _, n, err := follow(text, ""); err != nil {
				t.Errorf("after %d lines: %v", n, err)
			}
			if allow && !strings.Contains(string(text), "audit.lost") {
				t.Error("lost lines are not counted")
			}
		})
	}
}

// Lines wait a moment for others, unless there are many: then a second buffer is
// all that a load needs.
func TestAuditManyLinesAreWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openAudit(t, AuditConfig{Path: filepath.Join(t.TempDir(), "audit.jsonl")})
		began := time.Now()
		after := func(what string, lines uint64, d time.Duration) {
			t.Helper()
			synctest.Wait()
			if got := a.Head().Lines; got != lines || time.Since(began) != d {
				t.Errorf("%s: %d lines after %v, want %d after %v", what, got, time.Since(began), lines, d)
			}
		}
		after("one line", 0, 0)
		time.Sleep(linger)
		after("one line", 1, linger) // that the audit was opened
		n := uint64(1)
		for size := 0; size < atOnce; n++ {
			e := read(int(n))
			size += len(e.appendTo(nil))
			if err := a.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		after("many", n, linger)
	})
}

func TestAppendDoesNotAllocateMuch(t *testing.T) {
	a := openAudit(t, AuditConfig{Path: filepath.Join(t.TempDir(), "a")})
	e := read(1)
	if n := testing.AllocsPerRun(1000, func() {
		if err := a.Append(e); err != nil {
			t.Error(err)
		}
	}); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	a, err := OpenAudit(AuditConfig{Path: filepath.Join(b.TempDir(), "a"), Allow: true})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	e := read(1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := a.Append(e); err != nil {
				b.Error(err)
			}
		}
	})
}

package files

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// killEnv is the directory that a child delivers to.
const killEnv = "SIGNET_TEST_KILL_DIR"

func killConfig(dir string) Config {
	return Config{Sets: []Set{pairSet(dir, 1)}, Files: []File{
		{Path: filepath.Join(dir, "file"), Secret: "db", Field: "password", Mode: 0o640},
		{Path: filepath.Join(dir, "kept"), Secret: "db", Field: "password", KeepPrevious: true},
	}}
}

// TestKillChild is what is killed: it delivers for ever.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		t.Skip("not a child")
	}
	f, err := New(killConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		if err := f.PublishSecret(both(n)); err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			os.Stdout.WriteString("begun\n")
		}
	}
}

// survives kills a delivering process n times. What it leaves is whole and of
// one generation, and after a start all is right and nothing is left over.
func survives(t *testing.T, n int) {
	dir := memDir(t)
	whole := func(text string) bool { return strings.HasSuffix(text, "\nend") && len(text) > 300 }
	for i := range n {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
		cmd.Env = append(os.Environ(), killEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		<-time.After(rand.N(5 * time.Millisecond))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed

		user, password, err := readSet(filepath.Join(dir, "tls"))
		if err != nil || user != password || !whole(user) {
			t.Fatalf("kill %d: the set is missing, mixed or partial: %v", i, err)
		}
		for _, name := range []string{"file", "kept"} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !whole(string(b)) {
				t.Fatalf("kill %d: %s is missing or partial: %v, %d bytes", i, name, err, len(b))
			}
		}
		keptIsTheLast(t, dir)
		f, err := New(killConfig(dir))
		if err != nil {
			t.Fatal(err)
		}
		l := newLane(f, dir)
		l.targets = f.sorted()
		l.tidy()
		if err := f.PublishSecret(both(0)); err != nil {
			t.Fatalf("kill %d: after a start: %v", i, err)
		}
		want := passwordOf(both(0))
		user, password, err = readSet(filepath.Join(dir, "tls"))
		if err != nil || user != want || password != want || !holds(filepath.Join(dir, "file"), want, 0o640) || !holds(filepath.Join(dir, "kept"), want, 0o600) {
			t.Fatalf("kill %d: not right after a start: %v", i, err)
		}
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range names {
			if !slices.Contains([]string{"tls", "file", "kept", ".signet-set-tls", ".signet-prev-kept"}, e.Name()) {
				t.Errorf("kill %d: %s is left over", i, e.Name())
			}
		}
		if n := len(generations(t, dir)); n > 3 {
			t.Errorf("kill %d: %d generations are left", i, n)
		}
	}
	t.Logf("%d kills: no file wrong, nothing left over", n)
}

// keptIsTheLast looks whether a roll-back would lead to what was in the file last.
func keptIsTheLast(t *testing.T, dir string) {
	t.Helper()
	d, err := openDir(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := d.previous("kept"); err != nil {
		return // killed before the exchange
	}
	number := func(name string) int {
		b, err := d.read(name, maxRead)
		first, _, _ := strings.Cut(string(b), "\n")
		n, err2 := strconv.Atoi(first)
		if err := errors.Join(err, err2); err != nil || string(b) != passwordOf(both(n)) {
			t.Errorf("%s: %v, %.9q", name, err, b)
		}
		return n
	}
	if is, was := number("kept"), number(prevPrefix+"kept"); is != was+1 {
		t.Errorf("%d is in the file, and %d is kept", is, was)
	}
}

func TestKilledAtAnyMoment(t *testing.T) { survives(t, 20) }

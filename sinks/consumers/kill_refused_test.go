package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/sinks/files"
)

// refusedEnv is the directory that a child delivers to, and settleEnv says that it is
// to settle.
const refusedEnv, settleEnv = "SIGNET_TEST_REFUSED_DIR", "SIGNET_TEST_REFUSED_SETTLE"

// TestRefusedChild is what is killed: it delivers certificates to a file and to a set,
// of which the consumer takes up one in four. To settle it only does what is left to
// do, until that is done or refused.
func TestRefusedChild(t *testing.T) {
	dir := os.Getenv(refusedEnv)
	if dir == "" {
		t.Skip("not a child")
	}
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	settle := os.Getenv(settleEnv) != ""
	if settle {
		noRetryAt(t, st)
	}
	file, set := filepath.Join(dir, "file"), filepath.Join(dir, "set")
	const template = `{{ (certificate "web").serial }}`
	var cs *Consumers
	var failed atomic.Bool
	fs, err := files.New(files.Config{
		Files:   []files.File{{Path: file, Template: template, KeepPrevious: true}},
		Sets:    []files.Set{{Dir: set, Keep: 1, Entries: []files.File{{Path: "web", Template: template}}}},
		Writing: func(ds []files.Delivery) error { return cs.Writing(changesOf(ds)) },
		Written: func(ds []files.Delivery) { cs.Written(changesOf(ds)) },
		TakenUp: func(target string, gen int64) bool { return cs.TakenUp(target, gen) }})
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("cd %s; n=$(cat file); echo $n >>read; [ $((n %% 4)) = 0 ] || exit 1; echo $n >>taken", dir)
	way := Exec{Argv: []string{"/bin/sh", "-c", script}}
	cs, err = New(Config{Consumers: []Consumer{{Name: "app", Targets: []Target{{Path: file, Way: way}, {Path: set, Way: way}}}}, Store: st, Files: fs,
		Failed: func(Failure) { failed.Store(true) }})
	if err != nil {
		t.Fatal(err)
	}
	item := filepath.Join(dir, "item") // as an agent has it on disk before it publishes
	last, _ := os.ReadFile(item)
	n, _ := strconv.Atoi(string(last))
	c := *newCA(t).issue(t, "web.example")
	publish := func() {
		next := c
		next.Serial = strconv.Itoa(n)
		if err := fs.PublishCertificate(&next); err != nil {
			t.Fatal(err)
		}
	}
	if n > 0 {
		publish()
	}
	go cs.Run(context.Background())
	if settle {
		eventually(t, 30*time.Second, "it settles", func() bool {
			s := cs.Status()[0]
			return !s.Pending || failed.Load()
		})
		return
	}
	for {
		n++
		if err := errors.Join(os.WriteFile(item+".new", []byte(strconv.Itoa(n)), 0o600), os.Rename(item+".new", item)); err != nil {
			t.Fatal(err)
		}
		publish()
		<-time.After(rand.N(250 * time.Millisecond))
	}
}

// noRetryAt is when the wait after a failure is over.
func noRetryAt(t *testing.T, st *store.Store) {
	t.Helper()
	var rec record
	records, err := st.Records(kind)
	if err != nil || records["app"] == nil {
		return // killed before the first
	}
	if err := json.Unmarshal(records["app"], &rec); err != nil {
		t.Fatal(err)
	}
	rec.RetryAt = time.Time{}
	blob, err := json.Marshal(rec)
	if err := errors.Join(err, st.SaveRecord(kind, "app", blob)); err != nil {
		t.Fatal(err)
	}
}

// refusedAndKilled kills the process at random moments, and counts how often the
// consumer was left with something that it has never taken up.
func refusedAndKilled(t *testing.T, times int) (wrong int) {
	t.Helper()
	dir := tempDir(t)
	child := func(settle string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRefusedChild$")
		cmd.Env = append(os.Environ(), refusedEnv+"="+dir, settleEnv+"="+settle)
		return cmd
	}
	lines := func(name string) []string {
		b, _ := os.ReadFile(filepath.Join(dir, name)) // not there at first
		return strings.Fields(string(b))
	}
	known := false
	for i := range times {
		cmd := child("")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(60*time.Millisecond + rand.N(time.Second))
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if out, err := child("yes").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		taken, read, file, set := lines("taken"), lines("read"), lines("file"), lines("set/web")
		if !known && (len(file) == 0 || !slices.Contains(taken, file[0])) {
			continue // there may be nothing to go back to: what is written while a try runs may be what it was about
		}
		known = true
		if !slices.Contains(taken, file[0]) || !slices.Equal(file, set) || read[len(read)-1] != file[0] {
			wrong++
			t.Logf("kill %d: %v in the file, %v in the set, %v read, %v taken up", i, file, set, read[max(0, len(read)-5):], taken)
		}
	}
	t.Logf("%d kills, %d taken up of %d read: %d times left with what was never taken up", times, len(lines("taken")), len(lines("read")), wrong)
	return wrong
}

// What was taken up last is known at any moment, whenever the agent is killed.
func TestKilledAmidRefusals(t *testing.T) {
	if n := refusedAndKilled(t, 8); n != 0 {
		t.Errorf("%d times left with what was never taken up", n)
	}
}

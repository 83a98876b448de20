//go:build bench

package consumers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/files"
)

// TestFiguresReloads measures what a change of 1,000 files costs the consumers:
// one reload each, and nothing while nothing happens.
func TestFiguresReloads(t *testing.T) {
	const n, consumerCount = 1000, 10
	dir, store := tempDir(t), newStore()
	var reloads [consumerCount]atomic.Int64
	var all []Consumer
	var cfg files.Config
	for i := range consumerCount {
		var targets []string
		for j := range n / consumerCount {
			path := filepath.Join(dir, fmt.Sprintf("%d-%d", i, j))
			targets = append(targets, path)
			cfg.Files = append(cfg.Files, files.File{Path: path, Secret: fmt.Sprintf("s%d-%d", i, j), Field: "v"})
		}
		all = append(all, counting(fmt.Sprintf("app%d", i), &reloads[i], nil, targets...))
	}
	var cs *Consumers
	cfg.InTurn = func(targets []string, deliver func([]string)) { cs.InTurn(targets, deliver) }
	cfg.Writing = func(ds []files.Delivery) error { return cs.Writing(changesOf(ds)) }
	cfg.Written = func(ds []files.Delivery) { cs.Written(changesOf(ds)) }
	fs, err := files.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := startOn(t, store, fs, all...)
	cs = r.Consumers
	publish := func(version string) {
		for i := range consumerCount {
			for j := range n / consumerCount {
				s := &sinks.Secret{Name: fmt.Sprintf("s%d-%d", i, j), Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte(version))})}
				if err := fs.PublishSecret(s); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	rows := []string{"figure | measured | required"}
	for round := range 3 {
		before, began := store.saves, time.Now()
		publish(fmt.Sprint("v", round))
		took := time.Since(began)
		eventually(t, 30*time.Second, "all reloaded", func() bool {
			for i := range reloads {
				if reloads[i].Load() != int64(round+1) {
					return false
				}
			}
			return true
		})
		const row = "1,000 changed files of 10 consumers, round %d | 10 reloads; delivered in %v with the time to read the last, " +
			"%d writes to the queue | one reload per consumer"
		rows = append(rows, fmt.Sprintf(row,
			round+1, took.Round(time.Millisecond), store.saves-before))
	}
	eventually(t, 30*time.Second, "nothing is pending", func() bool {
		for _, s := range cs.Status() {
			if s.Pending {
				return false
			}
		}
		return true
	})
	rows = append(rows, idle(t))
	t.Log("\n" + strings.Join(rows, "\n"))
	for i := range reloads {
		if reloads[i].Load() != 3 {
			t.Errorf("consumer %d: %d reloads for 3 bursts", i, reloads[i].Load())
		}
	}
}

// A thousand are 1,000 files of 10 consumers, with the queue on disk.
type thousand struct {
	fs      *files.Files
	cs      *Consumers
	reloads [10]atomic.Int64
	round   int
}

func newThousand(t *testing.T, st Store, dir string) *thousand {
	t.Helper()
	k := &thousand{}
	cfg := files.Config{
		InTurn:  func(targets []string, deliver func([]string)) { k.cs.InTurn(targets, deliver) },
		Writing: func(ds []files.Delivery) error { return k.cs.Writing(changesOf(ds)) },
		Written: func(ds []files.Delivery) { k.cs.Written(changesOf(ds)) },
		TakenUp: func(target string, gen int64) bool { return k.cs.TakenUp(target, gen) },
	}
	targets := make([][]string, len(k.reloads))
	for i := range 1000 {
		path := filepath.Join(dir, fmt.Sprintf("f%04d", i))
		targets[i%len(targets)] = append(targets[i%len(targets)], path)
		cfg.Files = append(cfg.Files, files.File{Path: path, Secret: "s", Template: fmt.Sprintf("%d {{ .fields.v }}", i), KeepPrevious: true})
	}
	var all []Consumer
	for i := range targets {
		all = append(all, counting(fmt.Sprintf("app%d", i), &k.reloads[i], nil, targets[i]...))
	}
	var err error
	if k.fs, err = files.New(cfg); err != nil {
		t.Fatal(err)
	}
	if k.cs, err = New(Config{Consumers: all, Store: st, Files: k.fs}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = k.fs.Run(ctx) })
	running.Go(func() { _ = k.cs.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return k
}

// change changes all files. The consumers have not been told yet.
func (k *thousand) change(t *testing.T) time.Duration {
	t.Helper()
	k.round++
	version := fmt.Sprint("v", k.round)
	s := &sinks.Secret{Name: "s", Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte(version))})}
	began := time.Now()
	if err := k.fs.PublishSecret(s); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// reloaded waits for the consumers, and for a newer delivery to find nobody reading.
func (k *thousand) reloaded(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "nothing is pending", func() bool {
		return !slices.ContainsFunc(k.cs.Status(), func(s Status) bool { return s.Pending })
	})
	for i := range k.reloads {
		if got := k.reloads[i].Load(); got != int64(k.round) {
			t.Errorf("consumer %d: %d reloads for %d changes", i, got, k.round)
		}
	}
	<-time.After(reading)
}

// TestFiguresThousandFiles measures the change of 1,000 files, queue included,
// against a bare loop of write, fsync and rename.
func TestFiguresThousandFiles(t *testing.T) {
	const rounds = 9
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // as the agent has it
	dir, bareDir := t.TempDir(), t.TempDir()         // fsync is to count
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := errors.Join(st.SaveRecord("bench", "any", nil), os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)); err != nil { // the peak begins here
		t.Fatal(err)
	}
	before := memory(t, "VmRSS:")
	k := newThousand(t, st, dir)
	k.change(t)
	k.reloaded(t)
	var ours, reference []time.Duration
	var ratios []float64 // of each round, as others may use the disk too
	for i := range rounds {
		began := time.Now()
		for n := range 1000 {
			bare(t, filepath.Join(bareDir, fmt.Sprintf("f%04d", n)), []byte(fmt.Sprintf("%d v%d", n, i)))
		}
		reference = append(reference, time.Since(began))
		ours = append(ours, k.change(t))
		ratios = append(ratios, float64(ours[i])/float64(reference[i]))
		k.reloaded(t)
	}
	peak := memory(t, "VmHWM:") - before
	slices.Sort(ours)
	slices.Sort(reference)
	slices.Sort(ratios)
	rows := []string{"figure | measured | required",
		fmt.Sprintf("1,000 changed files of 10 consumers, queue on disk | %v, bare loop %v, ratio %.2f | <= 1.4",
			ours[rounds/2], reference[rounds/2], ratios[rounds/2]),
		fmt.Sprintf("reloads of a consumer for %d changes | %d | one each", k.round, k.reloads[0].Load()),
		fmt.Sprintf("growth of RSS, at its peak | %.1f MB | < 20 MB", float64(peak)/(1<<20)), idle(t)}
	t.Log("\n" + strings.Join(rows, "\n"))
	if ratios[rounds/2] > 1.4 || peak > 20<<20 {
		t.Error("not within what is required")
	}
}

// bare is the least that writing a file safely takes: write, fsync, rename.
func bare(t *testing.T, path string, content []byte) {
	t.Helper()
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close(), os.Rename(path+".tmp", path)); err != nil {
		t.Fatal(err)
	}
}

// memory is a line of /proc/self/status, in bytes, once garbage is collected.
func memory(t *testing.T, name string) int64 {
	t.Helper()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), name)
	kb, err := strconv.ParseInt(strings.Fields(rest + " ?")[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// idle holds that nothing is done while nothing happens.
func idle(t *testing.T) string {
	t.Helper()
	used := func() time.Duration {
		var ru syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
			t.Fatal(err)
		}
		return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	}
	const watched = 10 * time.Second
	cpu := used()
	<-time.After(watched)
	cpu = used() - cpu
	if cpu > watched/100 {
		t.Errorf("%v of CPU in %v", cpu, watched)
	}
	return fmt.Sprintf("CPU while idle | %v in %v, %.3f %% | about none", cpu, watched, 100*cpu.Seconds()/watched.Seconds())
}

// TestFiguresKilled kills the process at 200 random moments during deliveries.
func TestFiguresKilled(t *testing.T) {
	n := killWhileDelivering(t, 200)
	t.Logf("\nfigure | measured | required\nreloads forgotten after SIGKILL at 200 random moments | %d | 0", n)
	if n != 0 {
		t.Errorf("%d reloads forgotten", n)
	}
}

//go:build bench

package files

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

func median[T cmp.Ordered](ds []T) T {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

// bare is the least that writing a file safely takes: write, fsync, rename.
func bare(path string, content []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	f.Close()
	return err
}

// TestFiguresOneFile: how long from a published item to the renamed file.
func TestFiguresOneFile(t *testing.T) {
	for _, where := range []struct{ name, dir string }{{"tmpfs", memDir(t)}, {"disk", tempDir(t)}} {
		f, err := New(Config{Files: []File{{Path: filepath.Join(where.dir, "f"), Secret: "db", Field: "password"}}})
		if err != nil {
			t.Fatal(err)
		}
		var ours, reference []time.Duration
		for i := range 300 {
			start := time.Now()
			if err := f.PublishSecret(db(strconv.Itoa(i), rand.Text())); err != nil {
				t.Fatal(err)
			}
			ours = append(ours, time.Since(start))
			start = time.Now()
			if err := bare(filepath.Join(where.dir, "bare"), []byte(rand.Text())); err != nil {
				t.Fatal(err)
			}
			reference = append(reference, time.Since(start))
		}
		m, r := median(ours), median(reference)
		t.Logf("%-6s item to renamed file, both fsyncs: median %v, p99 %v; bare write+fsync+rename %v; required < 10ms on tmpfs", where.name, m, ours[len(ours)*99/100], r)
		if where.name == "tmpfs" && m > 10*time.Millisecond {
			t.Errorf("%v on tmpfs", m)
		}
	}
}

// TestFiguresThousandFiles: 1,000 files of one secret, all changed, fsync on.
func TestFiguresThousandFiles(t *testing.T) {
	const n, rounds = 1000, 9
	dir := tempDir(t)
	var cfg Config
	before := rss(t)
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins here
		t.Fatal(err)
	}
	for i := range n {
		cfg.Files = append(cfg.Files, File{Path: filepath.Join(dir, fmt.Sprintf("f%04d", i)), Secret: "db", Template: fmt.Sprintf("%d {{ .fields.password }}", i), Mode: 0o640})
	}
	var calls, events int
	cfg.InTurn = func(targets []string, deliver func([]string)) { deliver(targets) }
	cfg.Writing = func(ds []Delivery) error { calls++; events += len(ds); return nil }
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Run(ctx) })
	if err := f.PublishSecret(db("first", rand.Text())); err != nil {
		t.Fatal(err)
	}
	bareDir := tempDir(t)
	var ours, reference []time.Duration
	var ratios []float64 // of each round, as others may use the disk too
	for i := range rounds {
		password := rand.Text()
		start := time.Now()
		for k := range n {
			if err := bare(filepath.Join(bareDir, strconv.Itoa(k)), []byte(strconv.Itoa(k)+" "+password)); err != nil {
				t.Fatal(err)
			}
		}
		reference = append(reference, time.Since(start))
		start = time.Now()
		if err := f.PublishSecret(db(strconv.Itoa(i), password)); err != nil {
			t.Fatal(err)
		}
		ours = append(ours, time.Since(start))
		ratios = append(ratios, float64(ours[i])/float64(reference[i]))
	}
	peak := status(t, "VmHWM:") - before
	grown := rss(t) - before
	ratio := median(ratios)
	<-time.After(time.Second) // events of the last round
	idle := cpu(t)
	<-time.After(3 * time.Second)
	idle = cpu(t) - idle
	t.Logf("1,000 files, all changed: %v, bare loop %v, ratio %.2f (required <= 1.4); queue noted %d times for %d changes; RSS grew %.1f MB, at its peak %.1f MB (required < 20); CPU idle afterwards %v in 3s (required about none)",
		median(ours), median(reference), ratio, calls, events, float64(grown)/(1<<20), float64(peak)/(1<<20), idle)
	if ratio > 1.4 || peak > 20<<20 || idle > 30*time.Millisecond {
		t.Error("not within what is required")
	}
	stop()
	wg.Wait()
}

// rss is the resident memory once garbage is collected.
func rss(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	return status(t, "VmRSS:")
}

// status is a line of /proc/self/status, in bytes.
func status(t *testing.T, name string) int64 {
	t.Helper()
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

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// TestFiguresReaders: a reader loop during 10,000 replacements, of a set and of
// a file.
func TestFiguresReaders(t *testing.T) {
	readersSeeOneGeneration(t, 10000)

	path := filepath.Join(memDir(t), "f")
	r := start(t, File{Path: path, Secret: "db", Field: "password"})
	content := func(i int) string { return strings.Repeat(strconv.Itoa(i)+"\n", 2000) + "end" }
	if err := r.PublishSecret(db("0", content(0))); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var reads, bad int
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			b, err := os.ReadFile(path)
			first, _, _ := strings.Cut(string(b), "\n")
			if i, err2 := strconv.Atoi(first); err != nil || err2 != nil || string(b) != content(i) {
				bad++
			}
			reads++
		}
	})
	for i := range 10000 {
		s := &sinks.Secret{Name: "db", Version: strconv.Itoa(i), Fields: sinks.FieldsOf(map[string]secret.Value{"password": secret.New([]byte(content(i)))})}
		if err := r.PublishSecret(s); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d reads of a file during 10,000 replacements: %d partial, empty, missing or mixed (required 0)", reads, bad)
	if bad != 0 {
		t.Errorf("%d bad reads", bad)
	}
}

// TestFiguresKilled: SIGKILL at 200 random moments during deliveries.
func TestFiguresKilled(t *testing.T) { survives(t, 200) }

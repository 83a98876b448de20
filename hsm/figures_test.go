//go:build bench

package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// signRounds and killRounds are how often a measurement is made; what is printed are
// medians. A round of signing is short and measures the reference just before, so
// that a change of the machine's speed, which is more than what is measured, falls on
// both: the ratio is the median of those of the rounds.
const (
	signRounds  = 15
	signTime    = 500 * time.Millisecond
	killRounds  = 7
	manyCallers = 16
)

// What is required, and nowhere else written.
var (
	signingFigures = []struct {
		typ             hsm.KeyType
		kind            string
		cpu, throughput limit // against the C program
	}{
		{hsm.RSA2048, "rsa", limit{most: 1.06}, limit{least: 0.93}},
		{hsm.ECDSAP256, "ec", limit{most: 1.6}, limit{least: 0.65}},
	}
	idleMemory    = limit{most: 10, unit: " MB"}  // of a worker
	afterKillTime = limit{most: 500, unit: " ms"} // to the first signature
	openingCalls  = limit{most: 4}                // of each function, with 1,000 keys
	replaceCalls  = limit{most: 1000}             // of each function, with 1,000 keys in use
)

// A limit is what a figure must keep to; the zero limit is none.
type limit struct {
	most, least float64
	unit        string
}

func (l limit) String() string {
	switch {
	case l.most > 0:
		return fmt.Sprintf("<= %v%s", l.most, l.unit)
	case l.least > 0:
		return fmt.Sprintf(">= %v%s", l.least, l.unit)
	}
	return "-"
}

// hold fails the test if a figure is beyond its limit.
func (l limit) hold(t *testing.T, what string, got float64) {
	t.Helper()
	if l.most > 0 && got > l.most || got < l.least {
		t.Errorf("%s: %.2f%s, want %v", what, got, l.unit, l)
	}
}

// A measure is signatures a second, and microseconds of CPU for each.
type measure struct{ rate, cpu float64 }

// TestFigures prints what the worker costs against a C program that calls the
// same module with the same key, and fails if that is more than is required.
func TestFigures(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("the figures are about two CPUs")
	}
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Log = slog.New(slog.DiscardHandler)
	token, _ := open(t, cfg)
	loop := filepath.Join(s.Dir, "cloop")
	if out, err := exec.Command("cc", "-O2", "-o", loop, "testdata/cloop.c", "-ldl", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("build cloop: %v\n%s", err, out)
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tMEASURED\tC LOOP\tRATIO\tREQUIRED")
	for _, tt := range signingFigures {
		key := newKey(t, token, string(tt.typ), tt.typ)
		var c1, c2, one, many []measure
		for range signRounds {
			c1 = append(c1, cLoop(t, s, loop, key, tt.kind, 1))
			one = append(one, callers(t, token, key, 1))
			c2 = append(c2, cLoop(t, s, loop, key, tt.kind, 2))
			many = append(many, callers(t, token, key, manyCallers))
		}
		cpu := func(m measure) float64 { return m.cpu }
		rate := func(m measure) float64 { return m.rate }
		row := func(what, unit string, got, ref []measure, of func(measure) float64, required limit) {
			var g, r, ratios []float64
			for i := range got {
				g, r, ratios = append(g, of(got[i])), append(r, of(ref[i])), append(ratios, of(got[i])/of(ref[i]))
			}
			fmt.Fprintf(w, "%s %s\t%.0f %s\t%.0f %s\t%.2f\t%v\n", tt.typ, what, median(g), unit, median(r), unit, median(ratios), required)
			required.hold(t, string(tt.typ)+" "+what, median(ratios))
		}
		row("CPU per signature, 1 caller, 1 thread in C", "us", one, c1, cpu, tt.cpu)
		row("CPU per signature, 16 callers, 2 threads in C", "us", many, c2, cpu, tt.cpu)
		row("throughput, 16 callers, 2 threads in C", "/s", many, c2, rate, tt.throughput)
		row("throughput, 1 caller, 1 thread in C", "/s", one, c1, rate, limit{})
	}
	workerMemory(t, w)
	afterKill(t, w)
	manyKeys(t, w)
	w.Flush()
	t.Log("\n" + out.String())
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// cLoop measures the C program.
func cLoop(t *testing.T, s *hsmtest.SoftHSM, loop string, key *hsm.Key, kind string, threads int) (m measure) {
	t.Helper()
	text := s.Run(loop, s.Module, s.Label, hsmtest.PIN, key.Info().ID, kind, strconv.Itoa(threads), fmt.Sprint(signTime.Seconds()))
	if _, err := fmt.Sscan(text, &m.rate, &m.cpu); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return m
}

// callers measures signatures through the worker, and the CPU of both processes.
func callers(t *testing.T, token *hsm.Token, key *hsm.Key, n int) measure {
	t.Helper()
	pid := token.Status().PID
	digest := make([]byte, 32)
	var count atomic.Int64
	var wg sync.WaitGroup
	start, cpu := time.Now(), cpuOf(t, os.Getpid())+cpuOf(t, pid)
	for range n {
		wg.Go(func() {
			for time.Since(start) < signTime {
				if _, err := key.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
					t.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	wall := time.Since(start)
	cpu = cpuOf(t, os.Getpid()) + cpuOf(t, pid) - cpu
	return measure{float64(count.Load()) / wall.Seconds(), cpu.Seconds() * 1e6 / float64(count.Load())}
}

// cpuOf is the CPU time of a process with all its threads.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// workerMemory measures what a worker takes up when it has just opened the token,
// after 10,000 signatures, and idle. It gives back what it does not need at the
// second look at the token's health, which takes 5 s each.
func workerMemory(t *testing.T, w *tabwriter.Writer) {
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Log = slog.New(slog.DiscardHandler)
	token, _ := open(t, cfg)
	row := func(when string, required limit) {
		mb := resident(t, token.Status().PID)
		fmt.Fprintf(w, "memory of the worker, %s\t%.1f MB\t-\t-\t%v\n", when, mb, required)
		required.hold(t, "memory of the worker, "+when, mb)
	}
	row("token opened", limit{})
	key := newKey(t, token, "host", hsm.ECDSAP256)
	for range 10_000 {
		if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
			t.Fatal(err)
		}
	}
	row("10,000 signatures made", limit{})
	time.Sleep(12 * time.Second)
	row("idle", idleMemory)
}

// resident is the memory of a process in MB.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / 1e6
}

// afterKill measures how long a caller waits whose worker was just killed.
func afterKill(t *testing.T, w *tabwriter.Writer) {
	s, ledger, guard := fresh(t)
	cfg := s.Config(ledger, guard)
	cfg.Log = slog.New(slog.DiscardHandler)
	token, _ := open(t, cfg)
	key := newKey(t, token, "host", hsm.ECDSAP256)
	for i := range 99 {
		newKey(t, token, fmt.Sprintf("k%d", i), hsm.ECDSAP256)
	}
	var waits []time.Duration
	for range killRounds {
		// Not at once after the last kill: workers are started once a second.
		time.Sleep(1500 * time.Millisecond)
		if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := signOnce(key); err != nil {
			t.Fatal(err)
		}
		waits = append(waits, time.Since(start))
	}
	slices.Sort(waits)
	const what = "first signature after a kill, 100 keys"
	wait := float64(waits[len(waits)/2].Microseconds()) / 1000
	fmt.Fprintf(w, "%s\t%.0f ms\t-\t-\t%v\n", what, wait, afterKillTime)
	afterKillTime.hold(t, what, wait)
}

// manyKeys measures the opening of a token with 1,000 keys, and counts the calls
// that it takes; and those of a worker that replaces another while all are in use.
func manyKeys(t *testing.T, w *tabwriter.Writer) {
	const keys = 1000
	s := hsmtest.NewShim(t)
	ledger := &hsmtest.Ledger{}
	cfg := s.SoftHSM.Config(ledger, nil)
	cfg.Log = slog.New(slog.DiscardHandler)
	token, stop := open(t, cfg)
	for i := range keys {
		newKey(t, token, fmt.Sprintf("k%d", i), hsm.ECDSAP256)
	}
	stop()
	var waits []time.Duration
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		token = hsm.New(cfg)
		done := make(chan error, 1)
		go func() { done <- token.Run(ctx) }()
		<-token.Ready()
		waits = append(waits, time.Since(start))
		cancel()
		<-done
	}
	slices.Sort(waits)
	fmt.Fprintf(w, "opening a token with 1,000 keys\t%v\t-\t-\tone pass\n", waits[1].Round(time.Millisecond))
	cfg.Module = s.Path
	s.CountCalls()
	_, stop = open(t, cfg)
	stop()
	opening := s.Calls()
	calls(t, w, "opening it", lookups(opening, opening), openingCalls)

	token, stop = open(t, cfg)
	held := keysOf(t, token)
	s.CountCalls()
	if err := syscall.Kill(token.Status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, key := range held {
		if err := signOnce(key); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	calls(t, w, "replacing its worker, 1,000 keys in use", lookups(s.Calls(), opening), replaceCalls)
}

// calls prints counted calls, and holds them to the most that there may be of
// each.
func calls(t *testing.T, w *tabwriter.Writer, what string, counts map[string]int, most limit) {
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "%s for %s\t%d\t-\t-\t%v\n", name, what, counts[name], most)
		most.hold(t, name+" for "+what, float64(counts[name]))
	}
}

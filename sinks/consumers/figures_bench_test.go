//go:build bench

package consumers

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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
	var before, after syscall.Rusage
	idle := 10 * time.Second
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	<-time.After(idle)
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	cpu := time.Duration(after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano())
	rows = append(rows, fmt.Sprintf("CPU while idle | %v in %v, %.3f %% | about none", cpu, idle, 100*cpu.Seconds()/idle.Seconds()))
	t.Log("\n" + strings.Join(rows, "\n"))
	if cpu > idle/100 {
		t.Errorf("%v of CPU in %v", cpu, idle)
	}
	for i := range reloads {
		if reloads[i].Load() != 3 {
			t.Errorf("consumer %d: %d reloads for 3 bursts", i, reloads[i].Load())
		}
	}
}

// TestFiguresKilled kills the process at 200 random moments during deliveries.
func TestFiguresKilled(t *testing.T) {
	n := killWhileDelivering(t, 200)
	t.Logf("\nfigure | measured | required\nreloads forgotten after SIGKILL at 200 random moments | %d | 0", n)
	if n != 0 {
		t.Errorf("%d reloads forgotten", n)
	}
}

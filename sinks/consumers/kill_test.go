package consumers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/files"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SIGNET_TEST_DELIVERER"); dir != "" {
		if err := deliverForEver(dir, os.Getenv("SIGNET_TEST_SETTLE") != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// changesOf is what the agent does between files and consumers.
func changesOf(ds []files.Delivery) []Change {
	out := make([]Change, len(ds))
	for i, d := range ds {
		out[i] = Change{Target: d.Target, Generation: d.Generation, Leaves: d.Leaves, Repaired: d.Repaired}
	}
	return out
}

// deliverForEver changes a file again and again, whose consumer copies it. To
// settle it only does what is left to do.
func deliverForEver(dir string, settle bool) error {
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "f")
	var cs *Consumers
	fs, err := files.New(files.Config{Files: []files.File{{Path: path, Secret: "s", Field: "v", KeepPrevious: true}},
		Writing: func(ds []files.Delivery) error { return cs.Writing(changesOf(ds)) },
		Written: func(ds []files.Delivery) { cs.Written(changesOf(ds)) }})
	if err != nil {
		return err
	}
	way := Exec{Argv: []string{"/bin/sh", "-c", "cd " + dir + " && cp f seen.$$ && mv seen.$$ seen"}}
	cs, err = New(Config{Consumers: []Consumer{{Name: "app", Targets: []Target{{Path: path, Way: way}}}}, Store: st, Files: fs})
	if err != nil {
		return err
	}
	go cs.Run(context.Background())
	for settle {
		if !cs.Status()[0].Pending {
			return nil
		}
		<-time.After(5 * time.Millisecond)
	}
	for i := time.Now().UnixNano(); ; i++ {
		version := strconv.FormatInt(i, 10)
		err := fs.PublishSecret(&sinks.Secret{Name: "s", Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte(version))})})
		if err != nil {
			return err
		}
		<-time.After(rand.N(250 * time.Millisecond))
	}
}

// killWhileDelivering kills the process at random moments, and counts how often
// the consumer was left without what is in the file.
func killWhileDelivering(t *testing.T, times int) (forgotten int) {
	t.Helper()
	dir := tempDir(t)
	child := func(settle string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SIGNET_TEST_DELIVERER="+dir, "SIGNET_TEST_SETTLE="+settle)
		cmd.Stderr = os.Stderr
		return cmd
	}
	for range times {
		cmd := child("")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(60*time.Millisecond + rand.N(400*time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if err := child("yes").Run(); err != nil {
			t.Fatal(err)
		}
		delivered, _ := os.ReadFile(filepath.Join(dir, "f"))
		seen, _ := os.ReadFile(filepath.Join(dir, "seen"))
		if string(delivered) != string(seen) {
			forgotten++
			t.Logf("the file has %q, the consumer %q", delivered, seen)
		}
	}
	return forgotten
}

// TestKilled holds that a process that is killed at any moment forgets no
// reload: the next one makes it.
func TestKilled(t *testing.T) {
	if n := killWhileDelivering(t, 5); n != 0 {
		t.Errorf("%d reloads forgotten", n)
	}
}

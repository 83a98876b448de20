package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A reload of a configuration with faults ends, for the service manager too, and
// what ran before goes on. (T63)
func TestAReloadWithFaultsEnds(t *testing.T) {
	dir := t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	file, sock := filepath.Join(dir, "signet.yaml"), filepath.Join(dir, "run", "signet.sock")
	good := "hsm: {module: /nowhere.so, token: signet, pin: {env: PIN}}\nstate_dir: " + dir + "/state\nruntime_dir: " + dir + "/run\n" +
		"policy: [{callers: {users: [root]}, allow: {admin: true}}]\n"
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	cfg, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keepRunning(ctx, &program{stderr: &log}, file, cfg) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for { // until it listens, it does not hear signals either
		if c, err := net.Dial("unix", sock); err == nil {
			c.Close()
			break
		}
		select {
		case <-tick.C:
		case err := <-done:
			t.Fatalf("ended with %v", err)
		}
	}

	write(good + "nonsense: 1\n")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var said []string
	for b := make([]byte, 4096); len(said) < 2; {
		n, err := manager.Read(b)
		if err != nil {
			t.Fatalf("%v after %v", err, said)
		}
		if line, _, _ := strings.Cut(string(b[:n]), "\n"); !strings.HasPrefix(line, "STATUS=") && line != "WATCHDOG=1" {
			said = append(said, line)
		}
	}
	if said[0] != "RELOADING=1" || said[1] != "READY=1" {
		t.Errorf("the service manager was told %v", said)
	}
	if got := log.String(); !strings.Contains(got, "the one before stays") || !strings.Contains(got, "nonsense") {
		t.Errorf("the log does not say what is wrong: %s", got)
	}
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatalf("what ran before does not answer: %v", err)
	}
	c.Close()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A lockedBuffer is written by several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
	var log lockedBuffer
	end := runDaemon(t, file, sock, &log)
	write(good + "nonsense: 1\n")
	hangUp(t)
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
	end()
}

// runDaemon runs the agent until end is called, and returns once it listens:
// before, it does not hear signals either.
func runDaemon(t *testing.T, file, sock string, log io.Writer) (end func()) {
	t.Helper()
	c, err := loadSetup(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keepRunning(ctx, &program{stderr: log}, c) }()
	eventually(t, "it does not listen", func() bool {
		select {
		case err := <-done:
			t.Fatalf("ended with %v", err)
		default:
		}
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return func() {
		t.Helper()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func hangUp(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what another goroutine brings about.
func eventually(t *testing.T, otherwise string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal(otherwise)
		}
	}
}

// A configuration that is in order and yet cannot be started with ends nothing
// either: one line says so, and the agent runs with the one before. What is to be
// seen of the host alone is seen before the running agent is stopped.
func TestAReloadThatCannotStartGoesBack(t *testing.T) {
	dir := t.TempDir()
	file, sock := filepath.Join(dir, "signet.yaml"), filepath.Join(dir, "run", "signet.sock")
	good := "hsm: {module: /nowhere.so, token: signet, pin: {env: PIN}}\nstate_dir: %[1]s/%[2]s\nruntime_dir: %[1]s/run\n" +
		"upstreams: {cm: {type: ciphertrust, url: 'https://c.example', auth: {grant: password}}}\nsecrets: {db: {upstream: cm, secret: x}}\n"
	write := func(state, more string) {
		if err := os.WriteFile(file, fmt.Appendf(nil, good+more, dir, state), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("state", "")
	var log lockedBuffer
	end := runDaemon(t, file, sock, &log)
	defer end()
	socketOf := func() (is syscall.Timespec) { // when it was made
		var st syscall.Stat_t
		if syscall.Stat(sock, &st) == nil {
			is = st.Ctim
		}
		return is
	}
	first := socketOf()

	write("state", "files: [{path: /etc/x, secret: db, acl: ['u:root:r', 'u:root:r']}]\n")
	hangUp(t)
	eventually(t, "nothing was said", func() bool { return strings.Contains(log.String(), "the one before stays") })
	if socketOf() != first {
		t.Error("the agent was stopped for a configuration that it cannot have")
	}

	write("state", "audit: {file: /nowhere/audit.jsonl}\n") // a directory that may yet be made
	hangUp(t)
	eventually(t, "it does not run again", func() bool {
		return strings.Contains(log.String(), "back to the one before") && socketOf().Sec != 0 && socketOf() != first
	})
	second := socketOf()
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors in the log, want 2:\n%s", n, log.String())
	}

	write("state", "log: {level: info}\n")
	hangUp(t)
	eventually(t, "it does not take a good one after that", func() bool { return socketOf().Sec != 0 && socketOf() != second })
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

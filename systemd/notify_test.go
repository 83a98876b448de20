package systemd

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// manager is the other end of NOTIFY_SOCKET.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	c, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	return c
}

// receive reads one notification, or "" if none comes.
func receive(t *testing.T, c *net.UnixConn, within time.Duration) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestNotifier holds what is sent, and that nothing is after Stopping.
func TestNotifier(t *testing.T) {
	c := manager(t)
	n := NewNotifier(quiet())
	n.Status("opening\nthe token")
	n.Status("opening\nthe token")
	n.Ready()
	n.Reloading()
	n.Ready()
	n.Stopping()
	n.Ready()
	n.Status("late")
	n.Reloading()
	for _, want := range []string{"STATUS=opening the token", "READY=1", "RELOADING=1\nMONOTONIC_USEC=", "READY=1", "STOPPING=1"} {
		if got := receive(t, c, time.Second); !strings.HasPrefix(got, want) || got == "" {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := receive(t, c, 10*time.Millisecond); got != "" {
		t.Errorf("after Stopping came %q", got)
	}
}

// TestNoManager holds that nothing happens away from systemd.
func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	for _, n := range []*Notifier{nil, NewNotifier(quiet())} {
		n.Ready()
		n.Status("x")
		n.Reloading()
		n.Stopping()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := n.Watchdog(ctx, func() bool { t.Error("asked"); return true }); err != nil {
			t.Error(err)
		}
	}
}

// TestUnreachableManager holds that a lost notification is logged and no more.
func TestUnreachableManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	var log strings.Builder
	NewNotifier(slog.New(slog.NewTextHandler(&log, nil))).Ready()
	if !strings.Contains(log.String(), "what=READY") {
		t.Errorf("log: %q", log.String())
	}
}

// TestWatchdog holds that the watchdog is told only while the agent is alive,
// and still so while it stops.
func TestWatchdog(t *testing.T) {
	c := manager(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "")
	n := NewNotifier(quiet())
	var alive atomic.Bool
	alive.Store(true)
	asked := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- n.Watchdog(ctx, func() bool {
			ok := alive.Load()
			select {
			case asked <- struct{}{}:
			case <-ctx.Done():
			}
			return ok
		})
	}()
	for range 3 {
		<-asked
		if got := receive(t, c, time.Second); got != "WATCHDOG=1" {
			t.Fatalf("alive: %q", got)
		}
	}
	alive.Store(false)
	<-asked // may have been answered before
	<-asked // is answered with no
	for receive(t, c, 5*time.Millisecond) != "" {
	}
	<-asked
	if got := receive(t, c, 5*time.Millisecond); got != "" {
		t.Errorf("not alive: %q", got)
	}
	n.Stopping()
	if got := receive(t, c, time.Second); got != "STOPPING=1" {
		t.Errorf("stopping: %q", got)
	}
	alive.Store(true)
	<-asked
	<-asked
	if got := receive(t, c, time.Second); got != "WATCHDOG=1" {
		t.Errorf("alive while it stops: %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

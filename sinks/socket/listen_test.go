package socket

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestListenHasItsModeAndCleansUp(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.sock")
	ln, err := Listen(path, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left in the directory: %v", entries)
	}
	if _, err := Listen(path, 0o640); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a live socket was taken: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the path is still there: %v", err)
	}
}

func TestListenAtALongPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("x", maxPath-len(dir)-1))
	ln, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestListenReplacesOnlyADeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close() // as a killed process leaves it
	old, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ln, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	old.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("closing an old listener removed a newer one's path: %v", err)
	}

	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, 0o600); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file was taken: %v", err)
	}
	if _, err := Listen("/"+strings.Repeat("x", 108), 0o600); err == nil {
		t.Error("a path that nobody can connect to was taken")
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no", "s"), 0o600); err == nil {
		t.Error("a directory that is not there was taken")
	}
}

// A listener that systemd hands over has a path that is not ours to remove.
func TestServeOnAListenerFromElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	made, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	made.SetUnlinkOnClose(false)
	f, err := made.File()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	made.Close()
	f.Close()
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- New(Config{Backend: &fake{}}).Serve(ctx, ln) }()
	resp, err := newClient(path).Get("http://signet/v1/healthz")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%v, %v", resp, err)
	}
	resp.Body.Close()
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the path of systemd was removed: %v", err)
	}
}

func TestStopEndsThoseWhoWait(t *testing.T) {
	b := &fake{fetch: func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }}
	r := start(t, b, tester(true))
	r.PublishSecret(db("1"))
	answers := make(chan answer, 3)
	for _, path := range []string{"/v1/secrets/db?wait=1h&version=1", "/v1/secrets/late?wait=1h", "/v1/events"} {
		go func() {
			a, err := r.try(context.Background(), "GET", path, "")
			if err != nil {
				a.body = err.Error()
			}
			answers <- a
		}()
	}
	r.auditLines(1) // the watcher is there
	began := time.Now()
	r.stop()
	for range 3 {
		<-answers
	}
	err := <-r.served
	if d := time.Since(began); err != nil || d > 4*time.Second {
		t.Errorf("stopped after %v with %v", d, err)
	}
	r.served <- nil // for the clean-up
}

func TestRequestsUnderWayAreAnsweredOnStop(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	b := &fake{renew: func(context.Context, string, bool, bool) error { close(entered); <-leave; return nil }}
	r := start(t, b, tester(true))
	got := make(chan answer)
	go func() {
		a, err := r.try(context.Background(), "POST", "/v1/certificates/web/renew", "")
		if err != nil {
			t.Error(err)
		}
		got <- a
	}()
	<-entered
	r.stop()
	close(leave)
	if a := <-got; a.status != 200 {
		t.Errorf("got %+v", a)
	}
}

func TestLimitsOnRequests(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	if a := r.do("POST", "/v1/secrets/db/refused", strings.Repeat(" ", maxBody+1)); a.status != 413 || a.code(t) != CodeInvalid {
		t.Errorf("long body: %+v", a)
	}
	if a := r.get("/v1/secrets/db", "X-Long: "+strings.Repeat("x", maxHeader+8192)); a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("long header: %d", a.status)
	}
}

// A caller who dies in the middle of a request disturbs nobody.
func TestCallerThatDies(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	r.PublishSecret(db("1"))
	for _, text := range []string{"GET /v1/sec", "POST /v1/secrets/db/refused HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		c.Close()
	}
	if a := r.get("/v1/secrets/db"); a.status != 200 {
		t.Errorf("got %+v", a)
	}
}

func TestConnectionsPerUserAreBounded(t *testing.T) {
	l := newListener(nil, nil)
	for range maxConnsPerUID {
		if !l.take(1) {
			t.Fatal("refused below the limit")
		}
	}
	if l.take(1) {
		t.Error("taken beyond the limit")
	}
	if !l.take(2) {
		t.Error("another user is refused")
	}
	l.give(1)
	if !l.take(1) {
		t.Error("refused after one was closed")
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(tooMany)), nil)
	if err != nil || resp.StatusCode != 429 {
		t.Errorf("the answer beyond the limit: %v, %v", resp, err)
	}
}

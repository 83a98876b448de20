package main

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An execHost is a directory with an agent's socket, and the program signet, in
// which any user may work.
type execHost struct {
	*testing.T
	dir  string
	as   *syscall.Credential // whom to run as; nil is this user
	logs *strings.Builder
}

// newExecHost starts an agent that has the secret db. Without root, everything
// runs as the user of the test.
func newExecHost(t *testing.T) *execHost {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "signet-")
	if err != nil {
		t.Skipf("no memory file system: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &execHost{T: t, dir: dir, logs: &strings.Builder{}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	answers := filepath.Join(dir, "agent/GET/v1/secrets")
	const secret = "200 application/json\n" + `{"name":"db","version":"1","fields":{"password":"p1"},"fetched_at":"2030-01-01T12:00:00Z","fresh_until":"2030-01-01T13:00:00Z"}`
	l, lerr := net.Listen("unix", filepath.Join(dir, "s"))
	for _, err := range []error{
		lerr,
		os.WriteFile(filepath.Join(dir, "signet"), blob, 0o755), // by its name it becomes the program
		os.MkdirAll(answers, 0o755),
		os.WriteFile(filepath.Join(answers, "db.http"), []byte(secret), 0o644),
		os.Chmod(filepath.Join(dir, "s"), 0o777),
		os.Chmod(dir, 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	server := &http.Server{Handler: &scriptAgent{dir: dir}}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return h
}

// asNobody has the program run by a user who may not mount.
func (h *execHost) asNobody() *execHost {
	if os.Getuid() == 0 {
		h.as = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	return h
}

// asRoot skips where the test may not mount.
func (h *execHost) asRoot() *execHost {
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		h.Skip("not allowed to mount")
	}
	return h
}

// command is `signet exec` with a shell script.
func (h *execHost) command(script string, args ...string) *exec.Cmd {
	argv := append([]string{"exec", "--socket", filepath.Join(h.dir, "s"), "--secret", "db"}, args...)
	cmd := exec.Command(filepath.Join(h.dir, "signet"), append(argv, "--", "sh", "-c", script)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = h.dir, h.logs, h.logs
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "XDG_RUNTIME_DIR=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.as}
	return cmd
}

// start runs signet until the script has made the file "ready".
func (h *execHost) start(script string, args ...string) *exec.Cmd {
	h.Helper()
	cmd := h.command(script, args...)
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = cmd.Process.Kill() })
	h.until("ready", func() bool { return h.there("ready") })
	return cmd
}

func (h *execHost) until(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			h.Fatalf("never happened: %s; output: %s", what, h.logs)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (h *execHost) there(name string) bool {
	_, err := os.Lstat(filepath.Join(h.dir, name))
	return err == nil
}

// status runs a command to its end.
func (h *execHost) status(cmd *exec.Cmd) int {
	h.Helper()
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		h.Fatal(err)
	}
	return 0
}

const waits = `trap 'exit 0' TERM; trap 'cat "$SIGNET_FILES/db/password" >again' USR1; cat "$SIGNET_FILES/db/password" >seen; touch ready; while :; do sleep 0.02; done`

// Files of one who may not mount: nobody else gets at them, they go when the
// program ends, and what a kill has left goes at the next start.
func TestExecFilesWithoutMounting(t *testing.T) {
	h := newExecHost(t).asNobody()
	files := filepath.Join(h.dir, "files")
	cmd := h.start(waits, "--files", files)
	info, err := os.Stat(files)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", info, err)
	}
	if got, err := os.ReadFile(filepath.Join(files, "db/password")); err != nil || string(got) != "p1" {
		t.Errorf("%q, %v", got, err)
	}
	if got := h.status(h.command("true", "--files", files)); got != 1 || !strings.Contains(h.logs.String(), "in use by another signet exec") {
		t.Errorf("a second one in the same directory: status %d, %s", got, h.logs)
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if !h.there("files/db") {
		t.Fatal("nothing was left; what is this test for?")
	}
	left, err := os.Readlink(filepath.Join(files, "db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, left, "old"), nil, 0o600); err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Fatal(err)
	}
	// The program dies with signet, and its lock on the directory was signet's.
	if got := h.status(h.command(`ls "$SIGNET_FILES/db" >listed`, "--files", files)); got != 0 {
		t.Errorf("after a kill: status %d, %s", got, h.logs)
	}
	if got, _ := os.ReadFile(filepath.Join(h.dir, "listed")); string(got) != "password\n" {
		t.Errorf("the next one saw %q", got)
	}
	if h.there("files") {
		t.Error("the directory is left")
	}
}

// A directory on a disk is refused, and not left behind.
func TestExecFilesAreInMemory(t *testing.T) {
	h := newExecHost(t).asNobody()
	disk := t.TempDir()
	var st syscall.Statfs_t
	if err := syscall.Statfs(disk, &st); err != nil || st.Type == 0x01021994 {
		t.Skip("the temporary directory is in memory")
	}
	for d := disk; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	files := filepath.Join(disk, "files")
	if got := h.status(h.command("true", "--files", files)); got != 1 || !strings.Contains(h.logs.String(), "not on a tmpfs") {
		t.Errorf("status %d, %s", got, h.logs)
	}
	if _, err := os.Stat(files); err == nil {
		t.Error("the directory is left")
	}
}

// Files of one who may mount: no other process sees them, and nothing is left
// however signet ends.
func TestExecFilesOnAMountOfItsOwn(t *testing.T) {
	h := newExecHost(t).asRoot()
	files := filepath.Join(t.TempDir(), "files") // need not be in memory
	cmd := h.start(waits, "--files", files)
	if got, _ := os.ReadFile(filepath.Join(h.dir, "seen")); string(got) != "p1" {
		t.Errorf("the program saw %q", got)
	}
	nothing := func(when string) {
		t.Helper()
		if entries, err := os.ReadDir(files); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v, %v", when, entries, err)
		}
	}
	nothing("while it runs")
	other := h.command(`cat "$SIGNET_FILES/db/password" >seen2`, "--files", files)
	if got := h.status(other); got != 0 {
		t.Errorf("a second one in the same directory: status %d, %s", got, h.logs)
	}
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	h.until("the first still having its files", func() bool {
		got, _ := os.ReadFile(filepath.Join(h.dir, "again"))
		return string(got) == "p1"
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	nothing("after a kill")
}

// The program does not outlive signet: with nobody to follow the rotations, it
// would keep a dead value.
func TestExecTakesItsProgramAlong(t *testing.T) {
	h := newExecHost(t).asNobody()
	cmd := h.start(`trap 'touch ended; exit 0' TERM; touch ready; while :; do sleep 0.02; done`)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	h.until("the end of the program", func() bool { return h.there("ended") })
}

// A key of the terminal reaches the program once: the terminal sends the signal
// to signet as well, which must not pass it on then.
func TestExecAtATerminal(t *testing.T) {
	h := newExecHost(t)
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer terminal.Close()
	number, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	cmd := h.command(`trap 'echo int >>signals' INT; trap 'echo usr1 >>signals; exit 3' USR1; touch ready; while :; do sleep 0.02; done`)
	cmd.Stdin = tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.until("ready", func() bool { return h.there("ready") })
	if _, err := terminal.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	h.until("the signal", func() bool { return h.there("signals") })
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("ended with %v", err)
	}
	if got, _ := os.ReadFile(filepath.Join(h.dir, "signals")); string(got) != "int\nusr1\n" {
		t.Errorf("the program got %q", got)
	}
}

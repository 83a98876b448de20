package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/client"
)

// programs builds all three programs once and returns where they are.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "signet-programs-")
	if err != nil {
		return "", err
	}
	for pkg, cgo := range map[string]string{"signet": "0", "signet-sim": "0", "signet-hsm": "1"} {
		cmd := exec.Command("go", "build", "-o", dir, "github.com/signet-agent/signet/cmd/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return dir, nil
})

// A running host, as an operator has it in a terminal.
type runningHost struct {
	*testing.T
	dir    string
	cmd    *exec.Cmd
	client *client.Client

	mu    sync.Mutex
	lines []string
	ended chan error
}

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// needSoftHSM skips where SoftHSM is not installed, unless it has to be.
func needSoftHSM(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(softHSM); err != nil {
		if os.Getenv("SIGNET_NEED_SOFTHSM") != "" {
			t.Fatal(err)
		}
		t.Skip("SoftHSM is not installed")
	}
}

// startHost runs `signet-sim host` in dir and waits until it is ready.
func startHost(t *testing.T, dir string, args ...string) *runningHost {
	t.Helper()
	needSoftHSM(t)
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	h := &runningHost{T: t, dir: dir, ended: make(chan error, 1),
		client: &client.Client{Socket: filepath.Join(dir, "signet.sock"), Patience: 10 * time.Second}}
	h.cmd = exec.Command(filepath.Join(bin, "signet-sim"), append([]string{"host", "--dir", dir}, args...)...)
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.cmd.Stderr = os.Stderr
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			h.mu.Lock()
			h.lines = append(h.lines, s.Text())
			h.mu.Unlock()
		}
	}()
	go func() { <-read; h.ended <- h.cmd.Wait() }()
	t.Cleanup(func() {
		_ = h.cmd.Process.Kill()
		_ = h.client.Close()
	})
	h.until("a line that starts with ready", 60*time.Second, func() bool { return h.printed(`^ready`) > 0 })
	return h
}

// until waits for a condition of the running processes, which no virtual clock
// can hurry.
func (h *runningHost) until(what string, within time.Duration, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			h.dump()
			h.Fatalf("no %s within %v", what, within)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (h *runningHost) dump() {
	h.Log(h.output())
	for _, name := range []string{"signet", "signet-sim"} {
		blob, _ := os.ReadFile(filepath.Join(h.dir, "log", name+".log"))
		h.Logf("%s.log ends with\n%s", name, blob[max(0, len(blob)-4000):])
	}
}

func (h *runningHost) output() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
}

// printed counts the lines that match.
func (h *runningHost) printed(pattern string) int {
	re := regexp.MustCompile(pattern)
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, l := range h.lines {
		if re.MatchString(l) {
			n++
		}
	}
	return n
}

// processes are the live processes of the host but its own, by program.
func (h *runningHost) processes() map[string][]int {
	found := map[string][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		h.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == h.cmd.Process.Pid {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil {
			env = nil // hardened processes show it to root alone, and not at all once dead
		}
		argv, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if len(argv) == 0 || !bytes.Contains(env, []byte("SIGNET_SOCKET="+h.dir)) && !bytes.Contains(argv, []byte(h.dir)) {
			continue
		}
		name := filepath.Base(string(bytes.SplitN(argv, []byte{0}, 2)[0]))
		found[name] = append(found[name], pid)
	}
	return found
}

// stop ends the host as Ctrl-C does.
func (h *runningHost) stop() {
	h.Helper()
	began := time.Now()
	if err := h.cmd.Process.Signal(os.Interrupt); err != nil {
		h.Fatal(err)
	}
	select {
	case err := <-h.ended:
		if err != nil {
			h.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		h.dump()
		h.Fatal("did not end")
	}
	if d := time.Since(began); d > 5*time.Second {
		h.Errorf("took %v to end", d)
	}
	if left := h.processes(); len(left) > 0 {
		h.Errorf("left running: %v", left)
	}
	h.noHalfWrittenFile()
}

func (h *runningHost) noHalfWrittenFile() {
	h.Helper()
	entries, err := os.ReadDir(filepath.Join(h.dir, "files"))
	if err != nil {
		h.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Size() == 0 || !slices.Contains([]string{"db.env", "db.password"}, e.Name()) {
			h.Errorf("file left over or empty: %s", e.Name())
		}
	}
}

// works fails unless the credential can be read and the agent is ready.
func (h *runningHost) works(what string) {
	h.Helper()
	h.until("working state after "+what, 30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(h.Context(), 2*time.Second)
		defer cancel()
		s, err := h.client.ReadSecret(ctx, "db")
		return err == nil && s.Fields["password"] != "" && !s.Stale && h.client.Ready(ctx) == nil
	})
}

// The whole path, thin but real: everything that `make run` shows.
func TestHostShowsTheWholePath(t *testing.T) {
	dir := filepath.Join(shm(t), "run")
	h := startHost(t, dir, "--rotate", "2s", "--life", "12s", "--new-key", "4s")
	for _, want := range []string{
		"access token issued by pam", `certificate of host#\d renewed`, `key rotated host#1 -> host#2`,
	} {
		h.until("line "+want, 40*time.Second, func() bool { return h.printed(want) > 0 })
	}
	h.until("fourth version", 40*time.Second, func() bool { return h.printed(`secret db rotated to version \w`) >= 4 })
	if _, err := os.Stat(filepath.Join(dir, "sim", oneTimeName)); err == nil {
		t.Error("the one-time credentials are still on disk")
	}
	file := filepath.Join(dir, "files", "db.env")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	h.until("repaired file", 2*time.Second, func() bool {
		blob, err := os.ReadFile(file)
		return err == nil && bytes.Contains(blob, []byte("DB_PASSWORD="))
	})
	h.nothingLeaks()
	h.stop()
	if h.printed(`, 0 failed`) == 0 {
		t.Errorf("reads failed:\n%s", h.output())
	}
	// A second one works where the first was.
	h = startHost(t, dir, "--rotate", "2s")
	h.works("a second start")
	// And one after everything was killed.
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-h.ended
	h.until("end of all children", 5*time.Second, func() bool { return len(h.processes()) == 0 })
	h = startHost(t, dir, "--rotate", "2s")
	h.works("a start after kill -9 of everything")
	h.stop()
}

// Whatever dies at whatever moment: it ends in a working state.
func TestKillingAnythingEndsInAWorkingState(t *testing.T) {
	h := startHost(t, filepath.Join(shm(t), "run"), "--rotate", "2s", "--life", "60s", "--new-key", "0")
	for i := range 24 {
		name := []string{"signet-hsm", "signet", "signet-sim"}[i%3]
		var pids []int
		h.until("process "+name, 10*time.Second, func() bool { pids = h.processes()[name]; return len(pids) > 0 })
		<-time.After(rand.N(700 * time.Millisecond)) // at any moment
		if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
		h.works(fmt.Sprintf("kill %d, of %s", i+1, name))
		h.noHalfWrittenFileNow()
	}
	h.nothingLeaks()
	h.stop()
}

// noHalfWrittenFileNow looks at the delivered files while the agent runs.
func (h *runningHost) noHalfWrittenFileNow() {
	h.Helper()
	for _, name := range []string{"db.env", "db.password"} {
		blob, err := os.ReadFile(filepath.Join(h.dir, "files", name))
		if err != nil || len(blob) == 0 || name == "db.env" && !bytes.HasSuffix(blob, []byte("\n")) {
			h.Errorf("%s: %q, %v", name, blob, err)
		}
	}
}

// nothingLeaks looks for every secret of the host in everything it produced but
// the sinks, and in what other processes can see of its own.
func (h *runningHost) nothingLeaks() {
	h.Helper()
	secrets := map[string]string{}
	for name, file := range map[string]string{"PIN": "pin", "security officer's PIN": "so-pin", "client secret": "sim/senhasegura-client-secret"} {
		blob, err := os.ReadFile(filepath.Join(h.dir, file))
		if err != nil {
			h.Fatal(err)
		}
		secrets[name] = strings.TrimSpace(string(blob))
	}
	tok, err := h.client.Token(h.Context(), "pam")
	if err != nil {
		h.Fatal(err)
	}
	secrets["access token"] = tok.AccessToken
	for v := range 3 {
		s, err := h.client.ReadSecret(h.Context(), "db")
		if err != nil {
			h.Fatal(err)
		}
		secrets[fmt.Sprint("password ", v)] = s.Fields["password"]
		<-time.After(time.Second)
	}
	places := map[string][]byte{"standard output": []byte(h.output())}
	err = filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(path, h.dir+"/")
		if err != nil || d.IsDir() && slices.Contains([]string{"files", "sim"}, rel) {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() || rel == "pin" || rel == "so-pin" {
			return nil
		}
		places[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	for name, pids := range h.processes() {
		for _, what := range []string{"cmdline", "environ"} {
			blob, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pids[0], what))
			if err == nil {
				places[name+" "+what] = blob
			}
		}
	}
	if len(places) < 8 {
		h.Fatalf("looked at too few places: %d", len(places))
	}
	for where, blob := range places {
		for what, secret := range secrets {
			if len(secret) < 6 {
				h.Fatalf("%s is too short to look for", what)
			}
			if bytes.Contains(blob, []byte(secret)) {
				h.Errorf("%s is in %s", what, where)
			}
		}
		if bytes.Contains(blob, []byte("PRIVATE KEY")) {
			h.Errorf("a private key is in %s", where)
		}
	}
}

// shm is a temporary directory on a tmpfs where there is one, with a short name:
// sockets live in it.
func shm(t *testing.T) string {
	t.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "signet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

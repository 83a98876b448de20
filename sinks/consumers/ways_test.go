package consumers

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

func script(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// A command gets no shell, none of the agent's environment, and no input.
func TestExecIsClean(t *testing.T) {
	dir := tempDir(t)
	out := filepath.Join(dir, "out")
	t.Setenv("SIGNET_PIN", "123456")
	hook := script(t, dir, `{ echo "args:$#:$1"; pwd; env | sort; cat; } >`+out+"\n")
	if err := (Exec{Consumer: "app", Argv: []string{hook, "$(id); *"}}).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := "args:1:$(id); *\n/\nLANG=C.UTF-8\nPATH=" + searchPath + "\nPWD=/\nSIGNET_CONSUMER=app\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExecSaysWhatWentWrong(t *testing.T) {
	dir := tempDir(t)
	for _, tt := range []struct{ name, text, want string }{
		{"last lines", "echo starting; echo 'key values\tmismatch' >&2; echo test failed; exit 1\n", "exit status 1: key values mismatch; test failed"},
		{"silent", "exit 7\n", "exit status 7"},
		{"control characters", "printf '\\033[31mred\\n'; exit 1\n", "[31mred"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := run(t.Context(), "app", []string{script(t, dir, tt.text)})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\033") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	err := run(t.Context(), "app", []string{"no-such-program-at-all"})
	if h, ok := errors.AsType[*hinted](err); !ok || h.Hint() == "" || !strings.Contains(err.Error(), "no-such-program-at-all") {
		t.Errorf("error %v", err)
	}
}

// At the time limit all that a command has started is killed, not itself alone.
func TestExecKillsTheProcessGroup(t *testing.T) {
	dir := tempDir(t)
	pids := filepath.Join(dir, "pid")
	hook := script(t, dir, "sleep 1000 &\necho $! >"+pids+"\nwait\n")
	err := limited(t.Context(), 300*time.Millisecond, func(ctx context.Context) error { return run(ctx, "app", []string{hook}) })
	if err == nil || !strings.Contains(err.Error(), "not within 300ms") {
		t.Errorf("error %v", err)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	eventually(t, 3*time.Second, "the child is gone", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// A hook may leave something running in the background.
func TestExecDoesNotWaitForDaemons(t *testing.T) {
	dir := tempDir(t)
	pids := filepath.Join(dir, "pid")
	began := time.Now()
	if err := run(t.Context(), "app", []string{script(t, dir, "sleep 1000 &\necho $! >"+pids+"\n")}); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	b, _ := os.ReadFile(pids)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// sleeper starts a process that notes the signals it gets.
func sleeper(t *testing.T, dir string) (cmd *exec.Cmd, log string) {
	t.Helper()
	log = filepath.Join(dir, "signals")
	cmd = exec.Command("/bin/sh", "-c", "trap 'echo HUP >>"+log+"' HUP; echo up >>"+log+"; while :; do sleep 0.02; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead already
		_ = cmd.Wait()
	})
	eventually(t, 5*time.Second, "the process is up", func() bool { b, _ := os.ReadFile(log); return len(b) > 0 })
	return cmd, log
}

func TestSignalIsSentToTheRightProcessOnly(t *testing.T) {
	dir := tempDir(t)
	cmd, log := sleeper(t, dir)
	file := filepath.Join(dir, "pid")
	write := func(text string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	shell, err := os.Readlink("/proc/" + pid + "/exe")
	if err != nil {
		t.Fatal(err)
	}
	hups := func() int { b, _ := os.ReadFile(log); return strings.Count(string(b), "HUP") }
	good := Signal{PIDFile: file, Name: "HUP", Program: shell}

	if err := good.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without a file: %v", err)
	}
	for _, tt := range []struct {
		name, text string
		age        time.Duration
		way        Signal
		want       string
	}{
		{"another process has the number since", pid, time.Hour, good, "it is another one"},
		{"another program", pid, 0, Signal{PIDFile: file, Name: "HUP", Program: "/usr/sbin/nginx"}, "and not /usr/sbin/nginx"},
		{"the process is gone", "4194300", 0, good, "is not there"},
		{"init", "1", 0, good, "holds no number"},
		{"ourselves", strconv.Itoa(os.Getpid()), 0, good, "holds no number"},
		{"a whole group", "-" + pid, 0, good, "holds no number"},
		{"nothing", "", 0, good, "holds no number"},
		{"text", "nginx", 0, good, "holds no number"},
		{"no such signal", pid, 0, Signal{PIDFile: file, Name: "NOPE"}, "no signal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(tt.text, tt.age)
			if err := tt.way.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	write(pid+"\n/var/lib/postgresql\n", 0)
	refused := func(what, want string) {
		t.Helper()
		if err := good.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	refused("a file that everyone can write", "everyone can write to")
	if os.Getuid() == 0 {
		if err := errors.Join(os.Chown(file, -1, 61777), os.Chmod(file, 0o664)); err != nil {
			t.Fatal(err)
		}
		refused("a file that another group can write", "group 61777 can write to")
		if err := os.Chown(file, -1, 0); err != nil {
			t.Fatal(err)
		}
		if err := good.Check(t.Context()); err != nil {
			t.Errorf("a file that the group of root can write: %v", err)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	// What leads to the file of another service, and what has no end, is not read.
	moved := file + ".moved"
	for what, plant := range map[string]func() error{
		"a link":      func() error { return os.Symlink(moved, file) },
		"a hard link": func() error { return os.Link(moved, file) },
		"a FIFO":      func() error { return syscall.Mkfifo(file, 0o644) },
	} {
		if err := errors.Join(os.Rename(file, moved), plant()); err != nil {
			t.Fatal(err)
		}
		if err := good.Reload(t.Context()); err == nil || errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", what, err)
		}
		if err := errors.Join(os.Remove(file), os.Rename(moved, file)); err != nil {
			t.Fatal(err)
		}
	}
	if hups() != 0 {
		t.Fatalf("a refused signal was sent %d times", hups())
	}
	if err := good.Check(t.Context()); err != nil || hups() != 0 {
		t.Errorf("check: %v, %d signals", err, hups())
	}
	if err := good.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the signal", func() bool { return hups() == 1 })
}

// A program that a consumer needs and that is not there is found before a reload
// fails by it: that of the reload as well as that of the test before it.
func TestCheckFindsMissingPrograms(t *testing.T) {
	const missing = "/nowhere/program"
	plain := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		test, way []string
		want      string
	}{
		{[]string{"true"}, []string{"true"}, ""},
		{nil, []string{"true"}, ""},
		{[]string{missing, "-t"}, []string{"true"}, `consumer "app": test: ` + missing + ": there is no such program"},
		{[]string{"true"}, []string{missing}, `consumer "app": reload: ` + missing + ": there is no such program"},
		{nil, []string{plain}, `consumer "app": reload: ` + plain + ": it is not executable"},
		{nil, []string{filepath.Dir(plain)}, `consumer "app": reload: ` + filepath.Dir(plain) + ": it is no file"},
		{nil, []string{plain + "/x"}, `consumer "app": reload: stat ` + plain + "/x: not a directory"},
	} {
		cs, err := New(Config{Store: newStore(), Files: newFiles(), Consumers: []Consumer{
			{Name: "app", Targets: []Target{{Path: "/t/a", Test: tt.test, Way: Exec{Consumer: "app", Argv: tt.way}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := cs.Check(t.Context(), "app"); (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%v, %v: error %v, want %q", tt.test, tt.way, err, tt.want)
		}
	}
}

// The start of a process is known to a fraction of a second, whatever its name.
func TestStartTime(t *testing.T) {
	began := time.Now()
	cmd := exec.Command("/bin/sh", "-c", "exec -a 'a) b (c' sleep 1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	at, err := startTime(cmd.Process.Pid)
	if err != nil || at.Sub(began).Abs() > 500*time.Millisecond {
		t.Errorf("started at %v, %v; want %v", at, err, began)
	}
}

// What HAProxy is sent has no empty line: it would take the rest for commands.
func TestHAProxyPayloadHasNoEmptyLine(t *testing.T) {
	c := newCA(t).issue(t, "web.example")
	text := strings.ReplaceAll(string(pemBundle(c)), "-----\n-----BEGIN", "-----\n\n \nshow env\n\n-----BEGIN")
	got, leaf, err := payload([]byte("# a comment\n\n" + text + "\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(got, "\n\n") || strings.Contains(got, "show env") || !strings.HasPrefix(got, "-----BEGIN CERTIFICATE-----\n") {
		t.Errorf("payload:\n%s", got)
	}
	if strings.Count(got, "BEGIN") != 3 || serialOf(leaf) != c.Serial {
		t.Errorf("%d blocks, serial %x", strings.Count(got, "BEGIN"), leaf.SerialNumber)
	}
}

// fakeRedis answers each command by its name.
func fakeRedis(t *testing.T, answers map[string]string) (address string, got chan []string) {
	t.Helper()
	address = filepath.Join(tempDir(t), "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	return address, redisOn(t, l, answers)
}

// redisOn is a Redis on a listener; what it is told comes out of got.
func redisOn(t *testing.T, l net.Listener, answers map[string]string) (got chan []string) {
	t.Helper()
	got = make(chan []string, 10)
	t.Cleanup(func() { l.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for {
			var n int
			if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
				return
			}
			args := make([]string, n)
			for i := range args {
				var size int
				fmt.Fscanf(in, "$%d\r\n", &size)
				b := make([]byte, size+2)
				io.ReadFull(in, b)
				args[i] = string(b[:size])
			}
			got <- args
			io.WriteString(c, answers[args[0]]+"\r\n")
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return got
}

// With ca_file the connection is TLS, and the server has to be the right one.
func TestRedisOverTLS(t *testing.T) {
	ca := newCA(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", config(t, ca.issue(t, "redis.example")))
	if err != nil {
		t.Fatal(err)
	}
	redisOn(t, l, map[string]string{"CONFIG": "+OK"})
	r := Redis{Address: l.Addr().String(), CAFile: filepath.Join(tempDir(t), "ca.pem"), CertFile: "/t/c", KeyFile: "/t/k"}
	for _, tt := range []struct {
		name string
		ca   *testCA
		ok   bool
	}{{"its CA", ca, true}, {"another CA", newCA(t), false}} {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tt.ca.cert.Raw})
		if err := os.WriteFile(r.CAFile, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.Reload(t.Context()); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestRedisLogsInAndSetsBothInOne(t *testing.T) {
	address, got := fakeRedis(t, map[string]string{"AUTH": "+OK", "CONFIG": "+OK"})
	r := Redis{Address: address, Username: "signet", CertFile: "/t/cert.pem", KeyFile: "/t/key.pem",
		Password: func() (secret.Value, error) { return secret.New([]byte("p w\r\n")), nil }}
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := strings.Join(<-got, "|"); a != "AUTH|signet|p w\r\n" {
		t.Errorf("first: %q", a)
	}
	if a := strings.Join(<-got, "|"); a != "CONFIG|SET|tls-cert-file|/t/cert.pem|tls-key-file|/t/key.pem" {
		t.Errorf("then: %q", a)
	}
}

func TestRedisRefusalIsAnError(t *testing.T) {
	for answer, want := range map[string]string{
		"-ERR CONFIG SET failed - Unable to update TLS configuration. Check server logs.": "log says why",
		"-NOAUTH Authentication required.":                                                "username and password",
		"-NOPERM this user has no permissions to run the 'config|set' command":            "+config|set",
	} {
		address, _ := fakeRedis(t, map[string]string{"CONFIG": answer})
		err := Redis{Address: address, CertFile: "/t/c", KeyFile: "/t/k"}.Reload(t.Context())
		h, ok := errors.AsType[*hinted](err)
		if !ok || !strings.Contains(h.Hint(), want) || !strings.Contains(err.Error(), answer[1:20]) {
			t.Errorf("%s: error %v", answer, err)
		}
	}
	// Some servers repeat what they were sent: the password is not to be said on.
	const password = "SuperSecretRedisPw"
	for answer, want := range map[string]string{
		"-ERR unknown command 'AUTH', with args beginning with: '" + password + "'": "AUTH: the server answers ERR",
		"-WRONGPASS invalid username-password pair " + password:                     "AUTH: the server answers WRONGPASS",
		"-" + password + " is no command":                                           "AUTH: the server answers with an error",
	} {
		address, _ := fakeRedis(t, map[string]string{"AUTH": answer, "CONFIG": "+OK"})
		err := Redis{Address: address, CertFile: "/t/c", KeyFile: "/t/k",
			Password: func() (secret.Value, error) { return secret.New([]byte(password)), nil }}.Reload(t.Context())
		if h, ok := errors.AsType[*hinted](err); !ok || h.Error() != want || strings.Contains(h.Error()+h.Hint(), password) {
			t.Errorf("%s: error %v, want %s", answer, err, want)
		}
	}
	if err := (Redis{Address: "/nowhere/s"}).Reload(t.Context()); err == nil {
		t.Error("no server: no error")
	}
}

package consumers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// searchPath is where commands are found that are no path, and the PATH that
// they get: what the agent itself was started with is nobody's business.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exec reloads a consumer by a command.
type Exec struct {
	// Consumer is what the command gets as SIGNET_CONSUMER.
	Consumer string
	Argv     []string
}

// Reload is for Way.
func (e Exec) Reload(ctx context.Context) error { return run(ctx, e.Consumer, e.Argv) }

// Check is for Way.
func (e Exec) Check(context.Context) error {
	_, err := find(e.Argv[0])
	return err
}

func (e Exec) String() string { return "exec " + strings.Join(e.Argv, "\x00") }

// find looks a command up.
func find(name string) (string, error) {
	dirs := filepath.SplitList(searchPath)
	if strings.Contains(name, "/") {
		dirs = []string{""}
	}
	why := withHint("install it, or correct the configuration", "%s: there is no such program", name)
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		switch {
		case err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0:
			return path, nil
		case err == nil && st.Mode().IsRegular():
			why = withHint("chmod +x "+path, "%s: it is not executable", path)
		case err == nil:
			why = withHint("name a program", "%s: it is no file", path)
		case !errors.Is(err, os.ErrNotExist):
			why = withHint("see that the agent's user can reach it", "%w", err)
		}
	}
	return "", why
}

// run runs a command without a shell, in a clean environment and in a process
// group of its own, all of which is killed when ctx ends.
func run(ctx context.Context, consumer string, argv []string) error {
	path, err := find(argv[0])
	if err != nil {
		return err
	}
	var out tail
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Env = []string{"PATH=" + searchPath, "LANG=C.UTF-8", "SIGNET_CONSUMER=" + consumer}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // what it left behind may hold its output open
	err = cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: killed: %w", argv[0], cause(ctx))
	case out.last() != "":
		return fmt.Errorf("%s: %v: %s", argv[0], err, out.last())
	}
	return withHint("it said nothing; see the log of the service", "%s: %w", argv[0], err)
}

// cause says in words that a time limit is over.
func cause(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errTimeLimit
	}
	return ctx.Err()
}

var errTimeLimit = errors.New("the time limit is over")

// A tail keeps the end of what a command says.
type tail struct{ b []byte }

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = append([]byte(nil), t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

// last is the last line, with the one before it: many programs end with a
// line that only says that they failed.
func (t *tail) last() string {
	var lines []string
	for line := range bytes.Lines(t.b) {
		if s := clean(string(line)); s != "" {
			lines = append(lines, s)
		}
	}
	return strings.Join(lines[max(0, len(lines)-2):], "; ")
}

// clean makes a line of a foreign program fit for a log.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "..."
	}
	return s
}

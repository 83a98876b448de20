package consumers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signal reloads a consumer by a signal to the process that a file names.
type Signal struct {
	PIDFile string
	// Name is that of the signal, without SIG.
	Name string
	// Program is the path of what the process must run; "" is anything.
	Program string
}

func (s Signal) String() string {
	return strings.TrimSpace(strings.Join([]string{"signal", s.PIDFile, s.Name, s.Program}, " "))
}

// Reload is for Way.
func (s Signal) Reload(context.Context) error {
	p, err := s.open()
	if err != nil {
		return err
	}
	defer p.close()
	sig := unix.SignalNum("SIG" + s.Name)
	if sig == 0 {
		return fmt.Errorf("there is no signal %q", s.Name)
	}
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// Check is for Way.
func (s Signal) Check(context.Context) error {
	p, err := s.open()
	if err != nil {
		return err
	}
	defer p.close()
	if err := unix.PidfdSendSignal(p.fd, 0, nil, 0); err != nil {
		return withHint("the agent must run as the same user, or have CAP_KILL", "signal process %d: %w", p.pid, err)
	}
	return nil
}

// A process is told by its pidfd. Its number may become another's, but what is
// sent to the pidfd then reaches nobody.
type process struct {
	pid, fd int
}

func (p process) close() { unix.Close(p.fd) }

const staleHint = "remove the file if the service does not run; else restart the service, which writes it anew"

// open finds the process and makes sure that it is the one which the file was
// written for: it began before that, and runs the program it should.
func (s Signal) open() (p process, err error) {
	f, err := os.OpenFile(s.PIDFile, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		return p, fmt.Errorf("%s is not a file of its own", s.PIDFile)
	}
	if err != nil {
		return p, withHint("the service does not run, or writes its number elsewhere", "%w", orNotRunning(err))
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return p, err
	}
	if !st.Mode().IsRegular() || st.Sys().(*syscall.Stat_t).Nlink != 1 { // of a FIFO the end might never come
		return p, fmt.Errorf("%s is not a file of its own", s.PIDFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return p, err
	}
	first, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n")) // PostgreSQL writes more below it
	p.pid, err = strconv.Atoi(string(bytes.TrimSpace(first)))
	if err != nil || p.pid < 2 || p.pid == os.Getpid() {
		return p, fmt.Errorf("%s holds no number of a process to signal", s.PIDFile)
	}
	p.fd, err = unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return p, withHint(staleHint, "%s: process %d is not there", s.PIDFile, p.pid)
	}
	if err != nil {
		return p, fmt.Errorf("process %d: %w", p.pid, err)
	}
	if err := s.verify(p.pid, st); err != nil {
		p.close()
		return p, err
	}
	return p, nil
}

// clockSlack is by how much a process may seem to be younger than its file.
const clockSlack = 2 * time.Second

// verify looks at a process by its number. Should that have become another's since
// the pidfd was opened, it is the other that is looked at, and neither is signalled.
func (s Signal) verify(pid int, file os.FileInfo) error {
	stat := file.Sys().(*syscall.Stat_t)
	proc, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	owner := proc.Sys().(*syscall.Stat_t).Uid
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() && stat.Uid != owner {
		return withHint("give the file to root or to the user of the service",
			"%s belongs to user %d, who could have any process signalled", s.PIDFile, stat.Uid)
	}
	if file.Mode()&0o002 != 0 {
		return withHint("chmod o-w", "everyone can write to %s, and could have any process signalled", s.PIDFile)
	}
	if file.Mode()&0o020 != 0 && stat.Gid != 0 && !ownGroup(stat.Uid, stat.Gid) {
		return withHint("chmod g-w", "group %d can write to %s, and could have any process signalled", stat.Gid, s.PIDFile)
	}
	started, err := startTime(pid)
	if err != nil {
		return err
	}
	if written := file.ModTime(); started.After(written.Add(clockSlack)) {
		return withHint(staleHint, "%s: process %d began at %s, after the file was written at %s; it is another one",
			s.PIDFile, pid, started.Format(time.RFC3339), written.Format(time.RFC3339))
	}
	if s.Program == "" {
		return nil
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return fmt.Errorf("process %d: what it runs: %w", pid, err)
	}
	// A service that was upgraded and not restarted runs a deleted file.
	if program = strings.TrimSuffix(program, " (deleted)"); program != s.Program {
		return withHint(staleHint, "%s: process %d runs %s and not %s", s.PIDFile, pid, program, s.Program)
	}
	return nil
}

// ownGroup reports whether a group is the one that a user has for themselves: the
// primary one, of the same name.
func ownGroup(uid, gid uint32) bool {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil || u.Gid != strconv.FormatUint(uint64(gid), 10) {
		return false
	}
	g, err := user.LookupGroupId(u.Gid)
	return err == nil && g.Name == u.Username
}

// ticksPerSecond is what the times in /proc are in, on every Linux.
const ticksPerSecond = 100

// startTime is when a process began, by the wall clock as it is now.
func startTime(pid int) (time.Time, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	// The name, in parentheses, may hold anything. What follows its last ")" is
	// field 3 and on; the start is field 22.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return time.Time{}, fmt.Errorf("process %d: stat is not as expected", pid)
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("process %d: stat is not as expected: %w", pid, err)
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, os.NewSyscallError("clock_gettime", err)
	}
	age := time.Duration(boot.Nano()) - time.Duration(ticks)*(time.Second/ticksPerSecond)
	return time.Now().Add(-age), nil
}

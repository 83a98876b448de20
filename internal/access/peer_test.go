package access

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestUnitOf(t *testing.T) {
	for _, tt := range []struct{ cgroup, want string }{
		{"/system.slice/app.service", "app.service"},
		{"/system.slice/system-pg.slice/pg@15-main.service", "pg@15-main.service"},
		{"/system.slice/app.service/evil.service", "app.service"}, // made by the unit itself
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/evil.service", "user@1000.service"},
		{"/user.slice/user-1000.slice/session-3.scope", "session-3.scope"},
		{"/system.slice/_cgroup.service", "cgroup.service"},
		{"/../../system.slice/app.service", ""}, // outside of what we can see
		{"/evil/app.service", ""},
		{"/", ""},
		{"", ""},
	} {
		if got := unitOf(tt.cgroup); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.cgroup, got, tt.want)
		}
	}
}

func TestCgroupPath(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"v2", "0::/system.slice/a.service\n", "/system.slice/a.service"},
		{"hybrid", "4:memory:/\n1:name=systemd:/b\n0::/system.slice/a.service\n", "/system.slice/a.service"},
		{"v1", "4:memory:/x\n1:name=systemd:/system.slice/a.service\n", "/system.slice/a.service"},
		{"none", "4:memory:/x\n", ""},
	} {
		if got := cgroupPath([]byte(tt.file)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// accept makes a connection by dial and returns the other end of it.
func accept(t *testing.T, dial func(path string)) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	dial(path)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

func TestIdentify(t *testing.T) {
	c := accept(t, func(path string) {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	})
	p, err := Identify(c)
	if err != nil {
		t.Fatal(err)
	}
	if p.UID != uint32(os.Getuid()) || p.GID != uint32(os.Getgid()) || p.PID != int32(os.Getpid()) {
		t.Errorf("got %+v", p)
	}
	if p.How != HowPidfd && p.How != HowPidfdOpen || p.Why != "" {
		t.Errorf("not identified by pidfd: %+v", p)
	}
}

// As another user with 40 groups, which a first guess has no room for. The
// credentials are changed for one thread only, which ends with its goroutine.
func TestIdentifyOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	c := accept(t, func(path string) {
		if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked
			errs <- connectAs(path, 61777, 61778)
		}()
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	})
	p, err := Identify(c)
	if err != nil {
		t.Fatal(err)
	}
	if p.UID != 61777 || p.GID != 61778 || len(p.Groups) != 40 || !slices.Contains(p.Groups, 5039) {
		t.Errorf("got %+v", p)
	}
}

func connectAs(path string, uid, gid int) error {
	groups := make([]uint32, 40)
	for i := range groups {
		groups[i] = uint32(5000 + i)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return e
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// A process ID that now belongs to somebody else must not lend its unit.
func TestUnitIsNotTakenFromAnotherProcess(t *testing.T) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Skipf("no pidfd: %v", err)
	}
	defer unix.Close(fd)
	if _, err := provenUnit(fd, os.Getppid(), uint32(os.Getuid()), HowPidfd); err == nil {
		t.Error("a pidfd of one process vouched for another")
	}
	if _, err := provenUnit(fd, os.Getpid(), uint32(os.Getuid())+1, HowPidfdOpen); err == nil {
		t.Error("a process of another user was taken for the caller")
	}
	if _, err := provenUnit(fd, os.Getpid(), uint32(os.Getuid()), HowPidfdOpen); err != nil {
		t.Error(err)
	}
}

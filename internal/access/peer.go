package access

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How a caller's unit was found. Uid, gid and groups are always the kernel's.
const (
	// HowPidfd: by a pidfd that the kernel tied to the connection.
	HowPidfd = "pidfd"
	// HowPidfdOpen: by a pidfd opened from the process ID, as kernels before
	// 6.5 need it. A process ID that was given to another process of the same
	// user between connect() and accept() would go unnoticed.
	HowPidfdOpen = "pidfd-open"
	// HowCredentials: not at all; only uid, gid and groups are known.
	HowCredentials = "credentials"
)

// A Peer is the process at the other end of a Unix socket.
type Peer struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups
	PID      int32    // 0 if it is not visible from here
	Unit     string   // systemd unit, "" if there is none or it is not proven
	How      string   // one of the How constants
	// Why says why the unit is not known, "" if it is or there is none.
	Why string

	text []byte // as the audit has it, once it is identified
}

// Identify asks the kernel who connected to c. Only a missing uid is an error; a
// unit that cannot be proven is left empty and Why says so.
func Identify(c *net.UnixConn) (Peer, error) {
	p, err := identify(c)
	p.text = p.appendTo(nil)
	return p, err
}

func identify(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("identify caller: %w", err)
	}
	p := Peer{How: HowCredentials}
	pidfd := -1
	err = errors.Join(raw.Control(func(fd uintptr) {
		if err = p.credentials(int(fd)); err != nil {
			return
		}
		pidfd, p.How = openPidfd(int(fd), int(p.PID))
	}), err)
	if err != nil {
		return Peer{}, fmt.Errorf("identify caller: %w", err)
	}
	if pidfd < 0 {
		p.Why = "the process is gone, or is not visible from here"
		return p, nil
	}
	defer unix.Close(pidfd)
	p.Unit, err = provenUnit(pidfd, int(p.PID), p.UID, p.How)
	if err != nil {
		p.How, p.Why = HowCredentials, err.Error()
	}
	return p, nil
}

// credentials fills in what the kernel noted at connect().
func (p *Peer) credentials(fd int) error {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("SO_PEERCRED", err)
	}
	p.UID, p.GID, p.PID = u.Uid, u.Gid, u.Pid
	p.Groups, err = peerGroups(fd)
	return err
}

// peerGroups reads the supplementary groups: a first guess at how many, then as
// many as the kernel says.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return slices.Clip(groups[:size/4]), nil
		case unix.ERANGE:
			if int(size/4) <= len(groups) {
				return nil, os.NewSyscallError("SO_PEERGROUPS", errno)
			}
			groups = make([]uint32, size/4)
		default:
			return nil, os.NewSyscallError("SO_PEERGROUPS", errno)
		}
	}
}

// openPidfd gets a pidfd for the process that connected, or -1.
func openPidfd(fd, pid int) (pidfd int, how string) {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		unix.CloseOnExec(pidfd)
		return pidfd, HowPidfd
	}
	if err != unix.ENOPROTOOPT || pid <= 0 { // the kernel knows the option: the process is gone
		return -1, HowCredentials
	}
	if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return -1, HowCredentials
	}
	return pidfd, HowPidfdOpen
}

var errGone = errors.New("the process is gone")

// provenUnit reads the unit of a process from /proc. The order matters: what
// was read belongs to the process that connected only if that one is seen to be
// alive, under the same process ID, after the reading.
func provenUnit(pidfd, pid int, uid uint32, how string) (string, error) {
	if pid <= 0 {
		return "", errors.New("the process is not visible from here")
	}
	dir := "/proc/" + strconv.Itoa(pid)
	cgroup, errCgroup := os.ReadFile(dir + "/cgroup")
	if how == HowPidfdOpen {
		// The pidfd may be of a later process with the same ID. One of another
		// user is found out by this.
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			return "", errors.New("its status cannot be read")
		}
		if !statusHasUID(status, uid) {
			return "", errors.New("the process ID belongs to another user now")
		}
	}
	if unix.PidfdSendSignal(pidfd, 0, nil, 0) == unix.ESRCH || pidOf(pidfd) != pid {
		return "", errGone
	}
	if errCgroup != nil {
		return "", errors.New("its cgroup cannot be read (is ProtectProc= set?)")
	}
	return unitOf(cgroupPath(cgroup)), nil
}

// statusHasUID reports whether the effective uid in /proc/PID/status is uid.
func statusHasUID(status []byte, uid uint32) bool {
	_, rest, ok := bytes.Cut(status, []byte("\nUid:"))
	if !ok {
		return false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	f := bytes.Fields(line)
	return len(f) == 4 && string(f[1]) == strconv.FormatUint(uint64(uid), 10)
}

// pidOf is the process ID that a pidfd stands for, or -1 once it was reaped.
func pidOf(pidfd int) int {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return -1
	}
	_, rest, ok := bytes.Cut(b, []byte("\nPid:"))
	if !ok {
		return -1
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
	if err != nil {
		return -1
	}
	return pid
}

// cgroupPath finds the path that systemd uses in /proc/PID/cgroup: the "0::"
// line of cgroup v2 or, where there is none, that of the hierarchy named
// systemd.
func cgroupPath(file []byte) string {
	var v1 string
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSuffix(line, "\n")
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return path
		}
		if _, path, ok := strings.Cut(line, ":name=systemd:"); ok {
			v1 = path
		}
	}
	return v1
}

// unitOf is the first component below the slices, if it is a service or a
// scope. Components further down are made by the unit itself (Delegate=yes)
// and say nothing.
func unitOf(cgroup string) string {
	for part := range strings.SplitSeq(strings.Trim(cgroup, "/"), "/") {
		if strings.HasSuffix(part, ".slice") {
			continue
		}
		if isUnit(part) {
			return strings.TrimPrefix(part, "_") // systemd escapes names that clash with cgroup files
		}
		return ""
	}
	return ""
}

func isUnit(name string) bool {
	return strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope")
}

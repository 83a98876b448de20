package worker

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16 // its lower half, on little endian machines
)

// x32 marks calls of another ABI on amd64, which the filter does not know.
const x32 = 0x40000000

// auditArch is how the kernel calls an architecture.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// forbidden is what no PKCS#11 library has to do: run programs, look into other
// processes, change the system.
var forbidden = []uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS, unix.SYS_UNSHARE,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ADD_KEY, unix.SYS_KEYCTL,
	unix.SYS_REQUEST_KEY, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_PIDFD_GETFD,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
}

// namespaces are the flags of clone that make namespaces, in which more is allowed.
// Those of clone3 are behind a pointer, which a filter cannot follow: it is as if the
// kernel did not know that call, and libraries use the other then.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// confine takes privileges from all threads of the process, and, if asked to,
// what a library for a local token does not need. Sockets other than Unix
// sockets are for libraries of network HSMs only; without them a PIN cannot
// leave the host.
func confine(sandbox, network bool) error {
	runtime.LockOSThread() // the two calls must come from one thread
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	filter := []unix.SockFilter{statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW)}
	if sandbox {
		arch, known := auditArch[runtime.GOARCH]
		if !known {
			return fmt.Errorf("confine the worker: not known how on %s", runtime.GOARCH)
		}
		filter = program(arch, network)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// TSYNC puts all threads under the filter, and under no_new_privs, which is
	// a property of a thread.
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	return confined(thread, errno, sandbox)
}

// confined tells what came of the filter. A thread that could not be put under it is
// no error of the call, but its result.
func confined(thread uintptr, errno syscall.Errno, sandbox bool) error {
	switch {
	case !sandbox && (errno == unix.ENOSYS || errno == unix.EINVAL):
		return nil // a kernel without seccomp: there is nothing to confine with, and nothing was asked for
	case errno != 0:
		return fmt.Errorf("confine the worker: %w", errno)
	case thread != 0:
		return fmt.Errorf("confine the worker: thread %d is under another filter", thread)
	}
	return nil
}

// program is the filter: refused calls fail with EPERM, so that a library can
// tell, rather than kill the process.
func program(arch uint32, network bool) []unix.SockFilter {
	deny := statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
	allow := statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW)
	load := func(offset uint32) unix.SockFilter { return statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset) }
	p := []unix.SockFilter{load(dataArch), jump(unix.BPF_JEQ, arch, 1, 0), deny,
		load(dataNr), jump(unix.BPF_JGE, x32, 0, 1), deny}
	for _, nr := range forbidden {
		p = append(p, jump(unix.BPF_JEQ, nr, 0, 1), deny)
	}
	p = append(p, jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)),
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4), load(dataArg0), jump(unix.BPF_JSET, namespaces, 0, 1), deny, load(dataNr))
	if !network {
		p = append(p, jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, 3), load(dataArg0), jump(unix.BPF_JEQ, unix.AF_UNIX, 1, 0), deny)
	}
	return append(p, allow)
}

func statement(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jt: yes, Jf: no}
}

// Package pipe is two pipes to another process, used without a system call that
// waits.
package pipe

import (
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tick is how long Read waits at most before it lets its caller look around.
const Tick = 50 * time.Millisecond

// pipeBuf is what an empty pipe has room for whatever its size: PIPE_BUF of
// pipe(7).
const pipeBuf = 4096

// A Pipe writes into one pipe and reads from another without telling Go's
// scheduler of each system call, which is why none of them may wait: waiting is
// left to Go's poller. So the runtime's monitor thread sleeps while signatures are
// made; each call would else wake it, and have it look around every 20 us. Nor
// does the poller hear of it when the other side takes up what was written, as it
// does with a socket.
//
// It is used by one goroutine at a time, and closed by any.
type Pipe struct {
	in, out       *os.File
	rawIn, rawOut syscall.RawConn
	limit         time.Time // when reading ends next
	end           time.Time // when reading and writing end for good

	unsent []byte // what the next Read sends

	// Of the call under way. The functions are kept so that no call makes them.
	buf        []byte
	n          int
	errno      syscall.Errno
	read, send func(fd uintptr) (done bool)
	hand       func(fd uintptr)
}

// New returns our end and the two of the other side, which do wait.
func New() (ours *Pipe, in, out *os.File, err error) {
	p := &Pipe{}
	if p.in, out, err = pipe(0); err != nil {
		return nil, nil, nil, err
	}
	if in, p.out, err = pipe(1); err != nil {
		closeAll(p.in, out)
		return nil, nil, nil, err
	}
	if p.rawIn, err = p.in.SyscallConn(); err == nil {
		p.rawOut, err = p.out.SyscallConn()
	}
	if err != nil {
		closeAll(p.in, out, in, p.out)
		return nil, nil, nil, err
	}
	p.read = func(fd uintptr) bool {
		if len(p.unsent) > 0 {
			return !p.ask()
		}
		return p.call(unix.SYS_READ, fd, p.buf)
	}
	p.send = func(fd uintptr) bool { return p.call(unix.SYS_WRITE, fd, p.buf) }
	p.hand = func(fd uintptr) { p.call(unix.SYS_WRITE, fd, p.unsent) }
	return p, in, out, nil
}

// pipe makes a pipe, one end of which does not wait: 0 is for reading, 1 for
// writing.
func pipe(quiet int) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[quiet], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "lane"), os.NewFile(uintptr(fds[1]), "lane"), nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// call is false if the call would have to wait.
func (p *Pipe) call(trap, fd uintptr, b []byte) bool {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == unix.EINTR {
			continue
		}
		p.n, p.errno = int(n), errno
		return errno != unix.EAGAIN
	}
}

// ask sends what is unsent, and reports whether an answer can be waited for. The
// poller knows by now that somebody is to read: it misses no answer, and there is
// none to look for before it tells.
func (p *Pipe) ask() bool {
	if err := p.rawOut.Control(p.hand); err != nil {
		p.errno = unix.EPIPE
	}
	p.unsent = p.unsent[:0]
	return p.errno == 0
}

// Read waits for something to read, until the end or for half of Tick to all
// of it: after that it is os.ErrDeadlineExceeded. It sends first what Write has left
// to it.
func (p *Pipe) Read(b []byte) (int, error) {
	if now := time.Now(); p.limit.Sub(now) < Tick/2 || !p.end.IsZero() && p.limit.After(p.end) {
		p.limit = now.Add(Tick)
		if !p.end.IsZero() && p.end.Before(p.limit) {
			p.limit = p.end
		}
		if err := p.in.SetReadDeadline(p.limit); err != nil {
			return 0, err
		}
	}
	p.buf = b
	if err := p.rawIn.Read(p.read); err != nil {
		return 0, err
	}
	if p.errno != 0 {
		return 0, os.NewSyscallError("read", p.errno)
	}
	if p.n == 0 {
		return 0, io.EOF
	}
	return p.n, nil
}

// Write leaves to the next Read what an empty pipe has room for: the poller is
// troubled once for both. Of more it waits for room, until the end.
func (p *Pipe) Write(b []byte) (done int, err error) {
	if len(b) <= pipeBuf {
		p.unsent = append(p.unsent[:0], b...)
		return len(b), nil
	}
	if err := p.out.SetWriteDeadline(p.end); err != nil {
		return 0, err
	}
	for done < len(b) {
		p.buf = b[done:]
		if err := p.rawOut.Write(p.send); err != nil {
			return done, err
		}
		if p.errno != 0 {
			return done, os.NewSyscallError("write", p.errno)
		}
		done += p.n
	}
	return done, nil
}

// Until sets when reading and writing end. It is the zero Time until then: for
// ever, but for Tick.
func (p *Pipe) Until(end time.Time) { p.end = end }

// Close wakes whoever waits.
func (p *Pipe) Close() error {
	closeAll(p.in, p.out)
	return nil
}

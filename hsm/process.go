package hsm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/hsm/wire"
)

// A process is one life of the worker.
type process struct {
	cmd    *exec.Cmd
	socket net.Conn
	conn   *wire.Conn

	// room bounds how many requests are with the worker: one for each session that
	// signs. What runs alone takes all of it. turn is for what does not sign, which
	// the worker does one after the other. Nothing waits there for another request,
	// so the time it takes is the module's.
	room     *semaphore.Weighted
	capacity int64
	turn     *semaphore.Weighted

	// What was found when the token was opened; not changed after.
	serial string
	canary string // a key that must be there

	remains     []wire.Loose // of interrupted generations, perhaps; owned by Ensure
	remainsSeen time.Time    // when they were looked for first; zero before that

	next    atomic.Uint64
	drained chan struct{} // closed when all answers are read
	done    chan struct{} // closed when the process has ended

	mu      sync.Mutex
	pending map[uint64]*pendingCall // guarded by mu; nil once the process is given up
	why     error                   // why it is given up; guarded by mu
	lanes   []*lane                 // all there are; guarded by mu
	free    []*lane                 // not in use, the last used last; guarded by mu
}

type pendingCall struct {
	answer chan answer // with room for one
	timer  *time.Timer
}

type answer struct {
	payload []byte
	err     error
}

// startProcess starts a worker. It dies with this process, whatever happens: its
// socket closes, and the kernel kills it.
func startProcess(path string, env []string, lanes int, log *slog.Logger) (*process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "daemon")
	defer theirs.Close()
	socket, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	signing, given, err := newLanes(lanes)
	if err != nil {
		socket.Close()
		return nil, err
	}
	defer closeLanes(nil, given)
	stderr, theirErr, err := os.Pipe()
	if err != nil {
		socket.Close()
		closeLanes(signing, nil)
		return nil, err
	}
	defer theirErr.Close()
	cmd := exec.Command(path) //nolint:gosec,noctx // the path is configuration; the worker is ended by its socket
	cmd.ExtraFiles = append([]*os.File{theirs}, given...)
	cmd.Stdout, cmd.Stderr = theirErr, theirErr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = env
	p := &process{cmd: cmd, socket: socket, conn: wire.NewConn(socket), lanes: signing, turn: semaphore.NewWeighted(1),
		done: make(chan struct{}), drained: make(chan struct{}), pending: map[uint64]*pendingCall{}}
	p.setRoom(1)
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		socket.Close()
		stderr.Close()
		closeLanes(signing, nil)
		return nil, fmt.Errorf("%w: %w", errStart, err)
	}
	go logLines(stderr, log.With("worker_pid", cmd.Process.Pid))
	go p.read()
	return p, nil
}

// environment is what the worker finds in its own.
func (c *Config) environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(c.Without, name)
	})
	return append(env, c.Env...)
}

// run starts the process and waits for its end on one thread: the kernel sends
// the parent death signal when the thread that forked ends, not the process.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	err = p.cmd.Wait()
	select {
	case <-p.drained: // its last answer may say why
	case <-time.After(drainTimeout): // what the library has started has the socket too
	}
	p.giveUp(fmt.Errorf("%w (%s)", errLost, exitText(err)))
	close(p.done)
}

// drainTimeout is how long the answers of a process that has ended may take to
// be read.
const drainTimeout = time.Second

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// maxLogLines is how much one worker's library may print into our log.
const maxLogLines = 200

// logLines passes on what the library prints.
func logLines(r *os.File, log *slog.Logger) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	for n := 0; lines.Scan(); n++ {
		if n < maxLogLines {
			log.Warn("the HSM worker says", "text", lines.Text())
		}
	}
}

// setRoom lets n requests be with the worker at once.
func (p *process) setRoom(n int) {
	p.capacity = int64(n)
	p.room = semaphore.NewWeighted(p.capacity)
}

// use has n lanes in use from now on, which is as many as the worker serves.
func (p *process) use(n int) {
	p.setRoom(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == nil {
		closeLanes(p.lanes[n:], nil)
		p.lanes = p.lanes[:n]
		p.free = slices.Clone(p.lanes)
	}
}

// read hands out answers until the socket closes.
func (p *process) read() {
	defer close(p.drained)
	for {
		f, err := p.conn.Receive()
		if errors.Is(err, io.EOF) {
			_ = p.cmd.Process.Kill() // it has ended, or is of no use any more; run tells why
			return
		}
		if err != nil {
			p.giveUp(errLost)
			return
		}
		if f.Op != wire.OpError {
			p.answer(f.ID, answer{payload: f.Payload})
			continue
		}
		werr := &wire.Error{}
		if err := wire.Unmarshal(f.Payload, werr); err != nil {
			p.giveUp(err)
			return
		}
		p.answer(f.ID, answer{err: werr})
		if werr.Fatal {
			p.giveUp(fmt.Errorf("%w (%w)", errLost, werr))
			return
		}
	}
}

// answer gives a caller its answer, if it still has none.
func (p *process) answer(id uint64, a answer) {
	p.mu.Lock()
	c := p.pending[id]
	delete(p.pending, id)
	p.mu.Unlock()
	if c != nil {
		c.timer.Stop()
		c.answer <- a
	}
}

// giveUp kills the process and tells all callers why. The first reason stays. Its
// lanes are closed: what the library has started may hold their other ends open.
func (p *process) giveUp(why error) {
	p.mu.Lock()
	calls, lanes := p.pending, p.lanes
	p.pending, p.lanes, p.free = nil, nil, nil
	if p.why == nil {
		p.why = why
	}
	why = p.why
	p.mu.Unlock()
	_ = p.cmd.Process.Kill()
	p.socket.Close()
	closeLanes(lanes, nil)
	for _, c := range calls {
		c.timer.Stop()
		c.answer <- answer{err: lost(why)}
	}
}

// lost is what callers are told who did not cause the end.
func lost(why error) error {
	if errors.Is(why, errLost) {
		return why
	}
	return fmt.Errorf("%w (%w)", errLost, why)
}

// given reports why the process was given up, nil while it was not.
func (p *process) given() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// call sends a request and waits for the answer. If the worker has not answered
// in timeout it is killed, even when the caller no longer waits: something hangs.
func (p *process) call(ctx context.Context, weight int64, timeout time.Duration, op wire.Op, payload []byte) ([]byte, error) {
	if err := p.turn.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDeadline, err)
	}
	if err := p.room.Acquire(ctx, weight); err != nil {
		p.turn.Release(1)
		return nil, fmt.Errorf("%w: %w", ErrDeadline, err)
	}
	done := func() {
		p.room.Release(weight)
		p.turn.Release(1)
	}
	id := p.next.Add(1)
	c := &pendingCall{answer: make(chan answer, 1)}
	p.mu.Lock()
	if p.pending == nil {
		why := p.why
		p.mu.Unlock()
		done()
		return nil, lost(why)
	}
	c.timer = time.AfterFunc(timeout, func() { p.expire(id, timeout) })
	p.pending[id] = c
	p.mu.Unlock()
	if err := p.conn.Send(id, op, payload); err != nil {
		p.giveUp(errLost)
	}
	select {
	case a := <-c.answer:
		done()
		return a.payload, a.err
	case <-ctx.Done():
		go func() { // the place is taken until the worker is done with it
			<-c.answer
			done()
		}()
		return nil, fmt.Errorf("%w: %w", ErrDeadline, ctx.Err())
	}
}

// expire ends a worker that did not answer in time.
func (p *process) expire(id uint64, timeout time.Duration) {
	p.answer(id, answer{err: fmt.Errorf("%w: %v", ErrDeadline, timeout)})
	p.giveUp(fmt.Errorf("%w: the module took longer than %v", ErrDeadline, timeout))
}

// shutdown asks the worker to close the module and end, and kills it if that
// takes longer than timeout.
func (p *process) shutdown(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, _ = p.call(ctx, p.capacity, timeout, wire.OpClose, nil)
	p.giveUp(errLost)
	<-p.done
}

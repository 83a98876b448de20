package worker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/signet-agent/signet/hsm/wire"
)

const (
	// socketFD is where the daemon leaves its end of the conversation. Those of
	// the lanes come after it.
	socketFD = 3
	// closeTimeout is how long a module may take to close. One that takes
	// longer is left as it is: the process ends.
	closeTimeout = 2 * time.Second
	// queue holds requests that wait for a session; the daemon sends no more
	// than a few for each.
	queue = 1024
)

// Main is the whole worker. It returns the exit status of the process.
func Main() int {
	if err := harden(); err != nil {
		fmt.Fprintln(os.Stderr, "signet-hsm: "+err.Error())
		return 1
	}
	conn, err := net.FileConn(os.NewFile(socketFD, "daemon"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "signet-hsm: is started by signet, and is of no use by itself")
		return 2
	}
	// A service manager or a terminal that asks the daemon to stop asks this
	// process too. The daemon may still have something to sign: it ends this
	// process by closing the socket, after all else.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	debug.SetGCPercent(garbagePercent)
	w := &worker{conn: wire.NewConn(conn), others: make(chan wire.Frame, queue), end: make(chan int, 1)}
	go w.read()
	go w.serve()
	return <-w.end
}

// A worker carries out the daemon's requests.
type worker struct {
	conn   *wire.Conn
	others chan wire.Frame
	end    chan int // receives the exit status
	once   sync.Once

	m       *module // owned by serve; read by signers, which serve starts
	settled bool    // memory was given back, and little used since; owned by serve
}

// read takes requests off the socket until it closes, which is when the daemon
// ends. What is under way in the module then is not waited for.
func (w *worker) read() {
	for {
		f, err := w.conn.Receive()
		switch {
		case errors.Is(err, io.EOF):
			w.exit(0)
			return
		case err != nil:
			fmt.Fprintln(os.Stderr, "signet-hsm: "+err.Error())
			w.exit(1)
			return
		default:
			w.others <- f
		}
	}
}

func (w *worker) exit(status int) { w.once.Do(func() { w.end <- status }) }

// serve carries out everything but signatures, one after the other.
func (w *worker) serve() {
	for f := range w.others {
		if f.Op == wire.OpClose {
			w.close(f)
			return
		}
		reply, err := w.handle(f)
		w.reply(f, reply, err)
	}
}

// reply answers a request, and ends the process if the error is fatal.
func (w *worker) reply(f wire.Frame, reply any, err error) {
	if err == nil {
		if err = w.conn.SendJSON(f.ID, f.Op, reply); err != nil {
			w.exit(1)
		}
		return
	}
	werr := wireError("", err)
	_ = w.conn.SendJSON(f.ID, wire.OpError, werr)
	if werr.Fatal {
		w.conn.Flush()
		w.exit(1)
	}
}

// close finishes what is under way, closes the module and ends.
func (w *worker) close(f wire.Frame) {
	done := make(chan struct{})
	go func() {
		if w.m != nil {
			w.m.close()
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
	_ = w.conn.Send(f.ID, f.Op, nil)
	w.conn.Flush()
	w.exit(0)
}

// handle carries out one request.
func (w *worker) handle(f wire.Frame) (any, error) {
	if f.Op == wire.OpOpen {
		return w.open(f)
	}
	if w.m == nil {
		return nil, &wire.Error{Name: wire.BadRequest, Text: "the token is not open"}
	}
	if f.Op != wire.OpHealth {
		w.m.gate.busy().Store(1)
	}
	switch f.Op {
	case wire.OpLogin:
		return with(f, func(r wire.Login) (any, error) { return nil, w.m.login(r) })
	case wire.OpResolve:
		return with(f, w.m.resolve)
	case wire.OpList:
		return w.m.list()
	case wire.OpFind:
		return with(f, w.m.find)
	case wire.OpGenerate:
		return with(f, w.m.generate)
	case wire.OpDestroy:
		return with(f, func(r wire.Destroy) (any, error) { return nil, w.m.destroy(r) })
	case wire.OpAudit:
		return with(f, w.m.audit)
	case wire.OpEncrypt:
		return with(f, w.m.encrypt)
	case wire.OpDecrypt:
		return with(f, w.m.decrypt)
	case wire.OpHealth:
		return with(f, w.health)
	case wire.OpCertificate:
		return with(f, func(r wire.Certificate) (any, error) { return nil, w.m.storeCertificate(r) })
	}
	return nil, &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("operation %d", f.Op)}
}

// health looks at the token, and uses the occasion to settle when nothing else was
// asked for since the last time.
func (w *worker) health(req wire.Health) (any, error) {
	if w.m.gate.busy().Swap(0) != 0 {
		w.settled = false
	} else if !w.settled {
		settle()
		w.settled = true
	}
	return nil, w.m.health(req)
}

// with decodes a request and carries it out.
func with[Req, Reply any](f wire.Frame, do func(Req) (Reply, error)) (any, error) {
	var req Req
	if err := wire.Unmarshal(f.Payload, &req); err != nil {
		return nil, &wire.Error{Name: wire.BadRequest, Text: err.Error()}
	}
	return do(req)
}

// open opens the module and starts the goroutines that sign.
func (w *worker) open(f wire.Frame) (any, error) {
	var req wire.Open
	if err := wire.Unmarshal(f.Payload, &req); err != nil || w.m != nil {
		return nil, &wire.Error{Name: wire.BadRequest, Text: "open"}
	}
	m, opened, err := open(req)
	if err != nil {
		return nil, err
	}
	w.m = m
	for i := range m.signers {
		in, out := uintptr(socketFD+1+2*i), uintptr(socketFD+2+2*i)
		go w.sign(pipes{os.NewFile(in, "lane"), os.NewFile(out, "lane")}, &signer{m: m})
	}
	return opened, nil
}

// sign makes the signatures that are asked for on a lane, until it closes.
func (w *worker) sign(p pipes, s *signer) {
	lane := wire.NewLane(p)
	for {
		_, payload, err := lane.Receive(nil)
		if err != nil {
			return // the daemon has ended, which read notices too
		}
		var sig []byte
		req, err := wire.ParseSign(payload)
		if err != nil {
			err = &wire.Error{Name: wire.BadRequest, Text: err.Error()}
		} else {
			sig, err = s.sign(req)
		}
		if err == nil {
			if lane.Send(wire.OpSign, sig) != nil {
				return
			}
			var ended bool
			if ended, err = s.stay(lane, p); ended {
				return
			}
			if err == nil {
				continue
			}
		}
		werr := wireError("", err)
		if b, err := wire.Marshal(werr); err == nil {
			_ = lane.Send(wire.OpError, b)
		}
		if werr.Fatal {
			w.exit(1)
			return
		}
	}
}

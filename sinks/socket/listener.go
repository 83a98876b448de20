package socket

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// connKey is the context key of the *conn that a request came by.
type connKey struct{}

// A conn is a connection whose other end is known.
type conn struct {
	net.Conn
	peer   access.Peer
	head   []byte // what was read of it before net/http got it
	once   sync.Once
	closed func()
	ending atomic.Bool // it is quick, and the server is stopping
	// served is set while a request is answered by the server, and not by net/http.
	served  atomic.Bool
	refused func(status int, detail string) []byte // answers what net/http refused
}

// end has a quick connection end when it has answered what it was asked, and
// soon.
func (c *conn) end() {
	c.ending.Store(true)
	_ = c.SetReadDeadline(time.Unix(1, 0)) // one that is closed needs no deadline
	_ = c.SetWriteDeadline(time.Now().Add(stopTimeout))
}

// Read reads what was read before first.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite lets a caller read the last answer although its request was not read.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// ownAnswer is what the answers have at their head that net/http itself gives, to
// requests that it cannot take up.
var ownAnswer = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

// Write puts an answer of the API in place of one of net/http's own.
func (c *conn) Write(b []byte) (int, error) {
	if c.served.Load() {
		return c.Conn.Write(b)
	}
	line, detail, ok := bytes.Cut(b, ownAnswer)
	code, isAnswer := bytes.CutPrefix(line, []byte("HTTP/1.1 "))
	if !ok || !isAnswer || len(code) < 3 {
		return c.Conn.Write(b)
	}
	status, err := strconv.Atoi(string(code[:3]))
	if err != nil {
		return c.Conn.Write(b)
	}
	if _, err := c.Conn.Write(c.refused(status, string(detail))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close also gives back the caller's share of connections.
func (c *conn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

// A listener identifies who connects, once per connection, and bounds how many
// connections there are. Accept returns those that are for net/http.
type listener struct {
	net.Listener
	s     *Server
	total atomic.Int32
	ready chan accepted
	done  chan struct{} // closed by Close
	once  sync.Once
	work  sync.WaitGroup // quick connections

	mu    sync.Mutex
	uids  map[uint32]int     // guarded by mu: open connections by user
	quick map[*conn]struct{} // guarded by mu: those not with net/http; nil once closed
}

// accepted is what Accept returns.
type accepted struct {
	c   *conn
	err error
}

func newListener(ln net.Listener, s *Server) *listener {
	return &listener{Listener: ln, s: s, ready: make(chan accepted), done: make(chan struct{}),
		uids: map[uint32]int{}, quick: map[*conn]struct{}{}}
}

// tooMany is the whole answer to a connection beyond the limit. The socket's
// buffer has room for it, so it can be written without waiting.
const tooMany = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\nConnection: close\r\nRetry-After: 1\r\n\r\n" +
	`{"type":"about:blank","title":"Too Many Requests","status":429,"code":"busy","detail":"too many connections"}` + "\n"

// Accept returns the next connection that is for net/http.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		if a.err != nil {
			return nil, a.err
		}
		return a.c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close stops accepting, and ends quick connections when they have answered.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.quick {
			c.end()
		}
		l.quick = nil
	})
	return l.Listener.Close()
}

// run accepts until the listener is closed.
func (l *listener) run() {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			if !l.pass(accepted{err: err}) || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // net/http has waited a moment before it asked again
		}
		if c := l.known(nc); c != nil && l.begin(c) {
			go l.serve(c)
		}
	}
}

// pass hands something to net/http, unless that has stopped asking.
func (l *listener) pass(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.done:
		return false
	}
}

// begin notes a connection as quick.
func (l *listener) begin(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quick == nil {
		go c.Close() // which wants the lock
		return false
	}
	l.quick[c] = struct{}{}
	l.work.Add(1)
	return true
}

// serve answers a connection for as long as it is quick.
func (l *listener) serve(c *conn) {
	defer l.work.Done()
	more := (&quick{s: l.s, c: c}).serve()
	l.mu.Lock()
	delete(l.quick, c)
	l.mu.Unlock()
	if !more || !l.pass(accepted{c: c}) {
		c.Close()
	}
}

// known identifies who has connected. A connection that cannot be identified is
// closed, and does not disturb the others.
func (l *listener) known(nc net.Conn) *conn {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		l.s.cfg.Log.Error("connection is not of a Unix socket", "network", nc.LocalAddr().Network())
		return nil
	}
	peer, err := access.Identify(uc)
	if err != nil {
		nc.Close()
		l.s.cfg.Log.Warn("caller not identified", "err", err)
		return nil
	}
	if peer.Why != "" {
		l.s.cfg.Log.Debug("caller's unit not known", "uid", peer.UID, "pid", peer.PID, "why", peer.Why)
	}
	if !l.take(peer.UID) {
		_, _ = uc.Write([]byte(tooMany))
		nc.Close()
		return nil
	}
	return l.s.conn(uc, peer, func() { l.give(peer.UID) })
}

// conn is a connection of a caller; closed is called when it is.
func (s *Server) conn(c net.Conn, peer access.Peer, closed func()) *conn {
	k := &conn{Conn: c, peer: peer, closed: closed}
	k.refused = func(status int, detail string) []byte { return s.malformed(&k.peer, status, detail) }
	return k
}

// malformed records a request that could not be read, and is the answer to it.
func (s *Server) malformed(peer *access.Peer, status int, detail string) []byte {
	p := &Problem{Code: CodeInvalid, Detail: "the request is not one of HTTP/1.1 that is taken here: " + detail}
	e := access.Entry{ID: s.nextID(), Time: time.Now(), Peer: peer, Event: "request.refused", Status: status, Outcome: p.public(), Error: p.Detail}
	if err := s.refusals.add(&e); err != nil {
		s.cfg.Log.Debug("refusal not recorded", "err", err)
	}
	body := p.render(status, e.ID)
	s.cfg.Observe("other", status, 0)
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
}

func (l *listener) take(uid uint32) bool {
	if l.total.Load() >= maxConns {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uids[uid] >= maxConnsPerUID {
		return false
	}
	l.uids[uid]++
	l.total.Add(1)
	return true
}

func (l *listener) give(uid uint32) {
	l.total.Add(-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uids[uid]--; l.uids[uid] == 0 {
		delete(l.uids, uid)
	}
}

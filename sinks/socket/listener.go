package socket

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/signet-agent/signet/internal/access"
)

// connKey is the context key of the *conn that a request came by.
type connKey struct{}

// A conn is a connection whose other end is known.
type conn struct {
	*net.UnixConn
	peer   access.Peer
	once   sync.Once
	closed func()
}

// Close also gives back the caller's share of connections.
func (c *conn) Close() error {
	c.once.Do(c.closed)
	return c.UnixConn.Close()
}

// A listener identifies who connects, once per connection, and bounds how many
// connections there are.
type listener struct {
	net.Listener
	log   *slog.Logger
	total atomic.Int32
	mu    sync.Mutex
	uids  map[uint32]int // guarded by mu: open connections by user
}

func newListener(ln net.Listener, log *slog.Logger) *listener {
	return &listener{Listener: ln, log: log, uids: map[uint32]int{}}
}

// tooMany is the whole answer to a connection beyond the limit. The socket's
// buffer has room for it, so it can be written without waiting.
const tooMany = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\nConnection: close\r\nRetry-After: 1\r\n\r\n" +
	`{"type":"about:blank","title":"Too Many Requests","status":429,"code":"busy","detail":"too many connections"}` + "\n"

// Accept returns the next connection whose caller is known. A connection that
// cannot be identified is closed, and does not disturb the others.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uc, ok := nc.(*net.UnixConn)
		if !ok {
			nc.Close()
			l.log.Error("connection is not of a Unix socket", "network", nc.LocalAddr().Network())
			continue
		}
		peer, err := access.Identify(uc)
		if err != nil {
			nc.Close()
			l.log.Warn("caller not identified", "err", err)
			continue
		}
		if peer.Why != "" {
			l.log.Debug("caller's unit not known", "uid", peer.UID, "pid", peer.PID, "why", peer.Why)
		}
		if !l.take(peer.UID) {
			_, _ = uc.Write([]byte(tooMany))
			nc.Close()
			continue
		}
		return &conn{UnixConn: uc, peer: peer, closed: func() { l.give(peer.UID) }}, nil
	}
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

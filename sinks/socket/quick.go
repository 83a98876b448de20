package socket

import (
	"bytes"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// A quick connection is answered without net/http as long as its caller asks for
// nothing but secrets that are there: a request that arrives in one piece, is a
// plain GET /v1/secrets/NAME, is allowed, and whose secret may be served. At the
// first that is anything else, the connection goes to net/http with all that was
// read of it, and stays there. So what is here needs no opinion on anything
// unusual, and refuses nothing.
type quick struct {
	s  *Server
	c  *conn
	in []byte // what was read and not answered
	// until is the deadline that is set on the connection. It is set anew once
	// a second at most.
	until time.Time
	over  bool   // an answer could not be written
	head  []byte // of the last answer, for its memory
	entry access.Entry
}

// quickTimeout is for the next request to come and for an answer to be taken.
const quickTimeout = time.Minute

// maxQuick is the longest head of a request that is looked at here.
const maxQuick = 4 << 10

// serve answers until something has to go to net/http, and reports whether
// anything has: a connection that is over has not.
func (q *quick) serve() (more bool) {
	q.in = make([]byte, 0, maxQuick)
	if !q.extend(time.Now()) {
		return false
	}
	for {
		n, err := q.c.Conn.Read(q.in[len(q.in):cap(q.in)])
		q.in = q.in[:len(q.in)+n]
		if err != nil {
			return false
		}
		for len(q.in) > 0 {
			rest, ok := q.answer()
			if !ok {
				q.c.head = q.in
				return !q.over && q.c.Conn.SetDeadline(time.Time{}) == nil
			}
			q.in = q.in[:copy(q.in, rest)]
		}
	}
}

// answer answers the first request of what was read, if it can, and returns the
// rest.
func (q *quick) answer() (rest []byte, ok bool) {
	name, rest, ok := plainGet(q.in)
	if !ok {
		return nil, false
	}
	start := time.Now()
	slot := q.s.secrets.all()[string(name)]
	if slot == nil {
		return nil, false
	}
	it := slot.now.Load().item
	if !it.usable(start) {
		return nil, false
	}
	d := q.s.cfg.Policy.Decide(&q.c.peer, access.Action{Kind: access.Secret, Name: it.secret.Name})
	if !d.Allowed || q.s.cfg.Audit.Refusing() {
		return nil, false
	}
	if _, ok := q.s.limit.Take(q.c.peer.UID, start); !ok {
		return nil, false
	}
	q.entry = access.Entry{
		ID: q.s.nextID(), Time: start, Peer: &q.c.peer, Kind: access.Secret, Name: it.secret.Name, Event: "secret.read",
		Method: http.MethodGet, Status: http.StatusOK, Outcome: "ok", By: d.By, Duration: time.Since(start),
	}
	if q.s.cfg.Audit.Append(&q.entry) != nil {
		return nil, false
	}
	if q.over = !q.send(it, start); q.over {
		return nil, false
	}
	q.s.cfg.Observe("/v1/secrets/{name}", http.StatusOK, time.Since(start))
	return rest, true
}

// send writes the whole answer at once. The head, which says how long the body
// is, is put right before it.
func (q *quick) send(it *secretItem, now time.Time) bool {
	room := 256 + 3*len(it.secret.Version) // for the head
	buf := q.s.body(room + it.size())
	defer q.s.wipe(buf)
	*buf = it.appendTo((*buf)[:room], "", now)
	h := append(q.head[:0], "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Type: application/json\r\nDate: "...)
	h = append(h, q.s.date.text(now)...)
	h = appendETag(append(h, "\r\nEtag: "...), it.secret.Version)
	h = strconv.AppendInt(append(h, "\r\nContent-Length: "...), int64(len(*buf)-room), 10)
	q.head = append(h, "\r\n\r\n"...)
	if !q.extend(now) {
		return false
	}
	from := room - len(q.head)
	copy((*buf)[from:], q.head)
	_, err := q.c.Conn.Write((*buf)[from:])
	return err == nil
}

// extend keeps the deadline at least some way ahead.
func (q *quick) extend(now time.Time) bool {
	if q.until.Sub(now) > quickTimeout-time.Second {
		return true
	}
	q.until = now.Add(quickTimeout)
	err := q.c.Conn.SetDeadline(q.until)
	if q.c.ending.Load() { // and what end has set is gone
		q.c.end()
	}
	return err == nil
}

// plainGet takes the first request apart if it is one of those that are answered
// here: no query, no encoding in the name, and no headers but some that change
// nothing.
func plainGet(in []byte) (name, rest []byte, ok bool) {
	in, ok = bytes.CutPrefix(in, []byte("GET /v1/secrets/"))
	if !ok {
		return nil, nil, false
	}
	line, in, ok := bytes.Cut(in, []byte("\r\n"))
	if !ok {
		return nil, nil, false
	}
	name, ok = bytes.CutSuffix(line, []byte(" HTTP/1.1"))
	if !ok || len(name) == 0 || bytes.ContainsFunc(name, unusual) {
		return nil, nil, false
	}
	for host := false; ; {
		line, in, ok = bytes.Cut(in, []byte("\r\n"))
		switch {
		case !ok:
			return nil, nil, false
		case len(line) == 0:
			return name, in, host
		}
		key, value, ok := bytes.Cut(line, []byte(": "))
		switch {
		case !ok || bytes.ContainsFunc(value, control):
			return nil, nil, false
		case bytes.EqualFold(key, []byte("Host")):
			if host || !ownHost(string(value)) {
				return nil, nil, false
			}
			host = true
		case bytes.EqualFold(key, []byte("User-Agent")):
		case bytes.EqualFold(key, []byte("Accept")):
			if string(value) != "*/*" && string(value) != "application/json" {
				return nil, nil, false
			}
		case bytes.EqualFold(key, []byte("Accept-Encoding")):
		default:
			return nil, nil, false
		}
	}
}

// unusual reports whether a character of a name has a meaning in a URL, or may
// not be in one.
func unusual(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

func control(r rune) bool { return r < ' ' || r >= 0x7f }

// A date is the time as HTTP writes it, made once per second.
type date struct{ last atomic.Pointer[dated] }

type dated struct {
	second int64
	text   string
}

func (d *date) text(now time.Time) string {
	if l := d.last.Load(); l != nil && l.second == now.Unix() {
		return l.text
	}
	l := &dated{now.Unix(), now.UTC().Format(http.TimeFormat)}
	d.last.Store(l)
	return l.text
}

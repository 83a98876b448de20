package socket

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// An Event is something that happened to an item. Who may read the item may see
// its events; those of kind Admin only administrators. It must not hold a value.
type Event struct {
	Type  string // "secret.changed", "renewal.failed"
	Kind  access.Kind
	Name  string
	Attrs []Attr // more members of the data
}

// An Attr is a member of an event's data, such as "version".
type Attr struct {
	Name  string
	Value any // a string, or anything else that JSON can write
}

// Emit tells all who watch. It waits for none of them.
func (s *Server) Emit(e Event) {
	data := appendStamp([]byte(`{"time":`), time.Now())
	if e.Name != "" {
		data = appendText(append(data, `,"kind":`...), e.Kind.String())
		data = appendText(append(data, `,"name":`...), e.Name)
	}
	for _, a := range e.Attrs {
		data = append(appendText(append(data, ','), a.Name), ':')
		if text, ok := a.Value.(string); ok {
			data = appendText(data, text)
			continue
		}
		value, err := json.Marshal(a.Value)
		if err != nil {
			s.cfg.Log.Error("event not sent", "event", e.Type, "err", err)
			return
		}
		data = append(data, value...)
	}
	s.events.add(e, append(data, '}'))
}

// history is how many events a reader may be behind before it is told to read
// everything anew.
const history = 1024

// A bus is a list of events that each reader follows at its own pace. Nobody
// waits for a slow reader, and one that stopped reading keeps nothing alive
// for longer than its write deadline.
type bus struct {
	run    string        // begins event IDs
	seq    atomic.Uint64 // of last
	mu     sync.Mutex
	last   *node // guarded by mu
	oldest *node // guarded by mu: as far back as readers can resume
}

// A node is one event. Its next is set before ready is closed.
type node struct {
	seq   uint64
	kind  access.Kind
	name  string
	frame []byte // as it is sent
	next  *node
	ready chan struct{}
}

func newBus(run string) *bus {
	n := &node{ready: make(chan struct{})}
	return &bus{run: run, last: n, oldest: n}
}

func (b *bus) add(e Event, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := &node{seq: b.last.seq + 1, kind: e.Kind, name: e.Name, ready: make(chan struct{})}
	n.frame = b.frame(n.seq, e.Type, data)
	b.last.next = n
	close(b.last.ready)
	b.last = n
	b.seq.Store(n.seq)
	if n.seq-b.oldest.seq > history {
		b.oldest = b.oldest.next
	}
}

func (b *bus) frame(seq uint64, event string, data []byte) []byte {
	return slices.Concat([]byte("id: "+b.id(seq)+"\nevent: "+event+"\ndata: "), data, []byte("\n\n"))
}

func (b *bus) id(seq uint64) string { return b.run + "-" + strconv.FormatUint(seq, 10) }

// follow finds the node after which a reader goes on: the newest, or the one
// that it saw last. If that is not known any more, resync is set.
func (b *bus) follow(lastID string) (n *node, resync bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if lastID == "" {
		return b.last, false
	}
	text, ok := strings.CutPrefix(lastID, b.run+"-")
	seq, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil || seq < b.oldest.seq || seq > b.last.seq {
		return b.last, true
	}
	for n = b.oldest; n.seq < seq; n = n.next {
	}
	return n, false
}

// behind reports whether a reader that is at n has fallen too far behind.
func (b *bus) behind(n *node) bool { return b.seq.Load() > n.seq+history }

const heartbeat = 15 * time.Second

// watch sends events as they happen, as server-sent events.
func (q *request) watch() error {
	if err := q.known("events.watch"); err != nil {
		return err
	}
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	at, resync := q.s.events.follow(q.r.Header.Get("Last-Event-Id"))
	h := q.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h["Cache-Control"] = noStore
	q.status = http.StatusOK
	q.w.WriteHeader(http.StatusOK)
	if q.r.Method == http.MethodHead {
		return nil
	}
	st := &stream{q: q, rc: http.NewResponseController(q.w)}
	err := st.send([]byte("retry: 1000\n\n"), true)
	if err == nil && resync {
		err = st.resync(at)
	}
	if err == nil {
		err = st.follow(at)
	}
	if err != nil && !errors.Is(err, errGone) {
		q.s.cfg.Log.Debug("watcher dropped", "uid", q.peer.UID, "pid", q.peer.PID, "err", err)
	}
	return nil
}

var errGone = errors.New("the watcher is gone")

// A stream is the answer to one watcher.
type stream struct {
	q  *request
	rc *http.ResponseController
}

func (st *stream) follow(at *node) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-at.ready:
			next, err := st.catchUp(at)
			if err != nil {
				return err
			}
			at = next
		case <-beat.C:
			if err := st.send([]byte(":\n\n"), true); err != nil {
				return err
			}
		case <-st.q.stopping().Done():
			return errGone
		case <-st.q.r.Context().Done():
			return errGone
		}
	}
}

// catchUp sends what there is after at.
func (st *stream) catchUp(at *node) (*node, error) {
	for {
		if st.q.s.events.behind(at) {
			newest, _ := st.q.s.events.follow("")
			return newest, st.resync(newest)
		}
		select {
		case <-at.ready:
		default:
			return at, st.rc.Flush()
		}
		at = at.next
		if !st.sees(at) {
			continue
		}
		if err := st.send(at.frame, false); err != nil {
			return nil, err
		}
	}
}

func (st *stream) sees(n *node) bool {
	p := st.q.s.cfg.Policy
	return n.kind != access.Admin && p.Decide(st.q.peer, access.Action{Kind: n.kind, Name: n.name, Op: "read"}).Allowed ||
		p.Decide(st.q.peer, access.Action{Kind: access.Admin}).Allowed
}

// resync tells the watcher that it missed events.
func (st *stream) resync(at *node) error {
	return st.send(st.q.s.events.frame(at.seq, "resync", []byte("{}")), true)
}

func (st *stream) send(frame []byte, flush bool) error {
	if err := st.rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := st.q.w.Write(frame); err != nil {
		return err
	}
	if !flush {
		return nil
	}
	return st.rc.Flush()
}

package credentials

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// nobody is no user and no group: rules that name users do not match a unit.
const nobody = 1<<32 - 1

// A call is one connection while it is answered.
type call struct {
	s     *Server
	c     net.Conn
	peer  access.Peer
	at    address
	start time.Time
	entry access.Entry
	given string // the version of what it is answered
	// release ends that somebody else holds the connection; nil if nobody does.
	release func()
	handed  bool // the connection is another server's now
}

// newCall begins a call, or goes on with one. What it is about is in its address.
func (s *Server) newCall(h Held) *call {
	since := h.Since
	if since.IsZero() {
		since = time.Now()
	}
	id := s.run + "-" + strconv.FormatUint(s.counter.Add(1), 10)
	return &call{s: s, c: h.Conn, start: since, release: h.Release, entry: access.Entry{ID: id, Time: since, Event: "credential.read"}}
}

// answer delivers one credential, or refuses it.
func (s *Server) answer(ctx context.Context, h Held) {
	q := s.newCall(h)
	defer q.close()
	if err := q.identify(); err != nil {
		q.entry.Outcome = "denied"
		q.refuse(ctx, err)
		return
	}
	q.deliver(ctx)
}

// deliver answers the service manager, that it is having been seen to.
func (q *call) deliver(ctx context.Context) {
	content, err := q.content(ctx)
	if errors.Is(err, errStopping) && q.handOver() {
		return
	}
	if err == nil {
		q.entry.Outcome, q.entry.Duration = "ok", time.Since(q.start)
		if aerr := q.s.cfg.Audit.Append(&q.entry); aerr != nil {
			err = fmt.Errorf("the access cannot be recorded, so it is refused: %w", aerr)
		}
	}
	if err != nil {
		q.refuse(ctx, err)
		return
	}
	if q.s.holders != nil { // before it has it: better told once too often than never
		if err := q.s.holders.note(q.at, q.given); err != nil {
			q.s.cfg.Log.Warn("a change of the credential will not be told", "unit", q.at.unit, "credential", q.at.id, "err", err)
		}
	}
	if err := q.write(ctx, content); err != nil {
		q.s.cfg.Log.Warn("credential not delivered", "unit", q.at.unit, "credential", q.at.id, "err", err)
	}
}

// errStopping is why a unit that waits is not waited with any longer.
var errStopping = errors.New("the agent is stopping")

// handOver leaves the unit to the server that comes after this one, if one does.
// Nothing is recorded: it is not answered yet.
func (q *call) handOver() bool {
	h := Held{Conn: q.c, Since: q.start, Release: q.release}
	q.handed = q.s.cfg.HandOver != nil && q.s.cfg.HandOver(h)
	return q.handed
}

// close ends the connection, unless another server has it.
func (q *call) close() {
	if !q.handed {
		_ = q.c.Close() // whatever there was to say was said
	}
}

// letGo has nobody else hold the connection any more.
func (q *call) letGo() {
	if q.release != nil {
		q.release()
		q.release = nil
	}
}

// content is what is to be delivered to the unit, all checks made.
func (q *call) content(ctx context.Context) ([]byte, error) {
	cred, unknown := q.s.resolve(q.at.id)
	d := q.s.cfg.Policy.Decide(&access.Peer{UID: nobody, GID: nobody, Unit: q.at.unit}, access.Action{Kind: cred.kind, Name: cred.name})
	if !d.Allowed {
		q.entry.Outcome = "denied"
		return nil, fmt.Errorf("no rule of the policy allows %s %q to unit %s; rules for units count, those for users and groups do not", cred.kind, cred.name, q.at.unit)
	}
	q.entry.By = d.By
	if unknown != nil {
		q.entry.Outcome = "not-found"
		return nil, unknown
	}
	q.entry.Outcome = "unavailable"
	if q.s.cfg.Audit.Refusing() {
		return nil, errors.New("the access cannot be recorded, so it is refused; see the audit file")
	}
	now, err := q.await(ctx, cred)
	if ctx.Err() != nil {
		return nil, errStopping
	}
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", cred.kind, cred.name, err)
	}
	content, err := now.content(cred)
	q.given = now.version()
	q.entry.Outcome = "invalid"
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %q: %w", cred.kind, cred.name, err)
	case len(content) == 0:
		return nil, fmt.Errorf("%s %q: %s is empty, and nothing empty is delivered", cred.kind, cred.name, cred.part)
	case len(q.at.id)+len(content) > maxCredential:
		return nil, fmt.Errorf("%s %q: is longer than the 1 MiB that systemd accepts", cred.kind, cred.name)
	}
	return content, nil
}

// await is the item, waited for if need be. While that lasts, the connection is
// held: if the process is killed, it must not be closed, as that would be an
// empty credential.
func (q *call) await(ctx context.Context, cred credential) (slot, error) {
	now, _ := q.s.look(q.s.slotOf(cred))
	if now.usable(cred.kind, time.Now()) == nil {
		q.letGo()
		return now, nil
	}
	if c, ok := q.c.(*net.UnixConn); ok && q.s.cfg.Hold != nil && q.release == nil {
		release, err := q.s.cfg.Hold(c)
		if err != nil {
			q.s.cfg.Log.Warn("a crash now would give an empty credential", "unit", q.at.unit, "credential", q.at.id, "err", err)
		}
		q.release = release
	}
	now, err := q.s.await(ctx, cred, q.start)
	if ctx.Err() == nil {
		q.letGo()
	}
	return now, err
}

// identify believes the address only if the process that connected is what it
// says.
func (q *call) identify() error {
	uc, ok := q.c.(*net.UnixConn)
	if !ok {
		return errAddress
	}
	var at address
	var err error
	if q.peer, err = access.Identify(uc); err != nil {
		return err
	}
	q.entry.Peer = &q.peer
	if remote, ok := uc.RemoteAddr().(*net.UnixAddr); ok && remote != nil {
		at, err = parseAddress(remote.Name)
	} else {
		err = errAddress
	}
	if err != nil {
		return err
	}
	q.about(at)
	return believe(&q.peer, q.at.unit, q.s.cfg.Refresh != nil)
}

// about notes what is asked for, and for whom: a refusal says so too, of who is
// not believed.
func (q *call) about(at address) {
	asked, _ := q.s.resolve(at.id)
	q.at, q.entry.Kind, q.entry.Name, q.entry.Path = at, asked.kind, asked.name, at.id
}

// managersScope is where the service manager itself is, and what it starts for
// itself. It is no part of a name: a user's manager is in a service.
const managersScope = "init.scope"

// believe tells the service manager from who says to be it. To start a unit it
// asks from the unit's cgroup. To reload one that refreshes its credentials, as
// systemd 260 and later can, it asks from its own.
func believe(peer *access.Peer, unit string, refreshes bool) error {
	switch {
	case peer.UID != 0:
		return fmt.Errorf("user %d claims to be the service manager starting %s", peer.UID, unit)
	case peer.Unit == "" && peer.Why != "":
		return fmt.Errorf("a process claims to be the service manager starting %s, and it is not known which unit it belongs to: %s", unit, peer.Why)
	case peer.Unit == unit, peer.Unit == managersScope && refreshes:
		return nil
	}
	return fmt.Errorf("a process of %q claims to be the service manager starting %s", peer.Unit, unit)
}

// refuse keeps the unit from starting. Closing the connection would be an empty
// credential.
func (q *call) refuse(ctx context.Context, why error) {
	q.letGo()
	q.s.cfg.Log.Warn("credential refused; the unit does not start", "unit", q.at.unit, "credential", q.at.id,
		"uid", q.peer.UID, "pid", q.peer.PID, "err", why)
	q.entry.Error, q.entry.Duration = why.Error(), time.Since(q.start)
	if err := q.s.cfg.Audit.Append(&q.entry); err != nil {
		q.s.cfg.Log.Debug("refusal not recorded", "err", err)
	}
	_ = q.write(ctx, poison()) // the service manager hangs up when it has read enough
}

// Refuse refuses connections that no server will answer, as it cannot start:
// closed with nothing said, they would be empty credentials.
func Refuse(held []Held) {
	ctx, stop := context.WithCancel(context.Background())
	stop() // the answers end within the time that a stop has
	var wg sync.WaitGroup
	for _, h := range held {
		wg.Go(func() {
			q := &call{c: h.Conn, release: h.Release}
			defer q.close()
			q.letGo()
			_ = q.write(ctx, poison()) // as in refuse
		})
	}
	wg.Wait()
}

// write sends an answer and ends it. The service manager is waited for until the
// agent stops, as part of an answer would be a credential to it; others are not.
// What goes on then ends before the agent would be killed.
func (q *call) write(ctx context.Context, b []byte) error {
	limit := func(d time.Duration) { _ = q.c.SetWriteDeadline(time.Now().Add(d)) } // it cannot fail on an open connection
	if q.entry.Peer == nil || q.peer.UID != 0 {
		limit(writeTimeout)
	}
	defer context.AfterFunc(ctx, func() { limit(stopTimeout) })()
	_, err := q.c.Write(b)
	if c, ok := q.c.(*net.UnixConn); ok {
		err = errors.Join(err, c.CloseWrite()) // the end, whoever else has the connection
	}
	return err
}

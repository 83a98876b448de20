package credentials

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// A handover is a unit that waits for late.v at one server after the other.
type handover struct {
	Held
	peer net.Conn // the unit's end
	held int      // how many hold the connection besides
}

func newHandover() *handover {
	h := &handover{held: 1}
	h.Conn, h.peer = net.Pipe()
	h.Release = func() { h.held-- }
	return h
}

// wait has the unit wait at a server until ctx is done or it is answered, and
// reports whether it is another server's affair then. The server takes it if it may.
func (h *handover) wait(ctx context.Context, s *Server, may bool) (handed bool) {
	s.cfg.HandOver = func(now Held) bool {
		if may {
			h.Held = now
		}
		return may
	}
	q := s.newCall(h.Held)
	q.about(address{"app.service", "late.v"})
	q.deliver(ctx)
	q.close()
	return q.handed
}

func stopAfter(t *testing.T, d time.Duration) context.Context {
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(d, stop)
	return ctx
}

// A unit that waits when the agent is told to read its configuration again goes
// on waiting, all in all as long as before, and is answered by the next server.
func TestAUnitThatWaitsOutlastsAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandover()
		start := time.Now()
		for range 2 {
			if !h.wait(stopAfter(t, 10*time.Second), server(t, fetch(away)), true) || h.held != 1 || !h.Since.Equal(start) {
				t.Fatalf("not handed over as it was: held by %d, since %v", h.held, h.Since)
			}
		}
		last := server(t, fetch(away))
		time.AfterFunc(10*time.Second, func() {
			last.PublishSecret(&sinks.Secret{Name: "late", UsableUntil: time.Now().Add(time.Hour), Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte("it came"))})})
		})
		go h.wait(t.Context(), last, true)
		if got, err := io.ReadAll(h.peer); string(got) != "it came" || err != nil || h.held != 0 || time.Since(start) != 30*time.Second {
			t.Errorf("%q, %v after %v; held by %d", got, err, time.Since(start), h.held)
		}

		h = newHandover()
		start = time.Now()
		h.wait(stopAfter(t, 50*time.Second), server(t, fetch(away)), true)
		go h.wait(t.Context(), server(t, fetch(away)), true)
		if got, err := io.ReadAll(h.peer); len(got) <= maxCredential || err != nil || time.Since(start) != time.Minute {
			t.Errorf("answered %d bytes, %v after %v; it was to wait a minute in all", len(got), err, time.Since(start))
		}
	})
}

// Where no server comes after this one the unit is refused, and so is one that
// was left to a server that did not start.
func TestAUnitThatWaitsIsRefusedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandover()
		go h.wait(stopAfter(t, time.Second), server(t, fetch(away)), false)
		if got, err := io.ReadAll(h.peer); len(got) <= maxCredential || err != nil || h.held != 0 {
			t.Errorf("at a stop: %d bytes, %v; held by %d", len(got), err, h.held)
		}
		h = newHandover()
		h.wait(stopAfter(t, time.Second), server(t, fetch(away)), true)
		go Refuse([]Held{h.Held})
		if got, err := io.ReadAll(h.peer); len(got) <= maxCredential || err != nil || h.held != 0 {
			t.Errorf("without a server: %d bytes, %v; held by %d", len(got), err, h.held)
		}
	})
}

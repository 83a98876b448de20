package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream/manager"
)

// memShelf is a shelf in memory.
type memShelf map[string][]byte

func (m memShelf) Meta(name string) ([]byte, error)        { return m[name], nil }
func (m memShelf) SetMeta(name string, value []byte) error { m[name] = value; return nil }

// The Manager's event is raised as ours once, at the start or within a day, and
// not again after a restart; a Manager that is away is asked again.
// A noticeBoard is the Manager's event log, and what became of it here.
type noticeBoard struct {
	mu     sync.Mutex
	list   []manager.Event
	err    error
	asked  int
	raised []event
}

func (b *noticeBoard) events(context.Context) ([]manager.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	return b.list, b.err
}

func (b *noticeBoard) emit(e event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.raised = append(b.raised, e)
}

// set is what the Manager answers from now on.
func (b *noticeBoard) set(err error, list ...manager.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list, b.err, b.asked = list, err, 0
}

func (b *noticeBoard) counts() (asked, raised int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked, len(b.raised)
}

func TestEventsOfTheManagerAreRaisedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(20 * day)
		b, shelf, ready := &noticeBoard{}, memShelf{}, make(chan struct{})
		start := func() (*expiryWatch, func()) {
			w := &expiryWatch{name: "host", share: 0.5, ready: ready, shelf: shelf, log: slog.New(slog.DiscardHandler), emit: b.emit, events: b.events}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.run(ctx) }()
			synctest.Wait()
			return w, func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		w, stop := start()
		if asked, _ := b.counts(); asked != 0 {
			t.Error("asked before there is a certificate to ask with")
		}
		close(ready)
		time.Sleep(3*day + time.Minute)
		synctest.Wait()
		if asked, raised := b.counts(); asked != 4 || raised != 0 || w.notice(end) != "" {
			t.Errorf("asked %d times in three days, raised %d", asked, raised)
		}
		b.set(nil, manager.Event{ID: 7, Type: "other", Expiration: end.Add(day)}, manager.Event{ID: 8, Type: "certificateExpiring", Expiration: end})
		time.Sleep(day)
		synctest.Wait()
		if raised := b.raised; len(raised) != 1 || raised[0].Type != eventCertificateExpiring || raised[0].Source != sourceManager || !raised[0].NotAfter.Equal(end) {
			t.Fatalf("raised %+v", raised)
		}
		if w.notice(end) == "" || w.notice(end.Add(day)) != "" {
			t.Error("the notice is of that certificate, and of no other")
		}
		time.Sleep(3 * day)
		synctest.Wait()
		stop()
		w, stop = start()
		if _, raised := b.counts(); raised != 1 || w.notice(end) == "" {
			t.Errorf("raised %d times", raised)
		}
		b.set(errors.New("away"))
		time.Sleep(2 * day)
		synctest.Wait()
		if asked, _ := b.counts(); asked < 24 || asked > 200 {
			t.Errorf("asked %d times in two days of outage", asked)
		}
		stop()
	})
}

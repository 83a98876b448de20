package credentials

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// memStore is a Store of one kind.
type memStore map[string][]byte

func (m memStore) Records(string) (map[string][]byte, error) { return maps.Clone(m), nil }

func (m memStore) SaveRecord(_, name string, value []byte) error {
	m[name] = value
	return nil
}

func (m memStore) DeleteRecord(_, name string) error {
	delete(m, name)
	return nil
}

// A refreshRig is units that are told of changes.
type refreshRig struct {
	*Server
	stop func()

	mu    sync.Mutex
	told  []string // guarded by mu
	fails int      // guarded by mu: how many of the next calls for web.service
}

func newRefreshRig(t *testing.T, store Store) *refreshRig {
	t.Helper()
	r := &refreshRig{}
	r.Server = newServer(t, Config{Secrets: []string{"db"}, Certificates: []string{"web"}, Store: store,
		Refresh: func(_ context.Context, unit string) (bool, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if unit == "web.service" && r.fails > 0 {
				r.fails--
				return false, errors.New("no bus")
			}
			r.told = append(r.told, unit)
			return unit != "fixed.service", nil
		}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.RunRefresh(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return r
}

// give has units get a credential as it is now, as a start does and a reload.
func (r *refreshRig) give(t *testing.T, id string, units ...string) {
	t.Helper()
	cred, err := r.resolve(id)
	if err != nil {
		t.Fatal(err)
	}
	now, _ := r.look(r.slotOf(cred))
	for _, unit := range units {
		if err := r.holders.note(address{unit, id}, now.version()); err != nil {
			t.Fatal(err)
		}
	}
}

// fail has the next calls for web.service fail.
func (r *refreshRig) fail(calls int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fails = calls
}

func (r *refreshRig) publish(version string) {
	r.PublishSecret(&sinks.Secret{Name: "db", Version: version, UsableUntil: time.Now().Add(time.Hour), Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte(version))})})
}

// want holds who was told since it was asked last.
func (r *refreshRig) want(t *testing.T, when string, units ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.told, units) {
		t.Errorf("%s: told %q, want %q", when, r.told, units)
	}
	r.told = nil
}

// A unit is told of a change of what it was given, once, and also when the agent
// was not running as it came; nobody else is told.
func TestUnitsAreToldOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memStore{"gone.service/old.v": []byte("1")}
		r := newRefreshRig(t, store)
		r.publish("1")
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a1"})
		r.give(t, "db.v", "app.service", "fixed.service")
		r.give(t, "web.pem", "web.service")
		r.publish("1")
		r.want(t, "without a change")

		r.publish("2")
		r.want(t, "a change", "app.service", "fixed.service")
		r.publish("2")
		r.want(t, "the same again")
		r.give(t, "db.v", "app.service") // its reload asks
		r.publish("3")
		r.want(t, "the next change", "app.service", "fixed.service")
		r.WithdrawSecret("db", "deactivated")
		r.want(t, "a refusal of the upstream")
		r.stop()

		if names := strings.Join(slices.Sorted(maps.Keys(store)), " "); names != "fixed.service/db.v web.service/web.pem" {
			t.Errorf("remembered: %s", names)
		}
		r = newRefreshRig(t, store)
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a2"})
		r.want(t, "a change while the agent was away", "web.service")
		r.stop()
	})
}

// A unit that cannot be told is tried again after a while, which grows, however
// often something changes meanwhile; others are told at once.
func TestFailuresAreTriedAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRefreshRig(t, memStore{})
		r.publish("1")
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a1"})
		r.give(t, "web.pem", "web.service")
		r.give(t, "db.v", "app.service")
		r.fail(2)
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a2"})
		r.want(t, "a failure")
		r.publish("2")
		r.want(t, "a change of something else after it", "app.service")
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a3"})
		r.want(t, "another change after it")
		time.Sleep(time.Minute) // which fails once more
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a4"})
		time.Sleep(29 * time.Second)
		r.want(t, "soon after the second failure")
		time.Sleep(2 * time.Minute)
		r.want(t, "a while after the second failure", "web.service")

		r.give(t, "web.pem", "web.service")
		r.fail(1)
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a5"})
		r.want(t, "a new failure")
		r.give(t, "web.pem", "web.service") // it was started again
		synctest.Wait()
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a6"})
		r.want(t, "a change after it had asked by itself", "web.service")
		r.stop()
	})
}

// A unit that is given parts of two versions, as a rotation came in between, is
// told.
func TestPartsOfTwoVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRefreshRig(t, memStore{})
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a1"})
		r.give(t, "web.crt", "web.service")
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a2"})
		r.give(t, "web.key", "web.service")
		r.want(t, "a rotation in between", "web.service")
		r.give(t, "web.crt", "web.service")
		r.give(t, "web.key", "web.service")
		r.want(t, "its reload")
		r.stop()
	})
}

// Who has asked in between is not forgotten.
func TestToldTooLate(t *testing.T) {
	r := &refreshRig{Server: newServer(t, Config{Secrets: []string{"db"}, Store: memStore{}})}
	r.publish("1")
	r.give(t, "db.v", "app.service")
	r.publish("2")
	out, _ := r.outdated()
	r.give(t, "db.v", "app.service")
	if err := r.holders.told(out["app.service"], true); err != nil {
		t.Fatal(err)
	}
	r.publish("3")
	if out, _ := r.outdated(); len(out["app.service"]) != 1 {
		t.Errorf("outdated are %v", out)
	}
}

// What a unit is answered is on disk before it has it, with its version, whether
// it can be refreshed in this run or not; what it is refused is not.
func TestAnswersAreRemembered(t *testing.T) {
	for _, refresh := range []func(context.Context, string) (bool, error){
		nil,
		func(context.Context, string) (bool, error) { return true, nil },
	} {
		store := memStore{}
		cfg := server(t, fetch(away)).cfg
		cfg.Refresh, cfg.Store = refresh, store
		s := newServer(t, cfg)
		s.PublishSecret(&sinks.Secret{Name: "late", Version: "7", UsableUntil: time.Now().Add(time.Hour), Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte("x"))})})
		for _, id := range []string{"late.nope", "late.v"} {
			here, there := net.Pipe()
			q := &call{s: s, c: here, at: address{"app.service", id}, start: time.Now()}
			go func() {
				q.deliver(t.Context())
				here.Close()
			}()
			if _, err := io.ReadFull(there, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if got := string(store["app.service/"+id]); got != map[string]string{"late.v": "7"}[id] {
				t.Errorf("%s was answered, and version %q is remembered", id, got)
			}
			there.Close()
		}
	}
}

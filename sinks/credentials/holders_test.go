package credentials

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/access"
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

	mu   sync.Mutex
	told []string // guarded by mu
	err  error    // guarded by mu: of the next call
}

func newRefreshRig(t *testing.T, store Store) *refreshRig {
	t.Helper()
	r := &refreshRig{}
	r.Server = newServer(t, Config{Secrets: []string{"db"}, Certificates: []string{"web"}, Store: store,
		Refresh: func(_ context.Context, unit string) (bool, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			err := r.err
			if r.err = nil; err == nil {
				r.told = append(r.told, unit)
			}
			return unit != "fixed.service", err
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

// give has units get what there is now, as a start does and a reload.
func (r *refreshRig) give(t *testing.T, kind access.Kind, name string, units ...string) {
	t.Helper()
	now, _ := r.look(r.slotOf(credential{kind: kind, name: name}))
	for _, unit := range units {
		if err := r.holders.note(held{unit, kind, name}, now.version()); err != nil {
			t.Fatal(err)
		}
	}
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
		store := memStore{"gone.service/secret/old": []byte("1")}
		r := newRefreshRig(t, store)
		r.publish("1")
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a1"})
		r.give(t, access.Secret, "db", "app.service", "fixed.service")
		r.give(t, access.Certificate, "web", "web.service")
		r.publish("1")
		r.want(t, "without a change")

		r.publish("2")
		r.want(t, "a change", "app.service", "fixed.service")
		r.publish("2")
		r.want(t, "the same again")
		r.give(t, access.Secret, "db", "app.service") // its reload asks
		r.publish("3")
		r.want(t, "the next change", "app.service", "fixed.service")

		r.mu.Lock()
		r.err = errors.New("no bus")
		r.mu.Unlock()
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a2"})
		r.want(t, "a failure")
		time.Sleep(refreshRetry)
		r.want(t, "a while after the failure", "web.service")
		r.give(t, access.Certificate, "web", "web.service")
		r.WithdrawSecret("db", "deactivated")
		r.want(t, "a refusal of the upstream")
		r.stop()

		if names := strings.Join(slices.Sorted(maps.Keys(store)), " "); names != "fixed.service/secret/db web.service/certificate/web" {
			t.Errorf("remembered: %s", names)
		}
		r = newRefreshRig(t, store)
		r.PublishCertificate(&sinks.Certificate{Name: "web", Serial: "a3"})
		r.want(t, "a change while the agent was away", "web.service")
		r.stop()
	})
}

// Who has asked in between is not forgotten.
func TestToldTooLate(t *testing.T) {
	r := &refreshRig{Server: newServer(t, Config{Secrets: []string{"db"}, Store: memStore{},
		Refresh: func(context.Context, string) (bool, error) { return true, nil }})}
	r.publish("1")
	r.give(t, access.Secret, "db", "app.service")
	r.publish("2")
	out, _ := r.outdated()
	r.give(t, access.Secret, "db", "app.service")
	if err := r.holders.told(out["app.service"], true); err != nil {
		t.Fatal(err)
	}
	r.publish("3")
	if out, _ := r.outdated(); len(out["app.service"]) != 1 {
		t.Errorf("outdated are %v", out)
	}
}

// What is answered is what is remembered.
func TestAnswersAreRemembered(t *testing.T) {
	s := server(t, fetch(away))
	s.PublishSecret(&sinks.Secret{Name: "late", Version: "7", UsableUntil: time.Now().Add(time.Hour), Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte("x"))})})
	q := &call{s: s, at: address{"app.service", "late.v"}, start: time.Now()}
	if _, err := q.content(t.Context()); err != nil || q.given != "7" || q.entry.Name != "late" {
		t.Errorf("version %q of %q, %v", q.given, q.entry.Name, err)
	}
}

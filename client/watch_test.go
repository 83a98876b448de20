package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestWatchYieldsEachChangeOnceAndInOrder(t *testing.T) {
	a := newAgent(t)
	db := a.secret("db")
	db.set("1", time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	seen := make(chan string)
	go func() {
		defer close(seen)
		for s, err := range a.client().Watch(ctx, "db", "") {
			if err != nil {
				seen <- string(CodeOf(err))
				continue
			}
			seen <- s.Version
		}
	}()
	expect := func(want string) {
		t.Helper()
		if got := <-seen; got != want {
			t.Fatalf("yielded %s, want %s", got, want)
		}
	}
	expect("1")
	db.set("2", time.Hour)
	expect("2")

	a.stop() // the agent restarts, with the same version and then with a new one
	a.start()
	db.set("3", time.Hour)
	expect("3")

	db.withdraw(403, "denied") // once, however often it is asked
	expect("denied")
	n := a.count("GET /v1/secrets/db")
	eventually(t, "asked again after a refusal", func() bool { return a.count("GET /v1/secrets/db") > n+2 })
	db.set("3", time.Hour)
	expect("3")

	stop()
	if v, more := <-seen; more {
		t.Errorf("after the end: %s", v)
	}
}

func TestWatchBeginsAfterTheVersionThatIsKnown(t *testing.T) {
	a := newAgent(t)
	db := a.secret("db")
	db.set("1", time.Hour)
	c := a.client()
	first := make(chan string, 1)
	go func() {
		for s, err := range c.Watch(t.Context(), "db", "1") {
			first <- fmt.Sprint(s, err)
			return
		}
	}()
	eventually(t, "a poll", func() bool { return a.count("GET /v1/secrets/db?") == 1 })
	db.set("2", time.Hour)
	if got, want := <-first, `secret("db", version "2") <nil>`; got != want {
		t.Errorf("first %s, want %s", got, want)
	}
}

func TestSecretIsReadOnceAndThenKept(t *testing.T) {
	a := newAgent(t)
	db := a.secret("db")
	db.set("1", time.Hour)
	c := a.client()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if s, err := c.Secret(t.Context(), "db"); err != nil || s.Version != "1" {
				t.Errorf("%v, %v", s, err)
			}
		})
	}
	all.Wait()
	eventually(t, "a poll", func() bool { return a.count("GET /v1/secrets/db?") == 1 })
	for range 1000 {
		if _, err := c.Secret(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.count("GET /v1/secrets/db"); n > 3 { // the reads that shared one flight, or just missed it, and the poll
		t.Errorf("%d requests", n)
	}
}

func TestSecretFollowsAndOutlivesTheAgent(t *testing.T) {
	a := newAgent(t)
	db := a.secret("db")
	db.set("1", time.Hour)
	c := a.client()
	version := func() string {
		s, err := c.Secret(t.Context(), "db")
		if err != nil {
			return string(CodeOf(err))
		}
		if s.Fields["password"] != "p"+s.Version {
			t.Errorf("version %s with the password of another", s.Version)
		}
		return s.Version
	}
	if v := version(); v != "1" {
		t.Fatal(v)
	}
	db.set("2", time.Hour)
	eventually(t, "version 2", func() bool { return version() == "2" })

	a.stop()
	if v := version(); v != "2" {
		t.Errorf("with the agent away: %s", v)
	}
	db.set("3", time.Hour)
	a.start()
	eventually(t, "version 3 after a restart", func() bool { return version() == "3" })

	db.withdraw(404, "not-found")
	eventually(t, "the withdrawal", func() bool { return version() == "not-found" })
	db.set("4", time.Hour)
	eventually(t, "version 4 after a withdrawal", func() bool { return version() == "4" })
}

func TestSecretIsNotServedPastItsTime(t *testing.T) {
	a := newAgent(t)
	db := a.secret("db")
	db.set("1", 80*time.Millisecond)
	c := a.client()
	if _, err := c.Secret(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	a.stop()
	eventually(t, "the end of a value without an agent", func() bool {
		_, err := c.Secret(t.Context(), "db")
		return CodeOf(err) == Unavailable
	})
}

func TestKeptSecretInTime(t *testing.T) {
	noon := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	h := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	for _, tt := range []struct {
		name string
		s    Secret
		at   time.Time
		want string
	}{
		{"fresh", Secret{FreshUntil: h(1)}, noon, "fresh"},
		{"fresh no more, and nothing known of later", Secret{FreshUntil: h(1)}, h(1), "none"},
		{"usable for longer", Secret{FreshUntil: h(1), UsableUntil: h(3)}, h(2), "stale"},
		{"usable no more", Secret{FreshUntil: h(1), UsableUntil: h(3)}, h(3), "none"},
		{"never past its rotation", Secret{FreshUntil: h(1), UsableUntil: h(3), RotatesAt: h(2)}, h(2), "none"},
		{"stale already", Secret{FreshUntil: h(-1), UsableUntil: h(3), Stale: true}, noon, "stale"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := "none"
			if s, _ := stateOf(&tt.s).at(tt.at); s != nil && s.Stale {
				got = "stale"
			} else if s != nil {
				got = "fresh"
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestRefusedReplacesTheCopy(t *testing.T) {
	a := newAgent(t)
	db := a.secret("db")
	db.set("1", time.Hour)
	a.json("POST /v1/secrets/db/refused", `{"name":"db","version":"2","fields":{"password":"p2"},"fetched_at":"2030-01-01T12:00:00Z","fresh_until":"2099-01-01T13:00:00Z","stale":false}`)
	c := a.client()
	s, err := c.Secret(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	db.set("2", time.Hour)
	if s, err = c.Refused(t.Context(), "db", s.Version); err != nil || s.Version != "2" {
		t.Fatalf("%v, %v", s, err)
	}
	if s, err = c.Secret(t.Context(), "db"); err != nil || s.Version != "2" {
		t.Errorf("%v, %v", s, err)
	}
}

func TestANameThatNeverWasIsNotFollowed(t *testing.T) {
	a := newAgent(t)
	c := a.client()
	_, err := c.Secret(t.Context(), "nosuch")
	if CodeOf(err) != NotFound {
		t.Errorf("error %v", err)
	}
	if _, kept := c.kept.Load("nosuch"); kept {
		t.Error("is followed")
	}
}

func TestOneCallerDoesNotCancelForOthers(t *testing.T) {
	a := newAgent(t)
	db := a.secret("db")
	db.set("1", time.Hour)
	c := a.client()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Secret(gone, "db"); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Secret(t.Context(), "db"); err != nil {
		t.Error(err)
	}
}

func TestEventsGoOnAfterARestart(t *testing.T) {
	a := newAgent(t)
	connected := make(chan string, 10)
	streams := []string{
		": hello\n\nid: 1\nevent: secret.changed\ndata: {\"name\":\"db\",\"version\":\"2\"}\n\n",
		"id: 2\ndata: {\"type\":\"key.rotated\",\n", // cut off in the middle
		"id: 2\ndata: {\"type\":\"key.rotated\",\ndata: \"name\":\"host\"}\n\n",
	}
	a.mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		n := len(connected)
		connected <- r.Header.Get("Last-Event-ID")
		if n < len(streams) {
			fmt.Fprint(w, streams[n])
			return
		}
		<-r.Context().Done()
	})
	var got []string
	for e, err := range a.client().Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.ID+" "+e.Type+" "+e.Name)
		if len(got) == 2 {
			break
		}
	}
	if want := []string{"1 secret.changed db", "2 key.rotated host"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	<-connected
	for range 2 { // the second event was cut off and is wanted again
		if id := <-connected; id != "1" {
			t.Errorf("came back with Last-Event-ID %q", id)
		}
	}
}

func TestEventsEndWhenRefused(t *testing.T) {
	a := newAgent(t)
	a.mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, "denied", "no") })
	var errs []error
	for _, err := range a.client().Events(t.Context()) {
		errs = append(errs, err)
	}
	if len(errs) != 1 || CodeOf(errs[0]) != Denied {
		t.Errorf("%v", errs)
	}
}

func BenchmarkSecret(b *testing.B) {
	now := time.Now()
	c := new(Client)
	k := &keptSecret{c: c, name: "db"}
	k.learn(&Secret{Name: "db", FetchedAt: now, FreshUntil: now.Add(time.Hour)}, 0)
	c.kept.Store("db", k)
	for b.Loop() {
		if _, err := c.Secret(b.Context(), "db"); err != nil {
			b.Fatal(err)
		}
	}
}

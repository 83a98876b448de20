package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A virtualAgent serves the secret "db" in virtual time, over connections in
// memory, and asks its vault ahead of time as the agent does.
type virtualAgent struct {
	ttl, maxStale, takes time.Duration

	mu      sync.Mutex
	version string        // guarded by mu
	fetched time.Time     // guarded by mu
	away    bool          // guarded by mu; the vault is
	gone    bool          // guarded by mu; the vault has said no
	changed chan struct{} // guarded by mu; closed when version or gone changes
	lines   int           // guarded by mu; of the audit
	slow    time.Duration // guarded by mu; how long a read's answer is under way
}

// serve fills the cache, keeps it fresh, and returns a Client. All ends with the
// test.
func (a *virtualAgent) serve(t *testing.T) *Client {
	a.version, a.fetched, a.changed = "1", time.Now(), make(chan struct{})
	go a.refresh(t.Context())
	conns := make(pipes)
	server := &http.Server{Handler: http.HandlerFunc(a.answer)}
	go server.Serve(conns)
	c := new(Client)
	c.start()
	c.http.DialContext = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		conns <- theirs
		return ours, nil
	}
	t.Cleanup(func() { c.Close(); close(conns); server.Close() })
	return c
}

// refresh asks the vault at four fifths of the time, and after a failure once a
// second.
func (a *virtualAgent) refresh(ctx context.Context) {
	for wait := a.ttl * 4 / 5; sleep(ctx, wait); {
		asked := time.Now()
		if !sleep(ctx, a.takes) {
			return
		}
		wait = time.Second
		a.set(func() {
			if !a.away {
				a.fetched, wait = asked, a.ttl*4/5-a.takes
			}
		})
	}
}

func (a *virtualAgent) set(set func()) { a.mu.Lock(); defer a.mu.Unlock(); set() }

// change is set for what long polls are told of.
func (a *virtualAgent) change(set func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set()
	close(a.changed)
	a.changed = make(chan struct{})
}

// audited is how many lines the audit has got.
func (a *virtualAgent) audited() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lines
}

func (a *virtualAgent) answer(w http.ResponseWriter, r *http.Request) {
	wait, _ := time.ParseDuration(r.FormValue("wait"))
	over := time.After(wait)
	a.mu.Lock()
	defer a.mu.Unlock()
	for wait > 0 && !a.gone && a.version == r.FormValue("version") {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-over:
			wait = 0
		case <-r.Context().Done():
		}
		a.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
	a.lines++
	if a.gone {
		refuse(w, 403, "denied", "the vault says no")
		return
	}
	body, _ := json.Marshal(Secret{
		Name: "db", Version: a.version, Fields: map[string]string{"password": "p" + a.version}, FetchedAt: a.fetched,
		FreshUntil: a.fetched.Add(a.ttl), UsableUntil: a.fetched.Add(a.maxStale), Stale: !time.Now().Before(a.fetched.Add(a.ttl)),
	})
	if wait == 0 && a.slow > 0 {
		slow := a.slow
		a.mu.Unlock()
		sleep(r.Context(), slow)
		a.mu.Lock()
	}
	w.Write(body)
}

// Pipes are a net.Listener for the ends of pipes.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// mustRead reads a secret that has to be there.
func mustRead(t *testing.T, c *Client) *Secret {
	t.Helper()
	s, err := c.Secret(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// While the agent is healthy a copy is asked about before it is stale, once in
// its life, and long polls are long.
func TestACopyIsNotStaleWhileTheAgentIsHealthy(t *testing.T) {
	for ttl, lives := range map[time.Duration]int{3 * time.Second: 100, 15 * time.Minute: 5, 24 * time.Hour: 1} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &virtualAgent{ttl: ttl, maxStale: 10 * ttl, takes: ttl / 20}
				c := a.serve(t)
				const looks = 200
				for range lives * looks {
					if s := mustRead(t, c); s.Stale || !time.Now().Before(s.FreshUntil) {
						t.Fatalf("%v: stale since %v", time.Now(), s.FreshUntil)
					}
					time.Sleep(ttl / looks)
				}
				refreshes := lives * 5 / 4 // the agent asks at four fifths
				polls := lives * int(ttl/pollWait)
				if n, most := a.audited(), 1+refreshes+polls+1; n > most {
					t.Errorf("%d audit lines, want at most %d", n, most)
				}
			})
		})
	}
}

// A fetch that takes most of the time that is left is noticed in time as well.
func TestACopyIsAskedAboutAgainBeforeItIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &virtualAgent{ttl: 20 * time.Minute, maxStale: time.Hour, takes: 3*time.Minute + 20*time.Second} // done at 0.967 of ttl
		c := a.serve(t)
		mustRead(t, c)
		a.set(func() { a.slow = 10 * time.Millisecond })
		time.Sleep(5 * time.Millisecond)
		for range 21 * 60 {
			if s := mustRead(t, c); s.Stale {
				t.Fatalf("stale at %v", time.Now())
			}
			time.Sleep(time.Second)
		}
		if n, most := a.audited(), 1+3+21/5; n > most { // the first, at 0.9, 0.95, 0.975, and the polls
			t.Errorf("%d audit lines, want at most %d", n, most)
		}
	})
}

// A copy that stays stale costs an audit line a minute, is told of another
// version at once, and is fresh again within a minute.
func TestAStaleCopyIsKindToTheAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &virtualAgent{ttl: 3 * time.Second, maxStale: 24 * time.Hour, takes: 10 * time.Millisecond, away: true}
		c := a.serve(t)
		mustRead(t, c)
		time.Sleep(2 * time.Hour)
		if s := mustRead(t, c); !s.Stale {
			t.Error("not stale")
		}
		if n, most := a.audited(), 1+4+120+24; n > most {
			t.Errorf("%d audit lines in two hours, want at most %d", n, most)
		}
		a.change(func() { a.version = "2" })
		synctest.Wait()
		if s := mustRead(t, c); s.Version != "2" {
			t.Errorf("version %s", s.Version)
		}
		a.set(func() { a.away = false })
		time.Sleep(time.Minute + 2*time.Second)
		if s := mustRead(t, c); s.Stale {
			t.Error("stale although the vault is back")
		}
	})
}

// What the vault has said no to is asked for by those who need it, and is
// followed again when it is back.
func TestNobodyAsksInTheBackgroundForWhatIsNotToBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &virtualAgent{ttl: time.Hour, maxStale: 24 * time.Hour}
		c := a.serve(t)
		mustRead(t, c)
		a.change(func() { a.gone = true })
		synctest.Wait()
		before := a.audited()
		time.Sleep(6 * time.Hour)
		if n := a.audited() - before; n > 0 {
			t.Errorf("%d audit lines", n)
		}
		if _, err := c.Secret(t.Context(), "db"); CodeOf(err) != Denied {
			t.Errorf("error %v", err)
		}
		a.change(func() { a.gone, a.version = false, "2" })
		if s := mustRead(t, c); s.Version != "2" {
			t.Errorf("version %s", s.Version)
		}
		synctest.Wait()
		a.change(func() { a.version = "3" })
		synctest.Wait()
		before = a.audited()
		if s := mustRead(t, c); s.Version != "3" || a.audited() > before {
			t.Errorf("version %s, %d audit lines: not followed again", s.Version, a.audited()-before)
		}
	})
}

// An answer that was under way while the version changed does not bring the old
// one back.
func TestALateAnswerDoesNotBringTheOldVersionBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &virtualAgent{ttl: 100 * time.Second, maxStale: time.Hour}
		c := a.serve(t)
		mustRead(t, c)
		a.set(func() { a.slow = 4 * time.Second })
		time.Sleep(92 * time.Second) // asked at 90
		a.change(func() { a.version = "2" })
		for range 100 {
			synctest.Wait()
			if s := mustRead(t, c); s.Version != "2" {
				t.Fatalf("version %s at %v", s.Version, time.Now())
			}
			time.Sleep(time.Second)
		}
	})
}

// A Watch that is refused asks less and less often.
func TestAWatchThatIsRefusedAsksSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &virtualAgent{ttl: time.Hour, maxStale: time.Hour, gone: true}
		c := a.serve(t)
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		yields := 0
		for _, err := range c.Watch(ctx, "db", "") {
			if yields++; CodeOf(err) != Denied {
				t.Errorf("error %v", err)
			}
		}
		if n := a.audited(); yields != 1 || n > 2*60+20 {
			t.Errorf("%d yields, %d audit lines in an hour", yields, n)
		}
	})
}

package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/client"
)

// errWrong is a login with the wrong password, errAway one without a server.
var (
	errWrong = errors.New("wrong password")
	errAway  = errors.New("no route")
)

// A fake is an agent and a database in one.
type fake struct {
	mu      sync.Mutex
	held    string // the version that the agent serves
	vault   string // the version that it finds when it asks
	works   string // the version that the database takes
	away    bool   // the database is
	err     error  // of Refused
	takes   time.Duration
	reports []string
	logins  map[string]int
	times   []time.Time // of the logins
	most    int         // logins with a version that the database does not take, at once
	now     int
}

func (f *fake) secret() *client.Secret {
	return &client.Secret{Name: "db", Version: f.held, Fields: map[string]string{"password": "p" + f.held}}
}

func (f *fake) Secret(context.Context, string) (*client.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.secret(), nil
}

func (f *fake) Refused(ctx context.Context, _, version string) (*client.Secret, error) {
	f.mu.Lock()
	f.reports = append(f.reports, version)
	f.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(ctx.Err(), f.err); err != nil {
		return nil, err
	}
	if version == f.held {
		f.held = f.vault
	}
	return f.secret(), nil
}

func (f *fake) Login(ctx context.Context, s *client.Secret) (driver.Conn, error) {
	f.mu.Lock()
	f.logins[s.Version]++
	f.times = append(f.times, time.Now())
	wrong := s.Version != f.works
	if wrong {
		f.now++
		f.most = max(f.most, f.now)
	}
	takes := f.takes
	f.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if wrong {
		f.now--
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case f.away:
		return nil, errAway
	case wrong:
		return nil, errWrong
	}
	return nil, nil
}

func (f *fake) Refuse(err error) bool { return errors.Is(err, errWrong) }
func (f *fake) set(set func(f *fake)) { f.mu.Lock(); defer f.mu.Unlock(); set(f) }
func (f *fake) connector() *Connector { return &Connector{agent: f, secret: "db", db: fakeDatabase{f}} }
func newFake(v, vault, db string) *fake {
	return &fake{held: v, vault: vault, works: db, takes: 10 * time.Millisecond, logins: map[string]int{}}
}

// A fakeDatabase is the database of a fake, whose agent has a Refused too.
type fakeDatabase struct{ f *fake }

func (d fakeDatabase) Login(ctx context.Context, s *client.Secret) (driver.Conn, error) {
	return d.f.Login(ctx, s)
}
func (d fakeDatabase) Refused(err error) bool { return d.f.Refuse(err) }
func (d fakeDatabase) Driver() driver.Driver  { return nil }

// connect makes n connections at once.
func connect(t *testing.T, c *Connector, n int) []error {
	var all sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		all.Go(func() { _, errs[i] = c.Connect(t.Context()) })
	}
	all.Wait()
	return errs
}

// Refused logins that come at once share one report, and all get in.
func TestOneReportForAllRefusedLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "1")
		c := f.connector()
		if err := errors.Join(connect(t, c, 50)...); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *fake) { f.works, f.vault = "2", "2" })
		if err := errors.Join(connect(t, c, 50)...); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(f.reports) != "[1]" {
			t.Errorf("reports %v", f.reports)
		}
		if f.logins["2"] != 50 {
			t.Errorf("logins %v", f.logins)
		}
	})
}

// A credential that never worked is tried by one login, whatever the size of the
// pool: databases lock accounts.
func TestACredentialThatNeverWorkedIsTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "9")
		c := f.connector()
		c.Patience = -1
		for i, err := range connect(t, c, 50) {
			if !errors.Is(err, errWrong) {
				t.Errorf("connection %d: %v", i, err)
			}
		}
		if f.logins["1"] != 1 || f.most != 1 {
			t.Errorf("logins %v, %d at once", f.logins, f.most)
		}
	})
}

// Nor is one that worked and does not any more, beyond the logins under way when
// that shows.
func TestACredentialThatWorksNoMoreIsTriedByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "1")
		c := f.connector()
		c.Patience = -1
		if err := errors.Join(connect(t, c, 10)...); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *fake) { f.works = "9" })
		for want := range 3 {
			for _, err := range connect(t, c, 50) {
				if !errors.Is(err, errWrong) {
					t.Fatal(err)
				}
			}
			if n := f.logins["1"]; n != 10+50+want {
				t.Errorf("round %d: %d logins", want, n)
			}
			time.Sleep(maxHold) // until it may be tried again
		}
	})
}

// A version that goes on being refused is tried again less and less often, and
// works as soon as the database takes it.
func TestARefusedVersionIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "9")
		c := f.connector()
		for range 600 { // ten minutes
			if err := errors.Join(connect(t, c, 3)...); !errors.Is(err, errWrong) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := f.logins["1"]; n < 10 || n > 18 { // 1 + 2 + 4 ... + 32, then each minute
			t.Errorf("%d logins", n)
		}
		f.set(func(f *fake) { f.works = "1" })
		time.Sleep(time.Minute)
		if err := errors.Join(connect(t, c, 3)...); err != nil {
			t.Error(err)
		}
		began := time.Now()
		if err := errors.Join(connect(t, c, 3)...); err != nil || time.Since(began) > f.takes {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// The database has the new password before the vault: the login waits.
func TestALoginWaitsForTheAgentToLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "1")
		c := f.connector()
		if err := errors.Join(connect(t, c, 1)...); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *fake) { f.works = "2" })
		time.AfterFunc(3*time.Second, func() { f.set(func(f *fake) { f.vault = "2" }) })
		if err := errors.Join(connect(t, c, 20)...); err != nil {
			t.Error(err)
		}
		if n := f.logins["1"]; n > 21 {
			t.Errorf("%d logins with the old password", n)
		}
		if n := len(f.reports); n > 8 {
			t.Errorf("%d reports", n)
		}
	})
}

// The vault has the new password before the database: the last try is after the
// wait.
func TestALoginWaitsForTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("2", "2", "1")
		c := f.connector()
		time.AfterFunc(3*time.Second, func() { f.set(func(f *fake) { f.works = "2" }) })
		if err := errors.Join(connect(t, c, 20)...); err != nil {
			t.Error(err)
		}
		if n := f.logins["2"]; n != 1+20 {
			t.Errorf("%d logins", n)
		}
	})
}

// The wait is bounded, and what comes after it does not wait again.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for patience, want := range map[time.Duration]time.Duration{0: DefaultPatience, 2 * time.Second: 2 * time.Second, -1: 0} {
			f := newFake("1", "1", "9")
			c := f.connector()
			c.Patience = patience
			began := time.Now()
			if _, err := c.Connect(t.Context()); !errors.Is(err, errWrong) {
				t.Errorf("error %v", err)
			}
			if d := time.Since(began); d > want+100*time.Millisecond || d < want-1100*time.Millisecond {
				t.Errorf("patience %v: ended after %v", patience, d)
			}
			time.Sleep(time.Second) // whatever is left of the patience
			began = time.Now()
			if _, err := c.Connect(t.Context()); !errors.Is(err, errWrong) || time.Since(began) > 100*time.Millisecond {
				t.Errorf("patience %v: later %v after %v", patience, err, time.Since(began))
			}
		}
	})
}

// The second try is the last: its error goes to the caller.
func TestOneMoreTryAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "2", "9")
		_, err := f.connector().Connect(t.Context())
		if !errors.Is(err, errWrong) || !strings.Contains(err.Error(), `version "2"`) {
			t.Errorf("error %v", err)
		}
		if f.logins["1"] != 1 || f.logins["2"] != 1 || len(f.reports) != 1 {
			t.Errorf("logins %v, reports %v", f.logins, f.reports)
		}
	})
}

// A database that is away says nothing about the password, and logins do not
// queue behind one that hangs.
func TestADatabaseThatIsAwayIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "2", "1")
		f.away, f.takes = true, time.Second
		c := f.connector()
		began := time.Now()
		if err := errors.Join(connect(t, c, 20)...); !errors.Is(err, errAway) {
			t.Errorf("error %v", err)
		}
		if d := time.Since(began); d > 2*time.Second || len(f.reports) > 0 {
			t.Errorf("took %v, reports %v", d, f.reports)
		}
		f.away = false
		if err := errors.Join(connect(t, c, 20)...); err != nil {
			t.Error(err)
		}
	})
}

// What the agent says when it has nothing goes with the database's error.
func TestAnAgentThatCannotHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "9")
		f.err = &client.Error{What: `secret "db"`, Code: client.Denied, Detail: "no rule"}
		began := time.Now()
		_, err := f.connector().Connect(t.Context())
		if !errors.Is(err, errWrong) || client.CodeOf(err) != client.Denied || time.Since(began) > time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		if want := `log in with secret "db" version "1": wrong password; the agent has no other: secret "db": denied: no rule`; err.Error() != want {
			t.Errorf("error %v", err)
		}
	})
}

// An agent that restarts in the middle is asked again.
func TestAnAgentThatRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "2", "2")
		f.err = &client.Error{Code: client.Unavailable}
		time.AfterFunc(time.Second, func() { f.set(func(f *fake) { f.err = nil }) })
		if _, err := f.connector().Connect(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A caller that gives up takes nobody with it.
func TestACallerThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "2")
		c := f.connector()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		gone := make(chan error, 1)
		go func() {
			_, err := c.Connect(ctx)
			gone <- err
		}()
		time.Sleep(100 * time.Millisecond)
		time.AfterFunc(2*time.Second, func() { f.set(func(f *fake) { f.vault = "2" }) })
		if _, err := c.Connect(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-gone; !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errWrong) {
			t.Errorf("the one that gave up: %v", err)
		}
	})
}

package sqldb

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/client"
)

// The first login of a version that ends in anything but a success sets nobody
// free but the next one that tries: never two wrong logins at once, and what a
// single login met is not the answer to all.
func TestATrialThatEndsWithoutAnAnswerElectsOneMore(t *testing.T) {
	gaveUp := func(t *testing.T, _ *fake, c *Connector) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if _, err := c.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first: %v", err)
		}
	}
	away := func(t *testing.T, f *fake, c *Connector) {
		f.set(func(f *fake) { f.away = true })
		time.AfterFunc(f.takes+1, func() { f.set(func(f *fake) { f.away = false }) })
		if _, err := c.Connect(t.Context()); !errors.Is(err, errAway) {
			t.Errorf("the first: %v", err)
		}
	}
	for name, first := range map[string]func(*testing.T, *fake, *Connector){"its context ended": gaveUp, "the database was away": away} {
		for _, works := range []string{"1", "9"} {
			t.Run(name+", the database takes "+works, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake("1", "1", works)
					c := f.connector()
					c.Patience = -1
					go first(t, f, c)
					synctest.Wait()
					for i, err := range connect(t, c, 50) {
						if works == "1" && err != nil || works == "9" && !errors.Is(err, errWrong) {
							t.Errorf("connection %d: %v", i, err)
						}
					}
					want, most := 1+50, 0
					if works == "9" {
						want, most = 1+1, 1
					}
					if f.logins["1"] != want || f.most != most {
						t.Errorf("%d logins, want %d; %d wrong at once", f.logins["1"], want, f.most)
					}
				})
			})
		}
	}
}

// Nor is the end of the context of one that was elected the end for others.
func TestTheContextOfATrialIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "1")
		f.takes = time.Second
		c := f.connector()
		hasty := func(patience time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := c.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		go hasty(500 * time.Millisecond)
		synctest.Wait()
		patient := make(chan error, 1)
		for i := range 51 { // one of the others is elected, as good as surely
			if i != 25 {
				go hasty(700 * time.Millisecond)
				continue
			}
			go func() {
				_, err := c.Connect(t.Context())
				patient <- err
			}()
		}
		if err := <-patient; err != nil {
			t.Error(err)
		}
	})
}

// Two versions that are both unproven have no trial each: they are logins to one
// account. And none makes the other one be tried again sooner.
func TestTwoUnprovenVersionsAreTriedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "9")
		c := f.connector()
		c.Patience = -1
		var all sync.WaitGroup
		for range 5 {
			for _, version := range []string{"1", "2"} {
				all.Go(func() {
					if _, err := c.login(t.Context(), &client.Secret{Name: "db", Version: version}); !errors.Is(err, errWrong) {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
		for _, version := range []string{"1", "2"} {
			if _, err := c.login(t.Context(), &client.Secret{Name: "db", Version: version}); !errors.Is(err, errWrong) {
				t.Error(err)
			}
		}
		if f.logins["1"] != 1 || f.logins["2"] != 1 || f.most != 1 {
			t.Errorf("logins %v, %d at once", f.logins, f.most)
		}
	})
}

// A login that began before the password was changed and succeeds after another
// was refused does not make the old password one that works.
func TestALateSuccessProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "1")
		c := f.connector()
		c.Patience = -1
		if err := errors.Join(connect(t, c, 1)...); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *fake) { f.takes = time.Second })
		late := make(chan error, 1)
		go func() {
			_, err := c.Connect(t.Context())
			late <- err
		}()
		synctest.Wait()
		f.set(func(f *fake) { f.works, f.takes = "9", 10*time.Millisecond })
		connect(t, c, 1)
		if err := <-late; err != nil {
			t.Fatal(err)
		}
		before := f.logins["1"]
		connect(t, c, 50)
		if n := f.logins["1"] - before; n > 1 || f.most > 1 {
			t.Errorf("%d more logins, %d at once", n, f.most)
		}
	})
}

// The time for which a refused version is not tried again doubles from a second
// to a minute, however many ask.
func TestTheHoldDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "9")
		c := f.connector()
		c.Patience = -1
		const step = 10 * time.Millisecond
		for began := time.Now(); time.Since(began) < 5*time.Minute; time.Sleep(step) {
			connect(t, c, 2)
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}
		if len(f.times) != len(want)+1 {
			t.Fatalf("%d logins", len(f.times))
		}
		for i, seconds := range want {
			pause := f.times[i+1].Sub(f.times[i]) - f.takes // each ends in a refusal
			if most := seconds*time.Second + step + 50*time.Millisecond; pause < seconds*time.Second || pause > most {
				t.Errorf("pause %d: %v, want %v", i, pause, seconds*time.Second)
			}
		}
	})
}

// Logins under way at the same time that are all refused count as one refusal.
func TestManyRefusalsAtOnceCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "1")
		c := f.connector()
		c.Patience = -1
		if err := errors.Join(connect(t, c, 1)...); err != nil {
			t.Fatal(err)
		}
		f.set(func(f *fake) { f.works = "9" })
		connect(t, c, 20)
		time.Sleep(minHold)
		connect(t, c, 20)
		if n := f.logins["1"]; n != 1+20+1 {
			t.Errorf("%d logins", n)
		}
	})
}

// A program that goes on with a password that is wrong does not fill the audit of
// the agent with reports, and yet soon has the right one.
func TestARefusalIsNotReportedByEachWhoHearsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "1", "2")
		c := f.connector()
		c.Patience = -1
		for range 500 { // until before the login after 63 s
			if err := errors.Join(connect(t, c, 3)...); !errors.Is(err, errWrong) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n, most := len(f.reports), 50/5+6+1; n > most { // and one for each login, after 0, 1, 3, 7, 15 and 31 s
			t.Errorf("%d reports, want at most %d", n, most)
		}
		f.set(func(f *fake) { f.vault = "2" })
		time.Sleep(5 * time.Second)
		if err := errors.Join(connect(t, c, 3)...); err != nil {
			t.Error(err)
		}
	})
}

// A login with a version that was reported before, as it was read just before the
// next one was known, takes the next one.
func TestALoginThatComesLateTakesTheNextVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("1", "2", "2")
		c := f.connector()
		if err := errors.Join(connect(t, c, 1)...); err != nil {
			t.Fatal(err)
		}
		c.agent = lateAgent{f}
		if err := errors.Join(connect(t, c, 5)...); err != nil {
			t.Error(err)
		}
	})
}

// A lateAgent still gives the version of before when asked for the secret.
type lateAgent struct{ *fake }

func (lateAgent) Secret(context.Context, string) (*client.Secret, error) {
	return &client.Secret{Name: "db", Version: "1"}, nil
}

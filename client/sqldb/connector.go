package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/signet-agent/signet/client"
)

// DefaultPatience is Connector.Patience where that is 0. It is longer than the
// five seconds that the agent lets pass between two calls to the upstream for a
// secret that is reported again and again.
const DefaultPatience = 10 * time.Second

// A Database logs in to one kind of database.
type Database interface {
	// Login makes a connection with the credential in s.
	Login(ctx context.Context, s *client.Secret) (driver.Conn, error)
	// Refused reports whether an error of Login says that the database does not
	// take the user name or the password. Everything else, a locked account
	// included, is no reason to ask for another credential.
	Refused(error) bool
	// Driver is what database/sql wants to know of.
	Driver() driver.Driver
}

// An agent is what a Connector needs of a client.Client.
type agent interface {
	Secret(ctx context.Context, name string) (*client.Secret, error)
	Refused(ctx context.Context, name, version string) (*client.Secret, error)
}

// A Connector is a driver.Connector for sql.OpenDB. Its fields must not be
// changed once it is in use.
type Connector struct {
	// Patience is for how long a login whose password was refused waits for the
	// agent to learn of another. If 0, it is DefaultPatience; if negative, the
	// agent is asked once. It counts from the first refusal of a version: later
	// ones find the time over and fail at once.
	Patience time.Duration

	agent  agent
	secret string
	db     Database

	flight singleflight.Group // of reports to the agent, by version

	mu      sync.Mutex
	proven  string              // guarded by mu; the version that has logged in last
	trial   *trial              // guarded by mu; the one login under way with a version not proven
	refused map[string]*refusal // guarded by mu; by version
}

// A trial is a login whose end others wait for.
type trial struct {
	version string
	done    chan struct{}
	err     error // once done: what others would get too, nil if only its own context ended it
}

// A refusal is a version that the database does not take.
type refusal struct {
	err         error
	first, last time.Time
	hold        time.Duration // how long it is not tried again
	reported    time.Time     // when the agent last knew of no other since; zero if it was not asked
}

// until is when it may be tried again.
func (r *refusal) until() time.Time { return r.last.Add(r.hold) }

const (
	minHold = time.Second
	maxHold = time.Minute
	// askAgain is how often the agent is told of one refusal: it asks the upstream
	// no more often, and writes each report into its audit.
	askAgain = 5 * time.Second
	forget   = time.Hour // after this a version that nobody tries is one like any other
)

// New returns a Connector that logs in to db with a secret of the agent. It is
// for packages that bring in a driver; programs use theirs.
func New(agent *client.Client, secret string, db Database) *Connector {
	return &Connector{agent: agent, secret: secret, db: db}
}

// Driver is the driver below.
func (c *Connector) Driver() driver.Driver { return c.db.Driver() }

// Connect makes a connection with the credential of now, and where that is
// refused once more with the one that the agent then has.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	s, err := c.agent.Secret(ctx, c.secret)
	if err != nil {
		return nil, err
	}
	conn, err := c.login(ctx, s)
	if err == nil || !c.db.Refused(err) {
		return conn, err
	}
	if c.reported(s.Version) {
		return nil, err
	}
	next, asked := c.report(ctx, s.Version)
	if asked != nil {
		return nil, fmt.Errorf("%w; the agent has no other: %w", err, asked)
	}
	// Where it is still the same one, the wait may have been for the database.
	return c.login(ctx, next)
}

// login tries one version, unless it was refused just now.
func (c *Connector) login(ctx context.Context, s *client.Secret) (driver.Conn, error) {
	t, err := c.admit(ctx, s.Version)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	conn, err := c.db.Login(ctx, s)
	if err != nil {
		err = fmt.Errorf("log in with secret %q version %q: %w", s.Name, s.Version, err)
	}
	c.judge(s.Version, began, err)
	if t != nil {
		if ctx.Err() == nil {
			t.err = err
		}
		c.end(t)
	}
	return conn, err
}

// admit lets a login with a version go ahead: at once if the version is proven,
// else as its trial, which it returns. There is one trial at a time, whatever
// its version: when it ends in anything but a success, one of those who wait has
// the next. A trial that began while they waited already speaks for them all, so
// that nobody queues behind a database that is away.
func (c *Connector) admit(ctx context.Context, version string) (*trial, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for waited := false; ; waited = true {
		if err := c.held(version); err != nil || version == c.proven {
			return nil, err
		}
		t := c.trial
		if t == nil {
			c.trial = &trial{version: version, done: make(chan struct{})}
			return c.trial, nil
		}
		if err := c.await(ctx, t); err != nil {
			return nil, err
		}
		if waited && t.version == version && t.err != nil {
			return nil, t.err
		}
	}
}

// await waits for the end of a trial. The caller holds mu, which is free
// meanwhile.
func (c *Connector) await(ctx context.Context, t *trial) error {
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end lets the next one try.
func (c *Connector) end(t *trial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trial = nil
	close(t.done)
}

// held is the error of a version that is not to be tried for now. The caller
// holds mu.
func (c *Connector) held(version string) error {
	if r := c.refused[version]; r != nil && time.Now().Before(r.until()) {
		return r.err
	}
	return nil
}

// judge takes up how a login with a version has ended. One that began before the
// version was refused says nothing of what the database takes now.
func (c *Connector) judge(version string, began time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.refused[version]
	switch now := time.Now(); {
	case err == nil && r != nil && began.Before(r.last):
	case err == nil:
		c.proven = version
		delete(c.refused, version)
	case !c.db.Refused(err):
	case r == nil:
		c.refuse(version, &refusal{err: err, first: now, last: now, hold: minHold})
	case !began.Before(r.until()): // others that began before count once
		c.refuse(version, &refusal{err: err, first: r.first, last: now, hold: min(2*r.hold, maxHold)})
	}
}

// refuse makes a version one that is not tried for a time, and then needs a
// trial. The caller holds mu.
func (c *Connector) refuse(version string, r *refusal) {
	if c.refused == nil {
		c.refused = map[string]*refusal{}
	}
	maps.DeleteFunc(c.refused, func(_ string, old *refusal) bool { return r.last.Sub(old.last) > forget })
	c.refused[version] = r
	if c.proven == version {
		c.proven = ""
	}
}

// report tells the agent that a version does not work, and returns what it has
// then. Reports of one version share one call, which none of them can cancel
// for the others.
func (c *Connector) report(ctx context.Context, version string) (*client.Secret, error) {
	until := c.patient(version)
	answer := c.flight.DoChan(version, func() (any, error) {
		// What is waited for is bounded by until, each call by the Client.
		s, err := c.ask(context.WithoutCancel(ctx), version, until)
		if err == nil && s.Version == version {
			c.answered(version)
		}
		return s, err
	})
	select {
	case r := <-answer:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*client.Secret), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// answered takes up that the agent was told of a refusal and knows of no other
// version.
func (c *Connector) answered(version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.refused[version]; r != nil {
		r.reported = time.Now()
	}
}

// reported says whether the agent was told of the last refusal of a version just
// now and knew of no other.
func (c *Connector) reported(version string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.refused[version]
	return r != nil && time.Since(r.reported) < askAgain
}

// patient is until when to wait for a successor of a version.
func (c *Connector) patient(version string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.refused[version]; r != nil {
		switch {
		case c.Patience > 0:
			return r.first.Add(c.Patience)
		case c.Patience == 0:
			return r.first.Add(DefaultPatience)
		}
	}
	return time.Time{}
}

// ask reports a version until there is another or the time is over. The agent
// limits how often it asks the upstream for that.
func (c *Connector) ask(ctx context.Context, version string, until time.Time) (*client.Secret, error) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		s, err := c.agent.Refused(ctx, c.secret, version)
		temporary := client.CodeOf(err) == client.Unavailable || client.CodeOf(err) == client.Busy
		switch {
		case err == nil && s.Version != version, err != nil && !temporary:
			return s, err
		case !time.Now().Add(pause).Before(until):
			return s, err
		}
		<-time.After(pause) // short, and no one caller's to cancel
	}
}

// errNoField is a secret that lacks what a login needs.
var errNoField = errors.New("no such field")

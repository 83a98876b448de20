package credentials

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks"
)

// A Backend does what cannot be answered from published items.
type Backend interface {
	// Fetch joins the fetch of a secret that is under way, or starts one, and
	// returns nil once the secret is published.
	Fetch(ctx context.Context, name string) error
}

// Config configures a Server.
type Config struct {
	Backend Backend
	// Policy decides; nil allows nothing.
	Policy *access.Policy
	// Audit takes a line per credential; nil records nothing.
	Audit *access.Audit
	// Secrets and Certificates are the configured names.
	Secrets      []string
	Certificates []string
	// Opened is closed when the agent can fetch. Until then, but not longer than
	// Wait, connections are left with the kernel: those are not lost should the
	// agent be started again. It may be nil.
	Opened <-chan struct{}
	// Wait is how long a unit waits for an item that is not there yet.
	Wait time.Duration
	// Hold has somebody keep a connection open should the process be killed, until
	// release is called; it may be nil.
	Hold func(*net.UnixConn) (release func(), err error)
	// HandOver takes the connection of a unit that still waits when the server is
	// asked to stop, and reports whether it does: then it is in Held of the next
	// server, or is given to Refuse. Nil takes none, and such units are refused.
	HandOver func(Held) bool
	Held     []Held
	// Refresh is called when what a unit was given has changed since, and sees to
	// it that the unit asks again; it reports false if the unit does not do so
	// while it runs. Nil leaves units alone.
	Refresh func(ctx context.Context, unit string) (bool, error)
	// Store keeps what units were given, for Refresh of this run and of later
	// ones; nil keeps nothing.
	Store Store
	// Log is told of each refusal; nil is nobody.
	Log *slog.Logger
}

// A Held is the connection of a unit that has waited since before the server
// was made.
type Held struct {
	Conn net.Conn
	// Since is when it began to wait; zero is just now.
	Since time.Time
	// Release ends what Config.Hold began; nil if nobody else has it.
	Release func()
}

const (
	// maxCredential is what the service manager accepts of all credentials of a
	// unit, with their IDs.
	maxCredential = 1 << 20
	// maxConns bounds how many units are answered at once.
	maxConns = 1024
	// writeTimeout ends the answer to a peer that does not read it.
	writeTimeout = 30 * time.Second
	// stopTimeout ends every answer once the agent is to stop: half of what
	// TimeoutStopSec= of signet.service gives it for all.
	stopTimeout = 10 * time.Second
	// retryFetch is how often a fetch that failed is asked for while a unit
	// waits.
	retryFetch = 500 * time.Millisecond
)

// A Server answers on the credentials socket. Publishing may begin before Serve.
type Server struct {
	cfg Config

	secrets      map[string]*slot // by name; the maps never change
	certificates map[string]*slot
	holders      *holders // nil without Config.Store
	run          string   // begins the IDs of answers; differs for each start
	counter      atomic.Uint64

	mu      sync.Mutex
	changed chan struct{} // guarded by mu: closed when any slot changes
}

// A slot is what is known of one item.
type slot struct {
	secret *sinks.Secret      // guarded by Server.mu
	cert   *sinks.Certificate // guarded by Server.mu
	gone   string             // guarded by Server.mu: why the upstream refuses it
}

// New makes a Server, and reads what an earlier run has given to units.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, secrets: map[string]*slot{}, certificates: map[string]*slot{}, changed: make(chan struct{}), run: rand.Text()[:8]}
	for _, name := range cfg.Secrets {
		s.secrets[name] = &slot{}
	}
	for _, name := range cfg.Certificates {
		s.certificates[name] = &slot{}
	}
	var err error
	if cfg.Store != nil {
		s.holders, err = s.loadHolders(cfg.Store)
	}
	return s, err
}

// PublishSecret makes a secret what is answered from now on.
func (s *Server) PublishSecret(sec *sinks.Secret) {
	s.put(s.secrets[sec.Name], slot{secret: sec})
}

// WithdrawSecret refuses a secret from now on, and those who wait for it.
func (s *Server) WithdrawSecret(name, why string) { s.put(s.secrets[name], slot{gone: why}) }

// PublishCertificate makes a certificate what is answered from now on.
func (s *Server) PublishCertificate(c *sinks.Certificate) {
	s.put(s.certificates[c.Name], slot{cert: c})
}

func (s *Server) put(to *slot, now slot) {
	if to == nil {
		return // not configured
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	*to = now
	close(s.changed)
	s.changed = make(chan struct{})
}

// look is what is known of an item now, and what is closed when that changes.
func (s *Server) look(at *slot) (slot, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *at, s.changed
}

// Serve answers on ln until ctx is done, and returns nil then. Units that wait
// are handed over, or refused. It closes ln, which may be nil if there are only held connections
// to answer.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, h := range s.cfg.Held {
		wg.Go(func() { s.answer(ctx, h) })
	}
	if ln == nil {
		<-ctx.Done()
		return nil
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	if !s.awaitOpen(ctx) {
		return nil
	}
	room := make(chan struct{}, maxConns)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := ln.Accept()
		if ctx.Err() != nil {
			if c != nil {
				s.answer(ctx, Held{Conn: c})
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("credentials socket: %w", err)
		}
		wg.Go(func() {
			defer func() { <-room }()
			s.answer(ctx, Held{Conn: c})
		})
	}
}

func (s *Server) awaitOpen(ctx context.Context) bool {
	if s.cfg.Opened == nil {
		return true
	}
	timer := time.NewTimer(s.cfg.Wait)
	defer timer.Stop()
	select {
	case <-s.cfg.Opened:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// await is the item once it can be delivered, or why it cannot. It is waited for
// since then, in earlier servers too.
func (s *Server) await(ctx context.Context, c credential, since time.Time) (slot, error) {
	ctx, cancel := context.WithDeadline(ctx, since.Add(s.cfg.Wait))
	defer cancel()
	at := s.slotOf(c)
	tick := time.NewTicker(retryFetch)
	defer tick.Stop()
	var last error
	for {
		now, changed := s.look(at)
		err := now.usable(c.kind, time.Now())
		if err == nil {
			return now, nil
		}
		if c.kind == access.Secret {
			if ferr := s.cfg.Backend.Fetch(ctx, c.name); ferr != nil && ctx.Err() == nil { // else it is about the wait
				last = ferr
			}
			if now, changed = s.look(at); now.usable(c.kind, time.Now()) == nil {
				return now, nil
			}
			if now.gone != "" {
				return slot{}, errors.New(now.gone)
			}
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			if last != nil {
				err = last
			}
			return slot{}, fmt.Errorf("%w; it was waited for %v", err, s.cfg.Wait)
		}
	}
}

func (s *Server) slotOf(c credential) *slot {
	if c.kind == access.Certificate {
		return s.certificates[c.name]
	}
	return s.secrets[c.name]
}

// usable reports why an item cannot be delivered.
func (now slot) usable(kind access.Kind, at time.Time) error {
	switch {
	case now.gone != "":
		return errors.New(now.gone)
	case kind == access.Secret && now.secret == nil:
		return errors.New("it was not fetched yet")
	case kind == access.Secret && now.secret.Expired(at):
		return errors.New("it has expired, and the upstream has not given it again")
	case kind == access.Certificate && now.cert == nil:
		return errors.New("it was not issued yet")
	case kind == access.Certificate && !at.Before(now.cert.NotAfter):
		return errors.New("it has expired, and was not renewed yet")
	}
	return nil
}

// content is the credential itself.
func (now slot) content(c credential) ([]byte, error) {
	if c.kind == access.Secret {
		if c.part == "" {
			return now.secret.Fields.JSON()
		}
		v, ok := now.secret.Fields.Get(c.part)
		if !ok {
			return nil, fmt.Errorf("there is no field %q; there is %q", c.part, now.secret.Fields.Names())
		}
		return v.Reveal(), nil
	}
	chain, err := now.cert.ChainPEM()
	if err != nil || c.part == "crt" {
		return chain, err
	}
	key, err := now.cert.KeyPEM()
	if err != nil || c.part == "key" {
		return key, err
	}
	return slices.Concat(chain, key), nil
}

// poison is longer than the service manager accepts.
func poison() []byte {
	return bytes.Repeat([]byte("refused by signet, see its log\n"), 2*maxCredential/31)
}

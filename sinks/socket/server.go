package socket

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks"
)

// Config configures a Server.
type Config struct {
	Backend Backend
	// Policy decides; nil allows nothing.
	Policy *access.Policy
	// Audit takes a line per access; nil records nothing.
	Audit *access.Audit
	// Secrets and Certificates are the configured names. A name that is not
	// here, and is not published either, is not found.
	Secrets      []string
	Certificates []string
	// Limit bounds the requests of each user; the zero Limit does not.
	Limit access.Limit
	// Metrics answers /metrics with what a caller may know of; nil is not found.
	Metrics func(Visible) http.Handler
	// Observe is told of each answer, for metrics; it may be nil. The route is
	// one of a fixed set.
	Observe func(route string, status int, d time.Duration)
	// Log is told what no caller can be told; nil is nobody.
	Log *slog.Logger
}

// A Server answers on a Unix socket. Publishing may begin before Serve.
type Server struct {
	cfg      Config
	routes   map[routeKey]*route
	limit    *access.Limiter // of all requests
	refusals *refusals

	reading chan struct{} // has one for each who reads the audit's lines

	secrets      *board[secretItem]
	certificates *board[certificateItem]
	events       *bus

	run     string // begins request IDs; differs for each start
	counter atomic.Uint64
	date    date
	bodies  sync.Pool // of *[]byte, to render answers in
	// requests holds *request. None outlives ServeHTTP.
	requests sync.Pool
}

// Limits on what callers can take up.
const (
	maxHeader      = 16 << 10
	maxBody        = 2 << 20 // of a JSON request; a message to sign may be long
	maxProxyBody   = 64 << 20
	maxConns       = 16384
	maxConnsPerUID = 4096
	maxReading     = 4 // of the audit's lines at once

	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 3 * time.Minute
	fetchTimeout  = 5 * time.Second // for an item that was never fetched
	callTimeout   = 30 * time.Second
	adminTimeout  = 5 * time.Minute
	maxWait       = time.Hour
	stopTimeout   = 5 * time.Second
)

// New makes a Server.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, int, time.Duration) {}
	}
	run := rand.Text()[:8]
	s := &Server{
		cfg:          cfg,
		limit:        access.NewLimiter(cfg.Limit),
		refusals:     newRefusals(cfg.Audit, cfg.Log.Debug),
		reading:      make(chan struct{}, maxReading),
		secrets:      newBoard[secretItem](cfg.Secrets),
		certificates: newBoard[certificateItem](cfg.Certificates),
		events:       newBus(run),
		run:          run,
	}
	s.cfg.Secrets, s.cfg.Certificates = nil, nil // the boards have them
	s.bodies.New = func() any { b := make([]byte, 0, 4096); return &b }
	s.requests.New = func() any { return new(request) }
	s.routes = s.table()
	return s
}

// stopKey is the context key of the context of Serve, for requests that wait and
// would otherwise outlast it.
type stopKey struct{}

// Serve answers on ln until ctx is done, and returns nil when the requests under
// way have been answered, or after five seconds. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	base := context.WithValue(context.WithoutCancel(ctx), stopKey{}, ctx)
	srv := s.server(base)
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(base, stopTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	l := newListener(ln, s)
	go l.run()
	defer s.refusals.flush()
	defer l.work.Wait() // answers under way have a deadline
	err := srv.Serve(l)
	if stop() { // ctx is not done: the listener failed
		srv.Close()
		return err
	}
	<-done // Serve returns when Shutdown begins, not when it ends
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// server is net/http's part.
func (s *Server) server(base context.Context) *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(nc net.Conn, st http.ConnState) {
			if c, ok := nc.(*conn); ok && st == http.StateIdle {
				c.served.Store(false)
			}
		},
		DisableGeneralOptionsHandler: true, // OPTIONS * has no place in the API
		ErrorLog:                     slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
}

// PublishSecret makes it the secret that is served from now on.
func (s *Server) PublishSecret(sec *sinks.Secret) {
	old := s.secrets.put(sec.Name, s.newSecretItem(sec), nil)
	if old.item == nil || old.item.secret.Version != sec.Version {
		s.Emit(Event{Type: "secret.changed", Kind: access.Secret, Name: sec.Name, Attrs: []Attr{{"version", sec.Version}}})
	}
}

// WithdrawSecret purges a secret: from now on reads are answered with why.
func (s *Server) WithdrawSecret(name string, why *Problem) {
	if old := s.secrets.put(name, nil, why); old.item != nil {
		s.Emit(Event{Type: "secret.withdrawn", Kind: access.Secret, Name: name, Attrs: []Attr{{"code", why.Code}}})
	}
}

// PublishCertificate makes it the certificate that is served from now on.
func (s *Server) PublishCertificate(c *sinks.Certificate) {
	it := newCertificateItem(c)
	old := s.certificates.put(c.Name, it, nil)
	if old.item == nil || old.item.version != it.version {
		s.Emit(Event{Type: "certificate.changed", Kind: access.Certificate, Name: c.Name, Attrs: []Attr{
			{"generation", c.Generation}, {"serial", c.Serial}, {"not_after", stamp(c.NotAfter)}}})
	}
}

// WithdrawCertificate purges a certificate.
func (s *Server) WithdrawCertificate(name string, why *Problem) {
	if old := s.certificates.put(name, nil, why); old.item != nil {
		s.Emit(Event{Type: "certificate.withdrawn", Kind: access.Certificate, Name: name, Attrs: []Attr{{"code", why.Code}}})
	}
}

// stamp is a time as the API writes it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/consumers"
	unitcreds "github.com/signet-agent/signet/sinks/credentials"
	"github.com/signet-agent/signet/sinks/files"
	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/systemd"
	"github.com/signet-agent/signet/upstream"
)

// Options are what the program gives besides the configuration.
type Options struct {
	Log      *slog.Logger
	Version  string
	Notifier *systemd.Notifier
	// Listener is the agent's socket, handed over by systemd; nil makes it.
	Listener net.Listener
	// Settled is called, if it is not nil, when the cache is read and when the
	// last of many fetches has ended: the most memory that is needed for a while
	// has been used.
	Settled func()
	// Credentials is the credentials socket, likewise.
	Credentials net.Listener
	// Held are connections to it that another Run, or a process that was killed,
	// has left unanswered.
	Held []Held
	// HandOver takes the connection of a unit that still waits when Run is asked to
	// stop, and reports whether it does: for the next Run, or for RefuseUnits. Nil
	// takes none.
	HandOver func(Held) bool
	// Refreshes reports whether a reload of a unit has its credentials asked for
	// again; nil if the service manager cannot do that.
	Refreshes func(ctx context.Context, unit string) (bool, error)
}

// Agent is one running agent. Everything in it is made by newAgent and wired
// there; run starts and stops it.
type Agent struct {
	cfg     *config.Config
	opt     Options
	log     *slog.Logger
	host    string
	started time.Time
	notices []string

	store       *store.Store
	metrics     *metrics
	audit       *access.Audit
	signer      *auditSigner // of the audit
	socket      *socket.Server
	files       *files.Files
	credentials *unitcreds.Server

	consumers *consumers.Consumers

	tokens     map[string]*hsm.Token
	identities map[string]*identity
	services   map[string]*service
	rotators   map[string]*rotator // of identities and certificates
	expiries   map[string]*expiryWatch
	refresher  *refresher

	opened   chan struct{}         // closed when the data key is unwrapped and the cache is read
	sealed   sync.Mutex            // held while the data key is unwrapped, replaced or wrapped anew
	unseal   chan struct{}         // has the data key looked at now
	unopened atomic.Pointer[error] // why it could not be at the last try; nil before that
	life     context.Context       // of fetches that outlive the request which began them
}

// Held is the connection of a unit that waits for a credential.
type Held = unitcreds.Held

// RefuseUnits refuses units that no Run will answer.
func RefuseUnits(held []Held) { unitcreds.Refuse(held) }

// A StartError is why Run did not start anything: Options.Held were not answered,
// and another configuration may do better.
type StartError struct{ Err error }

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Run is the daemon: it keeps everything in cfg fresh until ctx is done, and
// then returns nil. An error is a *StartError if it came to nothing.
func Run(ctx context.Context, cfg *config.Config, opt Options) (err error) {
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		return &StartError{err}
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	a, err := newAgent(cfg, opt, st)
	if err != nil {
		return &StartError{err}
	}
	return a.run(ctx)
}

// newAgent makes all parts and wires them. It connects to nothing. What it has
// opened it closes if it fails.
func newAgent(cfg *config.Config, opt Options, st *store.Store) (*Agent, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	a := &Agent{
		cfg: cfg, opt: opt, log: opt.Log, host: host, started: time.Now(), store: st, metrics: newMetrics(),
		tokens: map[string]*hsm.Token{}, identities: map[string]*identity{}, services: map[string]*service{},
		rotators: map[string]*rotator{}, expiries: map[string]*expiryWatch{}, opened: make(chan struct{}), unseal: make(chan struct{}, 1),
	}
	if d := st.Damaged(); d != nil {
		a.notices = append(a.notices, withHint(d))
		a.log.Error("state set aside", "err", d, "hint", d.Hint())
	}
	a.metrics.registry.MustRegister(newStateCollector(a))
	for _, make := range []func() error{a.makeTokens, a.makeSinks, a.makeConsumers, a.makeServices, a.makeRotators, a.makeSecrets} {
		if err := make(); err != nil {
			return nil, errors.Join(err, a.audit.Close())
		}
	}
	rest := *cfg
	rest.Secrets = nil // the refresher has what it needs of them, and there can be many
	a.cfg = &rest
	return a, nil
}

func (a *Agent) makeTokens() error {
	for _, h := range a.cfg.HSM {
		worker, err := workerPath(h.Worker)
		if err != nil {
			return err
		}
		name := h.TokenName()
		var others []string
		for _, o := range a.cfg.HSM {
			if o.PIN.Env != "" && o.PIN.Env != h.PIN.Env {
				others = append(others, o.PIN.Env)
			}
		}
		a.tokens[name] = hsm.New(hsm.Config{
			Name: name, Worker: worker, Without: others, Module: h.Module, InitArgs: h.InitArgs, Label: h.Label, Serial: h.Serial, URI: h.URI,
			PIN:       hsm.PINSource{File: h.PIN.File, Credential: h.PIN.Credential, Env: h.PIN.Env},
			NoSandbox: h.Sandbox == "off", Network: h.Network, Lenient: h.Audit == "lenient",
			Sessions: h.SessionLimit(), Timeout: h.CallTimeout(), Log: a.log, Observe: a.metrics.hsmOperation,
			Ledger: ledger{a.store}, Guard: a.store.Guard(),
		})
	}
	return nil
}

func (a *Agent) makeServices() error {
	for name := range a.cfg.Identities {
		a.identities[name] = newIdentity(name)
	}
	for name, c := range a.cfg.Upstreams {
		s, err := a.newService(name, c)
		if err != nil {
			return err
		}
		a.services[name] = s
	}
	return nil
}

// issuedBy is the identity that a manager upstream issues, which is also the
// one to show it.
func (a *Agent) issuedBy(upstream string) *identity {
	for name, c := range a.cfg.Identities {
		if c.Issuer == upstream {
			return a.identities[name]
		}
	}
	return nil
}

func (a *Agent) makeSecrets() error {
	lanes := map[string]*lane{}
	for name := range a.services {
		lanes[name] = &lane{}
	}
	a.refresher = &refresher{
		host: a.host, items: map[string]*secretItem{}, save: a.store.SaveSecret, remove: a.store.DeleteSecret, log: a.log, emit: a.emit,
		publish: a.publishSecret, withdraw: a.withdrawSecret, settled: a.opt.Settled, wake: make(chan struct{}, 1),
		now: wallNow, clocks: clocks{steady: sinceBoot},
	}
	for name, c := range a.cfg.Secrets {
		a.refresher.items[name] = &secretItem{
			name: name, of: bindingOf(name, c, a.cfg.Upstreams[c.Upstream]), share: share(a.host, name), index: -1, lane: lanes[c.Upstream],
			spec:  secretSpec{Upstream: c.Upstream, TTL: c.TTL.Or(0), MaxStale: c.MaxStale.Or(config.DefaultMaxStale)},
			fetch: a.services[c.Upstream].fetcher(c), after: a.services[c.Upstream].enrolled(),
		}
	}
	return nil
}

func (a *Agent) publishSecret(s *sinks.Secret) {
	a.socket.PublishSecret(s)
	a.credentials.PublishSecret(s)
	_ = a.files.PublishSecret(s) // it tells of each file that it cannot write, and tries again
}

func (a *Agent) withdrawSecret(name string, code upstream.Code, text string) {
	a.socket.WithdrawSecret(name, &socket.Problem{Code: string(code), Detail: text})
	a.credentials.WithdrawSecret(name, text)
	_ = a.files.WithdrawSecret(name) // as above
}

func (a *Agent) emit(e event) {
	a.record(e)
	if e.Type == eventRenewalFailed {
		a.metrics.renewalFailures.WithLabelValues(e.Name).Inc()
	}
	if e.Type != eventSecretChanged && e.Type != eventSecretWithdrawn { // which the socket raises itself
		a.socket.Emit(e.wire())
	}
}

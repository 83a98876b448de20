package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks"
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

	store   *store.Store
	metrics *metrics
	audit   *access.Audit
	signer  *auditSigner // of the audit
	socket  *socket.Server
	files   *files.Files

	tokens     map[string]*hsm.Token
	identities map[string]*identity
	services   map[string]*service
	rotators   map[string]*rotator // of identities and certificates
	refresher  *refresher

	opened chan struct{}   // closed when the data key is unwrapped and the cache is read
	life   context.Context // of fetches that outlive the request which began them
}

// Run is the daemon: it keeps everything in cfg fresh until ctx is done, and
// then returns nil.
func Run(ctx context.Context, cfg *config.Config, opt Options) (err error) {
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	a, err := newAgent(cfg, opt, st)
	if err != nil {
		return err
	}
	return a.run(ctx)
}

// newAgent makes all parts and wires them. It connects to nothing.
func newAgent(cfg *config.Config, opt Options, st *store.Store) (*Agent, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	a := &Agent{
		cfg: cfg, opt: opt, log: opt.Log, host: host, started: time.Now(), store: st, metrics: newMetrics(),
		tokens: map[string]*hsm.Token{}, identities: map[string]*identity{}, services: map[string]*service{},
		rotators: map[string]*rotator{}, opened: make(chan struct{}),
	}
	if d := st.Damaged(); d != nil {
		a.notices = append(a.notices, withHint(d))
		a.log.Error("state set aside", "err", d, "hint", d.Hint())
	}
	a.metrics.registry.MustRegister(newStateCollector(a))
	for _, make := range []func() error{a.makeTokens, a.makeSinks, a.makeServices, a.makeRotators, a.makeSecrets} {
		if err := make(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *Agent) makeTokens() error {
	for _, h := range a.cfg.HSM {
		worker, err := workerPath(h.Worker)
		if err != nil {
			return err
		}
		name := h.TokenName()
		a.tokens[name] = hsm.New(hsm.Config{
			Name: name, Worker: worker, Module: h.Module, Label: h.Label, Serial: h.Serial, URI: h.URI,
			PIN:       hsm.PINSource{File: h.PIN.File, Credential: h.PIN.Credential, Env: h.PIN.Env},
			NoSandbox: h.Sandbox == "off", Network: h.Network,
			Sessions: h.SessionLimit(), Timeout: h.CallTimeout(), Log: a.log, Observe: a.metrics.hsmOperation,
			Ledger: ledger{a.store}, Guard: a.store.Guard(name),
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

func (a *Agent) makeRotators() error {
	for name, c := range a.cfg.Identities {
		r, err := a.newRotator(name, c.Issuance, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		id := a.identities[name]
		r.publish = func(ctx context.Context, v version) error {
			if err := id.publish(r.keys, v); err != nil {
				return err
			}
			for _, s := range id.users {
				a.refresher.hurry(s.name)
			}
			a.publishCertificate(name, v)
			return a.storeOnToken(ctx, c.Issuance, r, v)
		}
		r.spec.OneTime = a.cfg.Upstreams[c.Issuer].Type == config.Manager
		if c.CredentialsFile != "" {
			r.creds = func() (credentials, bool, error) { return readCredentials(c.CredentialsFile) }
			r.burn = func() error { return shred(c.CredentialsFile) }
		}
	}
	for name, c := range a.cfg.Certificates {
		usage := x509.ExtKeyUsageServerAuth
		if c.Purpose == "client" {
			usage = x509.ExtKeyUsageClientAuth
		}
		r, err := a.newRotator(name, c.Issuance, usage)
		if err != nil {
			return err
		}
		r.publish = func(ctx context.Context, v version) error {
			a.publishCertificate(name, v)
			return a.storeOnToken(ctx, c.Issuance, r, v)
		}
	}
	return nil
}

func (a *Agent) newRotator(name string, c config.Issuance, usage x509.ExtKeyUsage) (*rotator, error) {
	svc := a.services[c.Issuer]
	if svc == nil || svc.issuer() == nil {
		return nil, fmt.Errorf("%q: issuer %q issues no certificates", name, c.Issuer)
	}
	h, ok := a.cfg.Token(c.Key.Token)
	if !ok {
		return nil, fmt.Errorf("%q: key.token: no token %q is configured", name, c.Key.Token)
	}
	if c.Key.InFile() {
		return nil, fmt.Errorf("certificate %q: key.store: file is not served by this version", name)
	}
	r := &rotator{
		name: name, host: a.host, issuer: svc.issuer(), log: a.log, emit: a.emit,
		keys: &tokenKeys{a.tokens[h.TokenName()], hsm.KeyType(c.Key.KeyType()), h.CallTimeout()},
		spec: certificateSpec{
			CommonName: c.Subject.CommonName, Names: names{DNS: c.DNSNames, IPs: parseIPs(c.IPAddresses)}, Usage: usage,
			Life: c.Duration.Or(0), RotateEvery: c.RotateEvery.Or(0), Grace: c.GraceTime(),
		},
		asks: make(chan ask), wake: make(chan struct{}, 1),
	}
	r.save = func(rec record) error {
		blob, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		return a.store.SaveRecord(kindCertificate, name, blob)
	}
	blob, err := a.store.Record(kindCertificate, name)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: read state: %w", name, err)
	}
	if blob != nil {
		if err := json.Unmarshal(blob, &r.rec); err != nil {
			return nil, fmt.Errorf("certificate %q: state is not as this version writes it: %w", name, err)
		}
	}
	a.rotators[name] = r
	return r, nil
}

// kindCertificate is what the records of rotators are kept under.
const kindCertificate = "certificate"

func parseIPs(ss []string) []net.IP {
	var ips []net.IP
	for _, s := range ss {
		ips = append(ips, net.ParseIP(s)) // the configuration was checked
	}
	return ips
}

func (a *Agent) makeSecrets() error {
	slots := map[string]chan struct{}{}
	for name := range a.services {
		slots[name] = make(chan struct{}, maxFetches)
	}
	a.refresher = &refresher{
		host: a.host, items: map[string]*secretItem{}, save: a.store.SaveSecret, log: a.log, emit: a.emit,
		publish: a.publishSecret, withdraw: a.withdrawSecret, wake: make(chan struct{}, 1),
		clocks: clocks{boot: sinceBoot},
	}
	for name, c := range a.cfg.Secrets {
		a.refresher.items[name] = &secretItem{
			name: name, share: share(a.host, name), index: -1, slots: slots[c.Upstream],
			spec:  secretSpec{Upstream: c.Upstream, TTL: c.TTL.Or(0), MaxStale: c.MaxStale.Or(config.DefaultMaxStale)},
			fetch: a.services[c.Upstream].fetcher(c), after: a.services[c.Upstream].enrolled(),
		}
	}
	return nil
}

func (a *Agent) publishSecret(s *sinks.Secret) {
	a.socket.PublishSecret(s)
	a.delivered(a.files.PublishSecret(s))
}

// delivered takes up that files could not be written. They are tried again by
// themselves, and their state is in the status.
func (a *Agent) delivered(err error) {
	if err != nil {
		a.log.Warn("not all files written", "err", err)
	}
}

func (a *Agent) withdrawSecret(name string, code upstream.Code, text string) {
	a.socket.WithdrawSecret(name, &socket.Problem{Code: string(code), Detail: text})
	a.files.WithdrawSecret(name)
}

func (a *Agent) publishCertificate(name string, v version) {
	c := &sinks.Certificate{
		Name: name, Generation: v.Generation, Chain: v.Chain, Serial: serialOf(v.Chain),
		NotBefore: v.NotBefore, NotAfter: v.NotAfter,
	}
	a.socket.PublishCertificate(c)
	a.delivered(a.files.PublishCertificate(c))
}

// serialOf is the serial number of the leaf in lower-case hex, or "".
func serialOf(chain [][]byte) string {
	if len(chain) == 0 {
		return ""
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return ""
	}
	return leaf.SerialNumber.Text(16)
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

package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust"
	"github.com/signet-agent/signet/upstream/manager"
	"github.com/signet-agent/signet/upstream/senhasegura"
)

// A service is one configured upstream with its client. Which of the clients
// there is depends on the type.
type service struct {
	name string
	cfg  config.Upstream
	http *upstream.HTTP
	// identity is shown to it; nil is none.
	identity *identity
	roots    *x509.CertPool // of ca_file; nil is the host's own
	turns    *turns         // of the certificates that it issues
	// rotators are those of the certificates that it issues, but for that of its
	// own identity. They do not change after start.
	rotators []*rotator

	manager     *manager.Client
	senhasegura *senhasegura.Client
	ciphertrust *ciphertrust.Client
	login       *ciphertrust.Login    // nil where nobody logs in
	tokens      *upstream.TokenSource // nil where there are no access tokens

	last atomic.Pointer[contact]
}

// A contact is how the last request to an upstream went.
type contact struct {
	code string
	at   time.Time
}

// newService makes the client of one upstream. It does not connect.
func (a *Agent) newService(name string, cfg config.Upstream) (*service, error) {
	s := &service{name: name, cfg: cfg, turns: newTurns()}
	roots, err := readRoots(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: ca_file: %w", name, err)
	}
	s.roots = roots
	count := a.metrics.upstreamRequest(name)
	hc := upstream.HTTPConfig{
		Name: name, URL: cfg.URL, CAs: roots, Timeout: cfg.CallTimeout(), Log: a.log,
		Observe: func(code string) {
			s.last.Store(&contact{code, time.Now()})
			count(code)
		},
	}
	s.identity = a.identities[cfg.Identity]
	if s.identity == nil && cfg.Type == config.Manager {
		s.identity = a.issuedBy(name)
	}
	if s.identity != nil {
		hc.Certificate = s.identity.certificate
		hc.Refused = func() { s.identity.doubt() } // which is wired later
		s.identity.users = append(s.identity.users, s)
	}
	if s.http, err = upstream.NewHTTP(hc); err != nil {
		return nil, err
	}
	switch cfg.Type {
	case config.Manager:
		s.manager = manager.New(manager.Config{
			HTTP: s.http, AccountID: cfg.AccountID, RegisterMethod: cfg.RegisterMethod, Log: a.log,
		})
	case config.Senhasegura:
		err = a.newSenhasegura(s)
	case config.CipherTrust:
		a.newCipherTrust(s)
	default:
		err = fmt.Errorf("upstream %q: type %q is not served by this version", name, cfg.Type)
	}
	return s, err
}

func (a *Agent) newSenhasegura(s *service) error {
	zone, err := time.LoadLocation(s.cfg.Timezone)
	if err != nil {
		return fmt.Errorf("upstream %q: timezone: %w", s.name, err)
	}
	s.senhasegura = senhasegura.New(senhasegura.Config{
		HTTP: s.http, ClientID: s.cfg.Auth.ClientID, ClientSecret: s.cfg.Auth.ClientSecret.Read,
		Form: s.cfg.Auth.Method == "client_secret_post", Zone: zone, OnToken: a.onToken(s.name),
	})
	s.tokens = s.senhasegura.Tokens()
	return nil
}

// onToken tells the world that there is a new access token, not which.
func (a *Agent) onToken(name string) func(*oauth2.Token) {
	return func(t *oauth2.Token) {
		a.log.Info("access token issued", "upstream", name, "expires_at", t.Expiry)
		a.emit(event{Type: eventTokenIssued, Name: name, NotAfter: t.Expiry, At: time.Now()})
	}
}

// enrolled is closed when the upstream can be shown the identity it wants; nil
// if it wants none.
func (s *service) enrolled() <-chan struct{} {
	if s.identity == nil {
		return nil
	}
	return s.identity.enrolled
}

// fetcher is how a configured secret is read.
func (s *service) fetcher(c config.Secret) func(context.Context) (upstream.Secret, error) {
	if s.ciphertrust != nil {
		return func(ctx context.Context) (upstream.Secret, error) { return s.ciphertrust.Fetch(ctx, c.Secret) }
	}
	ref := senhasegura.Ref{Credential: c.Credential, Info: c.Info, Application: c.Application}
	return func(ctx context.Context) (upstream.Secret, error) { return s.senhasegura.Fetch(ctx, ref) }
}

// issuer is what signs certificates here, or nil.
func (s *service) issuer() issuer {
	switch {
	case s.manager != nil:
		return s.manager
	case s.ciphertrust != nil:
		return s.ciphertrust
	}
	return nil
}

// item is the state of the upstream's access token; false where it has none.
func (s *service) item() (Item, bool) {
	if s.tokens == nil {
		return Item{}, false
	}
	it := Item{Kind: "token", Name: s.name, State: stateMissing, NextAction: "renew", NextAt: s.tokens.Due()}
	if until, ok := s.tokens.Until(); ok {
		it.State, it.FreshUntil = stateFresh, until
	}
	if c := s.last.Load(); c != nil && !strings.HasPrefix(c.code, "2") {
		it.LastError, it.LastErrorAt = "the last call to the upstream ended with "+c.code, c.at
	}
	if s.login != nil {
		s.loginItem(&it)
	}
	return it, true
}

// readRoots reads PEM certificates; no file is the host's own roots.
func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New(path + " holds no PEM certificate")
	}
	return pool, nil
}

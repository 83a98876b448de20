package senhaseguratest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// A Config says what to simulate.
type Config struct {
	// Bench is the clock, the faults and the log. If nil, the simulator has its
	// own.
	Bench *upstreamtest.Bench
	// Vault is what the simulator holds at first.
	Vault Vault
	// State is the file that keeps the vault across restarts; once it is there
	// it wins over Vault. "" keeps nothing.
	State string
	// ClientCAs, if not nil, are the issuers of which every caller has to show
	// a client certificate.
	ClientCAs *x509.CertPool
	// Modern answers in the envelope of release 3.32 instead of 3.21.
	Modern bool
}

// A Server is one simulated vault. It is to be served through
// [upstreamtest.Bench.Serve], or started by Start.
type Server struct {
	*upstreamtest.Bench
	cfg Config
	key *rsa.PrivateKey // signs access tokens

	mu     sync.Mutex
	vault  Vault            // guarded by mu
	tokens map[string]grant // guarded by mu; the tokens in force by their jti
	calls  []Call           // guarded by mu; oldest first
	last   int              // guarded by mu; ID of the last call
}

// New makes a simulator.
func New(c Config) (*Server, error) {
	if c.Bench == nil {
		c.Bench = &upstreamtest.Bench{}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("senhasegura simulator: make key: %w", err)
	}
	s := &Server{Bench: c.Bench, cfg: c, key: key, vault: c.Vault, tokens: map[string]grant{}}
	kept := Vault{}
	found, err := upstreamtest.Load(c.State, &kept)
	if err != nil {
		return nil, fmt.Errorf("senhasegura simulator: %w", err)
	}
	if found {
		s.vault = kept
		return s, nil
	}
	if len(s.vault.Seed) == 0 {
		s.vault.Seed = make([]byte, 32)
		_, _ = rand.Read(s.vault.Seed) // never fails
	}
	if err := s.save(); err != nil {
		return nil, fmt.Errorf("senhasegura simulator: %w", err)
	}
	return s, nil
}

// Start serves a new simulator on loopback until the test ends. Its server
// certificate is one of the CA that it returns.
func Start(t upstreamtest.TB, c Config) (s *Server, url string, ca *upstreamtest.CA) {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	ca, err = upstreamtest.NewCA(upstreamtest.CAConfig{})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s, s.Bench.Start(t, ca, s), ca
}

// save keeps the vault. The caller holds mu, or is New.
func (s *Server) save() error { return upstreamtest.Save(s.cfg.State, &s.vault) }

// ServeHTTP answers one call of the web service.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	for _, c := range s.vault.Credentials {
		c.settle(now, s.vault.Seed)
	}
	call := &Call{Method: r.Method, URL: r.URL.Path, IP: remoteIP(r), DateTime: now.UTC()}
	a := s.answer(call, r, now)
	call.Status, call.Error = a.http, a.problem()
	call.Time = upstreamtest.Duration(time.Since(began))
	s.record(call)
	a.write(w, s.cfg.Modern)
}

// answer finds out who calls, whether they may, and what they want, in the
// order of the product: the gateway, the access token, the authorization's
// security settings, the resource, the function.
func (s *Server) answer(call *Call, r *http.Request, now time.Time) answer {
	if r.URL.Path == tokenPath {
		call.Resource, call.Event = "OAuth2", "Access token"
		return s.token(call, r, now)
	}
	bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !strings.HasPrefix(r.URL.Path, "/iso/") || !ok || bearer == "" || len(r.Header.Values("Authorization")) != 1 {
		return gateway()
	}
	auth, why := s.holder(bearer, now)
	if auth == nil {
		return unauthorized(why)
	}
	call.who(auth)
	if a, ok := s.admit(auth, r, now); !ok {
		return a
	}
	return s.route(call, auth, r)
}

// admit applies the authorization's security settings, which count on every
// call, that for the access token included.
func (s *Server) admit(auth *Authorization, r *http.Request, now time.Time) (refused answer, ok bool) {
	if auth.Inactive || (!auth.Expires.IsZero() && !now.Before(auth.Expires)) {
		return unauthorized("Inactive authorization"), false
	}
	if why := s.badCertificate(auth, r, now); why != "" {
		return unauthorized(why), false
	}
	if !allowedIP(auth.AllowedIPs, remoteIP(r)) {
		return failure(http.StatusForbidden, 0, "IP not allowed"), false
	}
	if len(auth.Referers) > 0 && !slices.Contains(auth.Referers, r.Header.Get("Referer")) {
		return failure(http.StatusForbidden, 0, "Referer not allowed"), false
	}
	return answer{}, true
}

// badCertificate says what is wrong with the client's certificate, if it has to
// have one.
func (s *Server) badCertificate(auth *Authorization, r *http.Request, now time.Time) string {
	if s.cfg.ClientCAs == nil && auth.Fingerprint == "" {
		return ""
	}
	cert := upstreamtest.ClientCertificate(r)
	if cert == nil {
		return "Client certificate required"
	}
	if s.cfg.ClientCAs != nil {
		between := x509.NewCertPool()
		for _, c := range r.TLS.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := cert.Verify(x509.VerifyOptions{
			Roots: s.cfg.ClientCAs, Intermediates: between, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err != nil {
			return "Invalid client certificate"
		}
	}
	if auth.Fingerprint != "" {
		sum := sha256.Sum256(cert.Raw)
		want := strings.ReplaceAll(auth.Fingerprint, ":", "")
		if !strings.EqualFold(hex.EncodeToString(sum[:]), want) {
			return "Client certificate does not match"
		}
	}
	return ""
}

func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// allowedIP reports whether ip is in a list of addresses, networks and "*".
func allowedIP(list []string, ip string) bool {
	addr, err := netip.ParseAddr(ip)
	for _, allowed := range list {
		if allowed == "*" {
			return true
		}
		if err != nil {
			continue
		}
		if a, e := netip.ParseAddr(allowed); e == nil && a.Unmap() == addr.Unmap() {
			return true
		}
		if p, e := netip.ParsePrefix(allowed); e == nil && p.Contains(addr.Unmap()) {
			return true
		}
	}
	return len(list) == 0
}

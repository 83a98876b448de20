package ciphertrusttest

import (
	"context"
	"crypto/x509/pkix"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// Config says what CipherTrust Manager to simulate.
type Config struct {
	// CA is the root CA that an appliance makes at its first start. It signs the
	// certificate of the web interface, which trusts it for clients, and it is
	// the first local CA. If nil, one is made.
	CA *upstreamtest.CA
	// StateFile keeps everything. If "", it dies with the Server.
	StateFile string
	// AdminPassword is that of the user admin at first. If "", it is admin.
	AdminPassword string
	// Setup is what there is at first besides the user admin.
	Setup Setup
	// Modern answers wrong credentials with code 1, as release 2.22 does,
	// instead of code 5.
	Modern bool
}

// A Server is one simulated appliance, with what every simulator has.
type Server struct {
	upstreamtest.Bench
	CA *upstreamtest.CA

	cfg    Config
	routes []route

	mu       sync.Mutex
	state    state     // guarded by mu
	mistakes []Mistake // what the next certificates are made wrong by; guarded by mu
	records  []Record  // guarded by mu; oldest first
}

func caConfig() upstreamtest.CAConfig {
	return upstreamtest.CAConfig{RSA: true, Subject: pkix.Name{
		Country: []string{"US"}, Province: []string{"TX"}, Locality: []string{"Austin"},
		Organization: []string{"Thales"}, CommonName: "CipherTrust Root CA",
	}}
}

// NewCA makes a root CA with the name that the product gives it.
func NewCA() (*upstreamtest.CA, error) { return upstreamtest.NewCA(caConfig()) }

// LoadCA keeps such a CA in dir, as ciphertrust-ca.pem and ciphertrust-ca.key.
func LoadCA(dir string) (*upstreamtest.CA, error) {
	return upstreamtest.LoadCA(dir, "ciphertrust-ca", caConfig())
}

// New makes an appliance, with what its state file remembers.
func New(cfg Config) (*Server, error) {
	if cfg.AdminPassword == "" {
		cfg.AdminPassword = "admin"
	}
	if cfg.CA == nil {
		ca, err := NewCA()
		if err != nil {
			return nil, err
		}
		cfg.CA = ca
	}
	s := &Server{CA: cfg.CA, cfg: cfg}
	s.routes = s.table()
	found, err := upstreamtest.Load(cfg.StateFile, &s.state)
	if err != nil {
		return nil, err
	}
	if found {
		return s, s.promoteAuthKey()
	}
	if err := s.install(cfg); err != nil {
		return nil, err
	}
	return s, s.save()
}

// Start runs an appliance on loopback until the test ends and returns its URL,
// without /api/v1.
func Start(t upstreamtest.TB, cfg Config) (*Server, string) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s, s.Bench.Start(t, s.CA, s)
}

// StartPipe runs an appliance on a Pipe until the test ends, for tests in a
// bubble of testing/synctest. The client's URL has to name localhost.
func StartPipe(t upstreamtest.TB, cfg Config) (*Server, *upstreamtest.Pipe) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s, s.Bench.StartPipe(t, s.CA, s)
}

// Serve answers on ln until ctx is done.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.Bench.Serve(ctx, ln, s.CA, s)
}

// save puts the state on disk. The caller holds mu, or is New.
func (s *Server) save() error { return upstreamtest.Save(s.cfg.StateFile, &s.state) }

// A Record is one call as the product's own audit records tell it.
type Record struct {
	RequestID string    `json:"requestID"`
	CreatedAt time.Time `json:"createdAt"`
	ClientIP  string    `json:"client_ip"`
	Username  string    `json:"username"` // "" if nobody was logged in
	ClientID  string    `json:"client_id"`
	Domain    string    `json:"domain"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Status    int       `json:"status"`
	Success   bool      `json:"success"`
	Error     string    `json:"error,omitempty"` // codeDesc
}

// recorded is how many audit records are kept.
const recorded = 10_000

// Records returns the audit records, oldest first. Calls that a fault has
// answered never reached the appliance and are not among them.
func (s *Server) Records() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records)
}

// record adds to the audit records. s.mu is held.
func (s *Server) record(c *call, id string, status int, no *refusal) {
	ip, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		ip = c.r.RemoteAddr
	}
	rec := Record{
		RequestID: id, CreatedAt: c.now, ClientIP: ip, Method: c.r.Method, Path: c.r.URL.Path,
		Status: status, Success: no == nil,
	}
	if c.caller != nil {
		rec.Username, rec.ClientID, rec.Domain = c.caller.username, c.caller.clientID, c.dom.Name
	}
	if no != nil {
		rec.Error = no.desc
	}
	if len(s.records) == recorded {
		s.records = slices.Delete(s.records, 0, recorded/10)
	}
	s.records = append(s.records, rec)
}

// Failure is a fault that answers as the product does when it fails with the
// given status, for count calls; 0 is until it is removed. Retry-After goes out
// with 429 only.
func Failure(status, count int) upstreamtest.Fault {
	f := upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: status, Count: count}
	switch status {
	case http.StatusUnauthorized:
		f.Body = unauthorized("").body(uuid())
	case http.StatusForbidden:
		f.Body = forbidden().body(uuid())
	case http.StatusTooManyRequests:
		f.RetryAfter, f.Body = "1", (&refusal{429, 29, "NCERRTooManyRequests: Too many requests", ""}).body(uuid())
	case http.StatusInternalServerError:
		f.Body = internal().body(uuid())
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		f.Body = "<html><head><title>" + http.StatusText(status) + "</title></head></html>" // of the front end
	}
	return f
}

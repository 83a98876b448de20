package managertest

import (
	"context"
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// Config says what Manager to simulate.
type Config struct {
	// CA is the Manager's own: it signs the client certificates and the
	// Manager's server certificate. If nil, one is made.
	CA *upstreamtest.CA
	// StateFile keeps accounts and vaults. If "", they die with the Server.
	StateFile string
	// RegisterMethod is the name of the method "Register Client Certificate".
	// If "", it is clientRegistration.
	RegisterMethod string
	// AdminUsername and AdminPassword are the super user's. If the name is "",
	// they are admin and password.
	AdminUsername, AdminPassword string
	// DeviceDNs are the subjects of devices, which no account may take.
	DeviceDNs []string
}

// A Server is one simulated Manager, with what every simulator has.
type Server struct {
	upstreamtest.Bench
	CA *upstreamtest.CA

	cfg     Config
	methods map[string]method

	mu       sync.Mutex
	state    state     // guarded by mu
	mistakes []Mistake // what the next certificates are made wrong by; guarded by mu
	disowned []string  // serial numbers of certificates not taken for now; guarded by mu
}

// NewCA makes a CA with the issuer name that the product has.
func NewCA() (*upstreamtest.CA, error) { return upstreamtest.NewCA(caConfig()) }

// LoadCA keeps such a CA in dir, as manager-ca.pem and manager-ca.key.
func LoadCA(dir string) (*upstreamtest.CA, error) {
	return upstreamtest.LoadCA(dir, "manager-ca", caConfig())
}

func caConfig() upstreamtest.CAConfig {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	u := hex.EncodeToString(b)
	return upstreamtest.CAConfig{RSA: true, Subject: pkix.Name{
		Country: []string{"US"}, Province: []string{"Illinois"}, Locality: []string{"Chicago"},
		Organization: []string{"Cleversafe"}, CommonName: "dsNet Manager CA",
		SerialNumber: fmt.Sprintf("%s-%s-%s-%s-%s", u[:8], u[8:12], u[12:16], u[16:20], u[20:]),
	}}
}

// New makes a Manager, with what its state file remembers.
func New(cfg Config) (*Server, error) {
	if cfg.RegisterMethod == "" {
		cfg.RegisterMethod = "clientRegistration"
	}
	if cfg.AdminUsername == "" {
		cfg.AdminUsername, cfg.AdminPassword = "admin", "password"
	}
	if cfg.CA == nil {
		ca, err := NewCA()
		if err != nil {
			return nil, err
		}
		cfg.CA = ca
	}
	s := &Server{CA: cfg.CA, cfg: cfg}
	found, err := upstreamtest.Load(cfg.StateFile, &s.state)
	if err != nil {
		return nil, err
	}
	if !found {
		s.state = firstState()
	}
	s.methods = s.table()
	return s, nil
}

// Start runs a Manager on loopback until the test ends and returns its URL.
func Start(t upstreamtest.TB, cfg Config) (*Server, string) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s, s.Bench.Start(t, s.CA, s)
}

// Serve answers on ln until ctx is done.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.Bench.Serve(ctx, ln, s.CA, s)
}

// Control adds to the control handler of every simulator:
//
//	POST /accounts   {"name","username","password"}: a private account; answers {"id"}
//	GET  /accounts   all accounts with their certificates, for an operator to look at
//	PUT  /mistakes   ["other-key", ...]: what is wrong with the next certificates
//	PUT  /disowned   ["SERIAL", ...]: the certificates that are not taken for now
func (s *Server) Control() *http.ServeMux {
	mux := s.Bench.Control()
	mux.HandleFunc("POST /accounts", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Name, Username, Password string }
		if !upstreamtest.Decode(w, r, &in) {
			return
		}
		id, err := s.CreatePrivateAccount(in.Name, in.Username, in.Password)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		upstreamtest.Reply(w, map[string]int64{"id": id})
	})
	mux.HandleFunc("GET /accounts", func(w http.ResponseWriter, _ *http.Request) {
		upstreamtest.Reply(w, s.Accounts())
	})
	mux.HandleFunc("PUT /mistakes", func(w http.ResponseWriter, r *http.Request) {
		var list []Mistake
		if !upstreamtest.Decode(w, r, &list) {
			return
		}
		if err := s.Mistake(list...); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		upstreamtest.Reply(w, list)
	})
	mux.HandleFunc("PUT /disowned", func(w http.ResponseWriter, r *http.Request) {
		var list []string
		if !upstreamtest.Decode(w, r, &list) {
			return
		}
		if err := s.Disown(list...); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		upstreamtest.Reply(w, list)
	})
	return mux
}

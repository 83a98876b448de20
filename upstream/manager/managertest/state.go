package managertest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"slices"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// A role is one of the Manager's.
type role string

const (
	superUser        role = "superUser"
	systemAdmin      role = "systemAdmin"
	securityAdmin    role = "securityAdmin"
	operator         role = "operator"
	vaultProvisioner role = "vaultProvisioner"
	serviceAccount   role = "serviceAccount"
)

// state is all that a Manager remembers.
type state struct {
	LastAccount     int64
	LastVault       int64
	LastEvent       int64
	Accounts        []*account
	Vaults          []*vault
	Mirrors         []*mirror
	VaultTemplates  []template
	MirrorTemplates []template
	Events          []event
}

// firstState is a Manager just installed, with a template of each kind.
func firstState() state {
	return state{
		LastAccount: 123, LastVault: 56,
		VaultTemplates:  []template{{ID: 1, Name: "locked vaults", ProvisioningCode: "locked"}},
		MirrorTemplates: []template{{ID: 2, Name: "locked mirrors", ProvisioningCode: "mirrored"}},
	}
}

// account is a private account or an ordinary one.
type account struct {
	ID       int64
	Name     string
	Email    string
	Private  bool
	Roles    []role
	Username string // "" once registered
	Salt     string
	Digest   string // of salt and password; "" once registered
	Disabled bool
	// SubjectDN is what the last accepted CSR says.
	SubjectDN    string
	RawSubject   []byte
	RawKey       []byte         // of the same CSR
	Certificates []*certificate // oldest first
}

// certificate is one that the Manager issued.
type certificate struct {
	Serial   string // lower-case hex
	DER      []byte
	NotAfter time.Time
	State    string // valid, superseded, revoked
	Noticed  bool   // an event was raised for it
}

// stateAt adds what only the time tells.
func (c *certificate) stateAt(now time.Time) string {
	if c.State != "revoked" && now.After(c.NotAfter) {
		return "expired"
	}
	return c.State
}

// current is the newest certificate, or nil.
func (a *account) current() *certificate {
	if len(a.Certificates) == 0 {
		return nil
	}
	return a.Certificates[len(a.Certificates)-1]
}

// stateAt is the state of the account as lists show it.
func (a *account) stateAt(now time.Time) string {
	switch cur := a.current(); {
	case a.Disabled:
		return "disabled"
	case !a.Private:
		return "registered"
	case cur == nil:
		return "awaitingRegistration"
	case now.After(cur.NotAfter):
		return "expired"
	}
	return "registered"
}

func (a *account) setPassword(password string) {
	a.Salt = rand.Text()
	a.Digest = digest(a.Salt, password)
}

func digest(salt, password string) string {
	sum := sha256.Sum256([]byte(salt + password))
	return hex.EncodeToString(sum[:])
}

// has reports whether the caller has the role.
func (c *call) has(r role) bool {
	if c.account == nil {
		return r == superUser
	}
	return slices.Contains(c.account.Roles, r)
}

// authenticate finds out who calls: by Basic if there is any, else by client
// certificate. s.mu is held.
func (s *Server) authenticate(c *call, r *http.Request) bool {
	if r.Header.Get("Authorization") != "" {
		username, password, ok := r.BasicAuth()
		return ok && s.byPassword(c, username, password)
	}
	cert := upstreamtest.ClientCertificate(r)
	return cert != nil && s.byCertificate(c, cert)
}

func (s *Server) byPassword(c *call, username, password string) bool {
	c.password = password
	if username == s.cfg.AdminUsername {
		return subtle.ConstantTimeCompare([]byte(password), []byte(s.cfg.AdminPassword)) == 1
	}
	for _, a := range s.state.Accounts {
		if a.Username == "" || a.Username != username {
			continue
		}
		c.account, c.byOneTime = a, a.Private
		return !a.Disabled && subtle.ConstantTimeCompare([]byte(digest(a.Salt, password)), []byte(a.Digest)) == 1
	}
	return false
}

func (s *Server) byCertificate(c *call, cert *x509.Certificate) bool {
	if !s.CA.Issued(cert) || c.now.Before(cert.NotBefore) || c.now.After(cert.NotAfter) {
		return false
	}
	for _, a := range s.state.Accounts {
		for _, have := range a.Certificates {
			if slices.Equal(have.DER, cert.Raw) {
				c.account = a
				return !a.Disabled && have.State != "revoked" && !slices.Contains(s.disowned, have.Serial)
			}
		}
	}
	return false
}

// find returns the account of that id, or nil. s.mu is held.
func (s *Server) find(id int64) *account {
	for _, a := range s.state.Accounts {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// save puts the state on disk. s.mu is held.
func (s *Server) save() error { return upstreamtest.Save(s.cfg.StateFile, &s.state) }

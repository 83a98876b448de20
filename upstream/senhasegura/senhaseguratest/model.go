package senhaseguratest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// A Resource is a part of the web service that an authorization may have.
type Resource string

// The resources.
const (
	PAM Resource = "PAM"
	DSM Resource = "DevOps Secret Manager"
)

// An Authorization is what a client application logs in with.
type Authorization struct {
	ID           int    `json:"id"`
	Client       string `json:"client"` // the application's name
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	// Resources that it may use.
	Resources []Resource `json:"resources"`
	// Credentials and Infos are the ids that it may see; nil means all.
	Credentials []string `json:"credentials,omitempty"`
	Infos       []string `json:"infos,omitempty"`
	// AllowedIPs are addresses, networks, or "*"; nil means all.
	AllowedIPs []string `json:"allowed_ips,omitempty"`
	// Referers that are allowed; nil means all.
	Referers []string `json:"referers,omitempty"`
	// Fingerprint, if not "", is the SHA-256 in hex of the one client
	// certificate that may be used.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Expires, if not zero, is when access ends.
	Expires time.Time `json:"expires,omitzero"`
	// TokenLife is how long its access tokens live; 0 means an hour.
	TokenLife upstreamtest.Duration `json:"token_life,omitzero"`
	Inactive  bool                  `json:"inactive,omitempty"`
}

// A Credential is a user name with a password.
type Credential struct {
	ID         string `json:"id"`
	Identifier string `json:"identifier"`
	Username   string `json:"username"`
	Password   string `json:"password"`
	Hostname   string `json:"hostname"`
	IP         string `json:"ip"`
	Port       string `json:"port"`
	Domain     string `json:"domain"`
	Additional string `json:"additional"`
	Model      string `json:"model"`
	// Expires is when the password changes next; zero means it is not known.
	// Without RotateEvery that is only an announcement: nothing happens then.
	Expires time.Time `json:"expires,omitzero"`
	// RotateEvery is the interval of automatic changes, in whole seconds; 0
	// means none.
	RotateEvery upstreamtest.Duration `json:"rotate_every,omitzero"`
	// Changes counts the changes so far.
	Changes int `json:"changes"`
	// Changed is when the password was last changed.
	Changed time.Time `json:"changed,omitzero"`
	// Exclusive keeps other authorizations out while one has custody.
	Exclusive bool `json:"exclusive,omitempty"`
	Inactive  bool `json:"inactive,omitempty"`
	// Custody is the ClientID of the authorization that has it, or "".
	Custody string `json:"custody,omitempty"`
}

// settle makes the changes that were due up to now. Each next moment follows
// from the one before, never from now, so that it does not matter when and how
// often anybody asks.
func (c *Credential) settle(now time.Time, seed []byte) {
	every := time.Duration(c.RotateEvery)
	if every > 0 && c.Expires.IsZero() {
		c.Expires = next(now, every)
	}
	if every <= 0 || c.Inactive || now.Before(c.Expires) {
		return
	}
	n := now.Sub(c.Expires)/every + 1
	c.Changed = c.Expires.Add((n - 1) * every)
	c.Expires = c.Expires.Add(n * every)
	c.Changes += int(n)
	c.Password = c.derive(seed)
	c.Custody = "" // what was taken into custody is not the password any more
}

// next is when a password changes that was changed now. Whole seconds, because
// expiration_time has no finer ones.
func next(now time.Time, every time.Duration) time.Time {
	return now.UTC().Truncate(time.Second).Add(every)
}

// derive is the password after Changes changes.
func (c *Credential) derive(seed []byte) string {
	mac := hmac.New(sha256.New, seed)
	fmt.Fprintf(mac, "%s/%d", c.ID, c.Changes)
	return fmt.Sprintf("%s.%d", base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:15]), c.Changes)
}

// named reports whether ref is its id, its identifier, or its username@hostname.
// The last does not work for user names that have an @ themselves.
func (c *Credential) named(ref string) bool {
	return ref == c.ID || (c.Identifier != "" && ref == c.Identifier) ||
		(!strings.Contains(c.Username, "@") && ref == c.Username+"@"+c.Hostname)
}

// An Info is a protected information.
type Info struct {
	ID       string `json:"id"`
	Tag      string `json:"tag"`
	Type     string `json:"type"`
	Content  string `json:"content"`
	Inactive bool   `json:"inactive,omitempty"`
}

// An Application is what DevOps Secret Manager holds for an authorization.
type Application struct {
	ID          string      `json:"id"`
	ClientID    string      `json:"client_id"` // the authorization that it belongs to
	Name        string      `json:"name"`
	Description *string     `json:"description"`
	Tags        []string    `json:"tags"`
	System      string      `json:"system"`
	Environment string      `json:"environment"`
	Secrets     []AppSecret `json:"secrets"`
}

// An AppSecret is one secret of an application.
type AppSecret struct {
	ID       string `json:"secret_id"`
	Name     string `json:"secret_name"`
	Identity string `json:"identity"`
	Version  string `json:"version"`
	Expires  string `json:"expiration_date"`
	Engine   string `json:"engine"`
	// Data is a list of maps of strings, numbers and nulls.
	Data json.RawMessage `json:"data"`
}

// A Vault is all that the simulator knows.
type Vault struct {
	Authorizations []*Authorization `json:"authorizations"`
	Credentials    []*Credential    `json:"credentials"`
	Infos          []*Info          `json:"infos"`
	Applications   []*Application   `json:"applications"`
	// Seed is what the passwords of automatic changes are derived from. If
	// empty, New makes one.
	Seed []byte `json:"seed"`
}

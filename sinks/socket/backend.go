package socket

import (
	"context"
	"io"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/internal/secret"
)

// A Backend does what cannot be answered from published items. The agent is
// one. Its errors are shown to callers if they are a [*Problem]; of others only
// the log is told. Names have passed policy and need not exist.
type Backend interface {
	// Fetch joins the fetch of a secret that is under way, or starts one. It
	// returns nil once the secret is published. While the upstream is known to
	// be away it does not wait but returns the last failure.
	Fetch(ctx context.Context, name string) error
	// Refused is told that a version did not work for a caller. When it
	// returns nil, what is published is the answer.
	Refused(ctx context.Context, name, version string) error

	// Renew renews a certificate or identity, with a new key if rotate is set,
	// and returns when that is done. The certificate is the same as before where
	// its issuer sees no need for another.
	Renew(ctx context.Context, name string, rotate, compromised bool) (changed bool, err error)
	// Enroll registers an identity for the first time.
	Enroll(ctx context.Context, identity, username string, password secret.Value) error
	// Login and Logout begin and end a session at an upstream.
	Login(ctx context.Context, upstream string, params LoginRequest) (LoginResult, error)
	Logout(ctx context.Context, upstream string) error

	// Keys are those keys that visible allows, as far as they are known without
	// asking the token. It is an error if one of them is not known because its
	// token is closed: a list without it would say that it does not exist.
	Keys(visible func(name string) bool) ([]KeyInfo, error)
	// Key is one key as the token states it.
	Key(ctx context.Context, name string) (KeyInfo, error)
	// Sign signs and says with which generation of the key.
	Sign(ctx context.Context, name string, r SignRequest) (signature []byte, generation int, err error)

	// Audit is what verifies the audit.
	Audit(ctx context.Context) (AuditInfo, error)
	// AuditLines are the lines of the audit up to the last one that is written: the
	// last ones of its file, or if last is negative all that come after the line of
	// a hash, or from the first one on if that is "".
	AuditLines(last int, after string) (io.ReadCloser, error)

	// Token is a current access token.
	Token(ctx context.Context, upstream string) (*oauth2.Token, error)
	// Proxy sends r, which has a path and no host, with the agent's own
	// credentials.
	Proxy(ctx context.Context, upstream string, r *http.Request) (*http.Response, error)

	// Status is marshaled as the answer to GET /v1/status. It holds only what
	// visible allows.
	Status(visible Visible) any
	// Plan and Doctor are marshaled likewise, for administrators.
	Plan() any
	Doctor(ctx context.Context) any
	// Objects is marshaled as the answer to GET /v1/objects: what is on the
	// tokens and is not the agent's.
	Objects(ctx context.Context) (any, error)
	// ClearPINGuard lets a refused PIN be tried once more on a token, and
	// returns when it was tried.
	ClearPINGuard(ctx context.Context, token string) error
	// RotateSealingKey replaces the key in the HSM that the agent's own state is
	// sealed with. If that is lost, what it has sealed may be discarded or not.
	RotateSealingKey(ctx context.Context, discard bool) error
	// Ready is why the agent is not ready, or nil.
	Ready() error
}

// Visible reports whether a caller may know of an item.
type Visible func(kind access.Kind, name string) bool

// KeyInfo is what anyone who may use a key can know of it.
type KeyInfo struct {
	Name       string         `json:"name"`
	Generation int            `json:"generation"`
	Algorithm  string         `json:"algorithm"`
	PublicKey  string         `json:"public_key"` // SPKI in PEM
	Attributes map[string]any `json:"attributes,omitempty"`
}

// AuditInfo is what nobody who can only write to the audit's files can change.
type AuditInfo struct {
	File string `json:"file"` // its path
	Head string `json:"head"` // hash of the last line that was written
	// Keys are the public halves of all keys that have signed it.
	Keys []KeyInfo `json:"keys"`
}

// A SignRequest has passed these checks: Hash is one of SHA-256, SHA-384 and
// SHA-512 with a Digest of its length, or both are empty and Message is set.
type SignRequest struct {
	Hash       string // "SHA-256"
	Padding    string // "pkcs1v15", "pss", or "" for keys that have none
	Digest     []byte
	Message    []byte // for Ed25519
	Generation int    // of the key to use; 0 is the current one
}

// A LoginRequest is what a person gives to log in at an upstream. All of it may
// be empty: the agent then has what it needs in its configuration.
type LoginRequest struct {
	Username string
	Password secret.Value
	// Life is how long the login is to last; 0 leaves it to the agent.
	Life time.Duration
	// URL, if not "", has to be the upstream's.
	URL string
	// RefreshToken and ClientID are those of another program.
	RefreshToken secret.Value
	ClientID     string
	// Share asks for the refresh token in the result.
	Share bool
}

// A LoginResult is what a login came to.
type LoginResult struct {
	Username string
	URL      string
	Until    time.Time // zero if that is not known
	// RefreshToken and ClientID are set if they were asked for.
	RefreshToken secret.Value
	ClientID     string
}

package config

import (
	"path/filepath"
	"time"

	"github.com/signet-agent/signet/internal/tokenuri"
)

// Config is the whole of the configuration file. Its zero fields mean what
// their comments say; there are no other defaults anywhere.
type Config struct {
	// StateDir is where the agent keeps its records. See StatePath.
	StateDir string `yaml:"state_dir"`
	// RuntimeDir is where the sockets are. See RuntimePath.
	RuntimeDir string `yaml:"runtime_dir"`

	// HSM are the PKCS#11 tokens: one, or a list of named ones. The first is
	// the one used where no token is named.
	HSM HSMs `yaml:"hsm"`

	// Upstreams are the systems that hand out tokens, secrets or certificates.
	Upstreams map[string]Upstream `yaml:"upstreams"`
	// Identities are keys with the client certificate for them.
	Identities map[string]Identity `yaml:"identities"`
	// Secrets are read from an upstream and cached.
	Secrets map[string]Secret `yaml:"secrets"`
	// Certificates are kept fresh for local apps.
	Certificates map[string]Certificate `yaml:"certificates"`
	// Files are written for consumers that read files.
	Files []File `yaml:"files"`

	Socket            Socket            `yaml:"socket"`
	CredentialsSocket CredentialsSocket `yaml:"credentials_socket"`

	// Policy says who may do what. What no rule allows is denied.
	Policy []Rule `yaml:"policy"`

	Audit Audit `yaml:"audit"`
	Log   Log   `yaml:"log"`
}

// StatePath is StateDir, or /var/lib/signet.
func (c *Config) StatePath() string { return or(c.StateDir, "/var/lib/signet") }

// RuntimePath is RuntimeDir, or /run/signet.
func (c *Config) RuntimePath() string { return or(c.RuntimeDir, "/run/signet") }

// SocketPath is where the agent answers: socket.path, or signet.sock in the
// runtime directory.
func (c *Config) SocketPath() string {
	return or(c.Socket.Path, filepath.Join(c.RuntimePath(), "signet.sock"))
}

// AuditPath is audit.file, or audit.jsonl in the state directory.
func (c *Config) AuditPath() string {
	return or(c.Audit.File, filepath.Join(c.StatePath(), "audit.jsonl"))
}

// Token is the token of that name; the empty name is the first token.
func (c *Config) Token(name string) (HSM, bool) {
	for _, h := range c.HSM {
		if name == "" || h.TokenName() == name {
			return h, true
		}
	}
	return HSM{}, false
}

// HSMs is one token, or a list of named ones.
type HSMs []HSM

// HSM says which PKCS#11 token holds the keys. A token is chosen by its label,
// its serial number or an RFC 7512 URI, never by a slot number, which changes
// when something is plugged in.
type HSM struct {
	// Name tells the tokens of a list apart. See TokenName.
	Name string `yaml:"name"`
	// Module is the path of the vendor's PKCS#11 library. It may be left out
	// if URI has a module-path.
	Module string `yaml:"module"`
	// InitArgs is a text that the library is initialised with, for the few that
	// need one.
	InitArgs string `yaml:"init_args"`
	// Label is the label of the token, as `pkcs11-tool -L` shows it.
	Label string `yaml:"token"`
	// Serial is the serial number of the token; with Label, both must match.
	Serial string `yaml:"serial"`
	// URI chooses the token by RFC 7512, instead of Label and Serial.
	URI string `yaml:"uri"`
	// PIN is where the worker reads the user PIN from. It may be left out if
	// URI has a pin-source.
	PIN Source `yaml:"pin"`
	// Worker is the path of signet-hsm; "" is the one beside signet.
	Worker string `yaml:"worker"`
	// Timeout ends a call into the module. See CallTimeout.
	Timeout Duration `yaml:"timeout"`
	// Sessions is how many sessions are opened at most, at least 4; 0 is 8.
	Sessions int `yaml:"sessions"`
	// Sandbox is "on" (also if empty) or "off", for modules that need what the
	// worker's sandbox takes away.
	Sandbox string `yaml:"sandbox"`
	// Network lets the module use the network, as those of network HSMs must.
	Network bool `yaml:"network"`
	// Audit is "strict" (also if empty) or "lenient", which uses keys that the
	// module would wrap for another key, or does not call its own.
	Audit string `yaml:"audit"`
}

// TokenName is Name, or "default".
func (h HSM) TokenName() string { return or(h.Name, "default") }

// ModulePath is Module, or the module-path of URI.
func (h HSM) ModulePath() string {
	u, _ := tokenuri.Parse(h.URI) // what is wrong with it is a fault
	return or(h.Module, u.Module)
}

// CallTimeout is Timeout, or ten seconds.
func (h HSM) CallTimeout() time.Duration { return h.Timeout.Or(10 * time.Second) }

// SessionLimit is Sessions, or 8.
func (h HSM) SessionLimit() int { return orInt(h.Sessions, 8) }

// Socket is where apps ask the agent.
type Socket struct {
	// Path of the Unix socket; see Config.SocketPath.
	Path string `yaml:"path"`
	// Mode of the socket file, in octal; "" is 0666, as policy decides who
	// gets what.
	Mode Mode `yaml:"mode"`
	// RateLimit bounds the requests of one user; the zero limit is none.
	RateLimit RateLimit `yaml:"rate_limit"`
}

// RateLimit is a token bucket per user.
type RateLimit struct {
	// PerSecond is how many requests a user may make in the long run.
	PerSecond int `yaml:"per_second"`
	// Burst is how many at once; 0 is twice PerSecond.
	Burst int `yaml:"burst"`
}

// CredentialsSocket is what LoadCredential= of systemd connects to.
type CredentialsSocket struct {
	// Path of the Unix socket. If empty, credentials are not served.
	Path string `yaml:"path"`
	// Wait is how long a unit that starts waits for a first fetch. See WaitLimit.
	Wait Duration `yaml:"wait"`
}

// WaitLimit is Wait, or 30 seconds.
func (s CredentialsSocket) WaitLimit() time.Duration { return s.Wait.Or(30 * time.Second) }

// Audit is the record of who was given what.
type Audit struct {
	// File takes one JSON line per access; see Config.AuditPath.
	File string `yaml:"file"`
	// OnFailure says what happens to an access that cannot be recorded:
	// "refuse" (also if empty) or "allow".
	OnFailure string `yaml:"on_failure"`
	// MaxMiB is from which size on the file is set aside, as FILE.000001 and so
	// on, and a new one begun; see MaxSize.
	MaxMiB int `yaml:"max_mib"`
	// Keep is how many of those stay; 0 is all.
	Keep int `yaml:"keep"`
}

// MaxSize is MaxMiB, or 64, in bytes.
func (a Audit) MaxSize() int64 { return int64(orInt(a.MaxMiB, 64)) << 20 }

// Refuses reports whether an access that cannot be recorded is refused.
func (a Audit) Refuses() bool { return a.OnFailure != "allow" }

// Log is what the agent says to its operator.
type Log struct {
	// Level is debug, info (also if empty), warn or error.
	Level string `yaml:"level"`
	// Format is text or json; "" is the journal where stderr is connected to
	// it, and text elsewhere.
	Format string `yaml:"format"`
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func orInt(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

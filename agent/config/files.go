package config

import (
	"strconv"
	"strings"
	"time"
)

// Content says what is in a file: one secret or one certificate, and how it is
// written.
type Content struct {
	// Secret or Certificate is the item; exactly one of them.
	Secret      string `yaml:"secret"`
	Certificate string `yaml:"certificate"`
	// Field is the field of the secret to write. It may be left out for json and
	// env, which write all, and for a secret that has only one.
	Field string `yaml:"field"`
	// Format is raw, json or env for a secret ("" is raw), and pem-bundle,
	// pem-bundle-key-first, pem-chain, pem-key or pkcs12 for a
	// certificate ("" is pem-bundle).
	Format string `yaml:"format"`
	// Template is a text/template, in place of Field and Format.
	Template string `yaml:"template"`
	// Password protects a pkcs12 file.
	Password Source `yaml:"password"`
}

// Access is who may read a file.
type Access struct {
	// Owner and Group are names or numbers; "" is the agent's own.
	Owner string `yaml:"owner"`
	Group string `yaml:"group"`
	// Mode is in octal; "" is 0600.
	Mode Mode `yaml:"mode"`
	// ACL holds POSIX ACL entries such as "u:app:r".
	ACL []string `yaml:"acl"`
	// SELinux is the label, "" the one that the directory gives.
	SELinux string `yaml:"selinux"`
}

// File is one file, or a set of files that appear together.
type File struct {
	// Path is the one file. It has a Content.
	Path    string `yaml:"path"`
	Content `yaml:",inline"`

	// Dir is the directory of a set, Entries its files by name.
	Dir     string           `yaml:"dir"`
	Entries map[string]Entry `yaml:"entries"`
	// Keep is how many previous generations of a set stay. See Generations.
	Keep int `yaml:"keep"`

	// Access is that of the file, or of those entries that do not say.
	Access `yaml:",inline"`

	// InPlace says what to do with a target that cannot be renamed onto, such
	// as a bind mount: "write" (also if empty) or "refuse".
	InPlace string `yaml:"in_place"`

	// Test is a command that must succeed before the reload: ["nginx", "-t"].
	Test   []string `yaml:"test"`
	Reload Reload   `yaml:"reload"`
	Prove  Prove    `yaml:"prove"`
}

// Target is Path or Dir.
func (f File) Target() string { return or(f.Path, f.Dir) }

// Generations is Keep, or 1.
func (f File) Generations() int { return orInt(f.Keep, 1) }

// Entry is one file of a set.
type Entry struct {
	Content `yaml:",inline"`
	Access  `yaml:",inline"`
}

// Reload makes a consumer notice. At most one of Unit, Exec, Signal, HAProxy
// and Redis is set.
type Reload struct {
	// Unit is reloaded by systemd.
	Unit string `yaml:"unit"`
	// Exec is run without a shell.
	Exec    []string      `yaml:"exec"`
	Signal  SignalReload  `yaml:"signal"`
	HAProxy HAProxyReload `yaml:"haproxy"`
	Redis   RedisReload   `yaml:"redis"`
	// Timeout ends a try. See Limit.
	Timeout Duration `yaml:"timeout"`
}

// SignalReload sends a signal to the process that a file names.
type SignalReload struct {
	PIDFile string `yaml:"pid_file"`
	// Signal is HUP (also if empty), USR1, USR2, INT, TERM or WINCH.
	Signal string `yaml:"signal"`
	// Program is the path of what the process has to run; "" is anything.
	Program string `yaml:"program"`
}

// Name is the signal without SIG, HUP if none is given.
func (s SignalReload) Name() string { return or(strings.TrimPrefix(s.Signal, "SIG"), "HUP") }

// HAProxyReload replaces a certificate through the runtime socket.
type HAProxyReload struct {
	// Socket is the path of the admin socket.
	Socket string `yaml:"socket"`
	// Cert is the name that HAProxy knows the certificate by; "" is the
	// file's path.
	Cert string `yaml:"cert"`
}

// CertName is Cert, or the path of the file.
func (h HAProxyReload) CertName(path string) string { return or(h.Cert, path) }

// RedisReload sets the file names again, which makes Redis read them.
type RedisReload struct {
	// Address is HOST:PORT, or the path of a Unix socket.
	Address string `yaml:"address"`
	// CAFile holds the certificates that the server's has to lead to; without
	// it the connection has no TLS.
	CAFile   string `yaml:"ca_file"`
	Username string `yaml:"username"`
	Password Source `yaml:"password"`
	// CertFile and KeyFile are the values of tls-cert-file and tls-key-file;
	// "" is the file's path.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Cert is CertFile, or the path of the file.
func (r RedisReload) Cert(path string) string { return or(r.CertFile, path) }

// Key is KeyFile, or the path of the file.
func (r RedisReload) Key(path string) string { return or(r.KeyFile, path) }

// IsZero reports that there is nothing to reload.
func (r Reload) IsZero() bool { return r.Consumer() == "" }

// Limit is Timeout, or 30 seconds.
func (r Reload) Limit() time.Duration { return r.Timeout.Or(30 * time.Second) }

// Consumer names who is reloaded. Reloads of one consumer are one queue entry;
// it is also the consumer's name in logs, status and metrics.
func (r Reload) Consumer() string {
	switch {
	case r.Unit != "":
		return r.Unit
	case len(r.Exec) > 0:
		return strings.Join(r.Exec, " ")
	case r.Signal.PIDFile != "":
		return "pid:" + r.Signal.PIDFile
	case r.HAProxy.Socket != "":
		return "haproxy:" + r.HAProxy.Socket
	case r.Redis.Address != "":
		return "redis:" + r.Redis.Address
	}
	return ""
}

// Prove connects to the consumer and compares the served leaf certificate.
type Prove struct {
	// TLS is the address to connect to, HOST:PORT. If empty, nothing is proven.
	TLS string `yaml:"tls"`
	// ServerName is the name to ask for, one of the certificate's; "" is the
	// host of TLS.
	ServerName string `yaml:"server_name"`
	// StartTLS is none (also if empty), postgres, smtp or imap.
	StartTLS string `yaml:"starttls"`
	// Within is how long the consumer has. See TimeLimit.
	Within Duration `yaml:"within"`
	// Connections is how many connections in a row must show the new leaf;
	// 0 is 1. Consumers with several workers need more.
	Connections int `yaml:"connections"`
}

// IsZero reports that nothing is to be proven.
func (p Prove) IsZero() bool { return p.TLS == "" }

// TimeLimit is Within, or 20 seconds.
func (p Prove) TimeLimit() time.Duration { return p.Within.Or(20 * time.Second) }

// Tries is Connections, or 1.
func (p Prove) Tries() int { return orInt(p.Connections, 1) }

// Mode is the permission bits of a file, written in octal: "0640".
type Mode string

// Or is the mode as a number, or def if there is none.
func (m Mode) Or(def uint32) uint32 {
	n, err := strconv.ParseUint(string(m), 8, 32)
	if m == "" || err != nil {
		return def
	}
	return uint32(n)
}

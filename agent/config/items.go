package config

import "time"

// Key says what key pair is made, and where.
type Key struct {
	// Type is rsa-2048, rsa-3072, rsa-4096, ecdsa-p256, ecdsa-p384,
	// ecdsa-p521 or ed25519. See KeyType.
	Type string `yaml:"type"`
	// Store is "hsm" (also if empty), or "file" for a key that is made in
	// memory and delivered with its certificate. An identity's is always hsm.
	Store string `yaml:"store"`
	// Token names the token of a `hsm:` list; "" is the first.
	Token string `yaml:"token"`
}

// KeyType is Type, or rsa-2048.
func (k Key) KeyType() string { return or(k.Type, "rsa-2048") }

// InFile reports whether the key is delivered with its certificate.
func (k Key) InFile() bool { return k.Store == "file" }

// Subject is the distinguished name that is asked for.
type Subject struct {
	CommonName         string `yaml:"common_name"`
	Organization       string `yaml:"organization"`
	OrganizationalUnit string `yaml:"organizational_unit"`
	Country            string `yaml:"country"`
	Province           string `yaml:"province"`
	Locality           string `yaml:"locality"`
	SerialNumber       string `yaml:"serial_number"`
}

// Issuance is what identities and certificates have in common: the key, who
// signs, what is asked for, and when it is made anew.
type Issuance struct {
	Key Key `yaml:"key"`
	// Issuer is the upstream that signs.
	Issuer string `yaml:"issuer"`
	// CA is the local CA of a ciphertrust issuer, by id or name.
	CA string `yaml:"ca"`
	// Profile overrides the profile of a manpki issuer.
	Profile string `yaml:"profile"`
	// Purpose is server, client or ca. An identity's is client if empty, a
	// certificate's is server.
	Purpose string  `yaml:"purpose"`
	Subject Subject `yaml:"subject"`
	// DNSNames, IPAddresses, Emails and URIs are the alternative names.
	DNSNames    []string `yaml:"dns_names"`
	IPAddresses []string `yaml:"ip_addresses"`
	Emails      []string `yaml:"emails"`
	URIs        []string `yaml:"uris"`
	// Duration is how long a life is asked for; 0 leaves it to the issuer.
	Duration Duration `yaml:"duration"`
	// RotateEvery is how old a key may become before it is replaced; 0 is
	// never, except on demand.
	RotateEvery Duration `yaml:"rotate_every"`
	// Grace is how long a replaced key and certificate stay usable. See
	// GraceTime.
	Grace Duration `yaml:"grace"`
	// RenewWindow is when renewals are preferred: "Sun 02:00-04:00".
	RenewWindow Window `yaml:"renew_window"`
	// OnToken stores the certificate beside its key in the token too.
	OnToken bool `yaml:"on_token"`
}

// GraceTime is Grace, or one hour.
func (i Issuance) GraceTime() time.Duration { return i.Grace.Or(time.Hour) }

// Identity is a key in the HSM and the client certificate for it, for mTLS to
// upstreams.
type Identity struct {
	Issuance `yaml:",inline"`
	// CredentialsFile holds the one-time credentials of the first registration
	// with a manager. Where it is named, the agent enrols by itself at start
	// and destroys the file afterwards.
	CredentialsFile string `yaml:"credentials_file"`
}

// Certificate is kept fresh for local apps.
type Certificate struct {
	Issuance `yaml:",inline"`
}

// Secret is named fields with a version, read from an upstream. Exactly one of
// Credential, Info, Application and Secret says what to read.
type Secret struct {
	Upstream string `yaml:"upstream"`
	// Credential is a credential's identifier (senhasegura).
	Credential string `yaml:"credential"`
	// Info is the identifier of a protected information (senhasegura).
	Info string `yaml:"info"`
	// Application reads the secrets of the authorized DSM application
	// (senhasegura).
	Application bool `yaml:"application"`
	// Secret is a secret's name (ciphertrust).
	Secret string `yaml:"secret"`
	// TTL is how long a value is fresh; 0 is what the upstream suggests, or
	// DefaultTTL.
	TTL Duration `yaml:"ttl"`
	// MaxStale is how long a value may be served after the last time the
	// upstream vouched for it, or DefaultMaxStale; `0s` is never longer than it
	// is fresh.
	MaxStale Duration `yaml:"max_stale"`
}

// The bounds of a secret for which nothing else says how long it is true.
const (
	DefaultTTL = 15 * time.Minute
	// DefaultMaxStale keeps apps running over a night's outage.
	DefaultMaxStale = 24 * time.Hour
)

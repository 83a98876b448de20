package config

import "time"

// The types of upstreams.
const (
	CipherTrust = "ciphertrust"
	Senhasegura = "senhasegura"
	Manager     = "manager"
	ManPKI      = "manpki"
	OAuth2      = "oauth2"
)

// served are the types that this version of the agent has a client for.
var served = []string{CipherTrust, Senhasegura, Manager}

// Upstream is a system that hands out tokens, secrets or certificates. Which
// fields it may have depends on its type.
type Upstream struct {
	// Type is one of the types above.
	Type string `yaml:"type"`
	// URL is scheme and host only; the client adds its API's path. Required,
	// but for an oauth2 upstream that is not used through the proxy.
	URL string `yaml:"url"`
	// CAFile holds the PEM certificates that its server certificate must lead
	// to; "" is the system's.
	CAFile string `yaml:"ca_file"`
	// Identity is the client certificate to present; "" is none, or, for a
	// manager, the identity that it issues.
	Identity string `yaml:"identity"`
	// Timeout ends one call. See CallTimeout.
	Timeout Duration `yaml:"timeout"`
	Auth    Auth     `yaml:"auth"`

	// Domain is the CipherTrust domain to log in to; "" is the root domain.
	Domain string `yaml:"domain"`

	// AccountID is the account that certificates are issued for (manager).
	AccountID int64 `yaml:"account_id"`
	// RegisterMethod is the URL path of the first registration (manager), ""
	// the client's default.
	RegisterMethod string `yaml:"register_method"`

	// Profile is the certificate profile asked for (manpki).
	Profile string `yaml:"profile"`

	// TokenURL is the whole URL of the token endpoint (oauth2).
	TokenURL string `yaml:"token_url"`
	// RevocationURL is the whole URL of the RFC 7009 endpoint (oauth2); "" is
	// none, and a logout forgets the refresh token without revoking it.
	RevocationURL string `yaml:"revocation_url"`

	// Timezone is what the server's times without a zone are in
	// (senhasegura); "" is UTC.
	Timezone string `yaml:"timezone"`
	// DecryptionKey is the RSA key, in PEM, for sensitive values that the
	// server encrypts (senhasegura). With it, a value in clear is refused.
	DecryptionKey Source `yaml:"decryption_key"`
	// DecryptionHash is the OAEP hash of those: sha1 (also if empty) or sha256.
	DecryptionHash string `yaml:"decryption_hash"`
}

// CallTimeout is Timeout, or 15 seconds.
func (u Upstream) CallTimeout() time.Duration { return u.Timeout.Or(15 * time.Second) }

// The grants of Auth.
const (
	GrantClientCredentials = "client_credentials" // senhasegura, oauth2
	GrantOAuth1            = "oauth1"             // senhasegura
	GrantURLToken          = "url_token"          // senhasegura, legacy
	GrantPassword          = "password"           // ciphertrust, oauth2
	GrantRefreshToken      = "refresh_token"      // ciphertrust, oauth2
	GrantUserCertificate   = "user_certificate"   // ciphertrust
	GrantClientCredential  = "client_credential"  // ciphertrust
)

// Auth is how the agent logs in to an upstream. Which fields it may have
// depends on the grant.
type Auth struct {
	// Grant is one of the grants above; a manpki upstream has none.
	Grant string `yaml:"grant"`
	// Method is how an oauth2 client proves who it is: client_secret_basic
	// (also if empty), client_secret_post, private_key_jwt or tls_client_auth;
	// the last two by the upstream's identity. senhasegura knows the first two.
	Method string `yaml:"method"`

	ClientID     string   `yaml:"client_id"`
	ClientSecret Source   `yaml:"client_secret"`
	Scopes       []string `yaml:"scopes"`
	Audience     string   `yaml:"audience"`

	Username string `yaml:"username"`
	Password Source `yaml:"password"`
	// Connection and AuthDomain say where the user is kept (ciphertrust); ""
	// is the server's own directory, and the root domain.
	Connection string `yaml:"connection"`
	AuthDomain string `yaml:"auth_domain"`

	RefreshToken Source `yaml:"refresh_token"`
	// RefreshTokenLifetime and RefreshTokenIdle are asked for with every
	// refresh token (ciphertrust). See RefreshLifetime and RefreshIdle.
	RefreshTokenLifetime Duration `yaml:"refresh_token_lifetime"`
	RefreshTokenIdle     Duration `yaml:"refresh_token_idle"`

	ConsumerKey    string `yaml:"consumer_key"`
	ConsumerSecret Source `yaml:"consumer_secret"`
	// Token is the token key of oauth1, which may be written as it is, or the
	// token of url_token, which is a secret.
	Token       TextOrSource `yaml:"token"`
	TokenSecret Source       `yaml:"token_secret"`
}

// RefreshLifetime is RefreshTokenLifetime, or 30 days.
func (a Auth) RefreshLifetime() time.Duration { return a.RefreshTokenLifetime.Or(30 * 24 * time.Hour) }

// RefreshIdle is RefreshTokenIdle, or one hour.
func (a Auth) RefreshIdle() time.Duration { return a.RefreshTokenIdle.Or(time.Hour) }

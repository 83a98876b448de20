package ciphertrust

import (
	"context"
	"iter"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A RegisteredClient is one that logs in by its certificate, with the grant
// client_credential.
type RegisteredClient struct {
	Raw
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	State    string    `json:"state"`
	CA       string    `json:"ca_id"`
	Cert     string    `json:"cert"` // PEM
	Subject  string    `json:"subject"`
	SHA256   string    `json:"sha256Fingerprint"`
	NotAfter time.Time `json:"notAfter"`
	Groups   []string  `json:"groups"`
}

// A RegistrationToken lets clients register.
type RegistrationToken struct {
	Raw
	ID                string    `json:"id"`
	Token             string    `json:"token"`
	ValidUntil        time.Time `json:"valid_until"`
	ClientsRegistered int       `json:"clients_registered"`
}

// RegistrationTokenRequest asks for a token by which clients can register.
type RegistrationTokenRequest struct {
	CA           string `json:"ca_id,omitempty"`
	CertDuration int    `json:"cert_duration,omitempty"` // days
	Lifetime     string `json:"lifetime,omitempty"`      // 10m, 10h, 30d
	MaxClients   int    `json:"max_clients,omitempty"`
	NamePrefix   string `json:"name_prefix,omitempty"`
}

// CreateRegistrationToken makes a token by which clients can register.
func (c *Client) CreateRegistrationToken(ctx context.Context, r RegistrationTokenRequest) (*RegistrationToken, error) {
	return one[RegistrationToken](ctx, c, post("create registration token", "", "/client-management/regtokens/", r))
}

// RegisterClient registers a client with a CSR in PEM. It needs no API token:
// the registration token is what lets it in.
func (c *Client) RegisterClient(ctx context.Context, token secret.Value, name, csr string) (*RegisteredClient, error) {
	k := post("register client", name, "/client-management/clients", struct {
		Token string `json:"reg_token"`
		Name  string `json:"name,omitempty"`
		CSR   string `json:"csr"`
	}{string(token.Reveal()), name, csr})
	k.open = true
	return one[RegisteredClient](ctx, c, k)
}

// ClientFilters are the filters of Clients.
var ClientFilters = []string{"ca_id", "client_id", "name", "state", "sha256Fingerprint", "client_mgmt_profile_id", "client_metadata"}

// Clients lists registered clients.
func (c *Client) Clients(ctx context.Context, f Filter) iter.Seq2[*RegisteredClient, error] {
	return list[RegisteredClient](ctx, c, read("list clients", "", "/client-management/clients"), ClientFilters, f)
}

// DeleteClient deletes a registered client.
func (c *Client) DeleteClient(ctx context.Context, id string) error {
	return c.on(ctx, remove("delete client", id, "/client-management/clients/"+segment(id)), nil, id)
}

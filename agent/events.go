package agent

import "time"

// The events that apps and operators can follow (`GET /v1/events`).
const (
	eventSecretChanged      = "secret.changed"
	eventSecretWithdrawn    = "secret.withdrawn"
	eventCertificateIssued  = "certificate.issued"
	eventCertificateRenewed = "certificate.renewed"
	eventKeyRotated         = "key.rotated"
	eventRenewalFailed      = "renewal.failed"
	eventFetchFailed        = "fetch.failed"
	eventTokenIssued        = "token.issued"
	eventFileRepaired       = "file.repaired"
)

// An event is something that happened to an item. It holds no value.
type event struct {
	Type       string
	Name       string // of the item
	Version    string // of a secret
	Generation int    // of a key
	Was        int    // the generation before it
	NotAfter   time.Time
	Error      string
	At         time.Time
}

// A refusal is an answer to an operator or app that is no upstream's and no
// HSM's doing. Its code is one of the socket API.
type refusal struct {
	code string
	text string
}

func (r *refusal) Error() string { return r.text }

// Code is the `code` of the socket API.
func (r *refusal) Code() string { return r.code }

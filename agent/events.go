package agent

import (
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/upstream"
)

// The events that apps and operators can follow (`GET /v1/events`), besides
// those that the socket itself raises when a published item changes.
const (
	eventCertificateIssued  = "certificate.issued"
	eventCertificateRenewed = "certificate.renewed"
	// eventCertificateExpiring says that the end of a certificate is near: by
	// our own reckoning, or because the Manager has noticed.
	eventCertificateExpiring = "certificate.expiring"
	// eventCertificateFallback says that a certificate which had worked is
	// refused, and that an older one is in use again.
	eventCertificateFallback = "certificate.fallback"
	eventKeyRotated          = "key.rotated"
	eventRenewalFailed       = "renewal.failed"
	eventFetchFailed         = "fetch.failed"
	eventTokenIssued         = "token.issued"
	eventFileRepaired        = "file.repaired"
	eventReloadFailed        = "reload.failed"
	eventProofFailed         = "proof.failed"
	// These two are for the audit; to those who watch the socket tells them.
	eventSecretChanged   = "secret.changed"
	eventSecretWithdrawn = "secret.withdrawn"
)

// An event is something that happened to an item. It holds no value.
type event struct {
	Type       string
	Name       string // of the item
	Generation int    // of a key
	Was        int    // the generation before it
	Serial     string // of a certificate
	NotAfter   time.Time
	Next       time.Time // when the agent does something about it
	Tries      int       // that failed, in a row
	Source     string    // who says so
	Error      string
	Code       upstream.Code // of the error, if it is an upstream's
	At         time.Time
}

// The sources of a warning.
const (
	sourceAgent   = "agent"
	sourceManager = "manager"
)

// wire is the event as the socket sends it, to those who may see the item.
func (e event) wire() socket.Event {
	w := socket.Event{Type: e.Type, Name: e.Name}
	add := func(name string, value any) { w.Attrs = append(w.Attrs, socket.Attr{Name: name, Value: value}) }
	switch e.Type {
	case eventFetchFailed, eventSecretChanged, eventSecretWithdrawn:
		w.Kind = access.Secret
	case eventTokenIssued:
		w.Kind = access.Token
	case eventFileRepaired, eventReloadFailed, eventProofFailed:
		w.Kind = access.Admin
	default:
		w.Kind = access.Certificate
	}
	if e.Generation != 0 {
		add("generation", e.Generation)
	}
	if e.Was != 0 {
		add("was", e.Was)
	}
	if !e.NotAfter.IsZero() {
		add("until", e.NotAfter)
	}
	if e.Serial != "" {
		add("serial", e.Serial)
	}
	if !e.Next.IsZero() {
		add("next", e.Next)
	}
	if e.Tries != 0 {
		add("tries", e.Tries)
	}
	if e.Source != "" {
		add("source", e.Source)
	}
	if e.Error != "" {
		add("error", e.Error)
	}
	return w
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

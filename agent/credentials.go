package agent

import (
	"context"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/consumers"
	unitcreds "github.com/signet-agent/signet/sinks/credentials"
	"github.com/signet-agent/signet/sinks/socket"
)

// makeCredentials makes what answers LoadCredential= of systemd units. Where it
// will not be asked it takes nothing of what is published.
func (a *Agent) makeCredentials(policy *access.Policy) (err error) {
	c := unitcreds.Config{
		Backend: backend{a}, Policy: policy, Audit: a.audit, Log: a.log,
		Secrets:      slices.Collect(maps.Keys(a.cfg.Secrets)),
		Certificates: append(slices.Collect(maps.Keys(a.cfg.Certificates)), slices.Collect(maps.Keys(a.cfg.Identities))...),
		Opened:       a.opened, Wait: a.cfg.CredentialsSocket.WaitLimit(),
		Hold: a.opt.Notifier.Hold, HandOver: a.opt.HandOver, Held: a.opt.Held, Store: a.store,
	}
	if a.cfg.CredentialsSocket.Path == "" && a.opt.Credentials == nil && len(a.opt.Held) == 0 {
		c.Secrets, c.Certificates, c.Store = nil, nil, nil
	}
	if a.opt.Refreshes != nil {
		c.Refresh = a.refreshUnit
	}
	a.credentials, err = unitcreds.New(c)
	return err
}

// refreshUnit has a unit reloaded whose credentials have changed, if it has them
// asked for again then.
func (a *Agent) refreshUnit(ctx context.Context, unit string) (bool, error) {
	if refreshes, err := a.refreshes(ctx, unit); !refreshes || err != nil {
		return false, err
	}
	changes := []consumers.Change{{Target: credentialsOf(unit)}}
	if err := a.consumers.Writing(changes); err != nil {
		return false, err
	}
	a.consumers.Written(changes)
	return true, nil
}

// refreshes asks Options.Refreshes, but not for ever: units are asked about one
// after the other.
func (a *Agent) refreshes(ctx context.Context, unit string) (bool, error) {
	ctx, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	return a.opt.Refreshes(ctx, unit)
}

// credentialsOf is what the queue of reloads calls the credentials of a unit.
func credentialsOf(unit string) string { return "credentials of " + unit }

// listenCredentials makes the credentials socket, or takes the one that systemd
// made; nil is none. Only root and the agent can connect to it.
func (a *Agent) listenCredentials() (net.Listener, error) {
	switch {
	case a.opt.Credentials != nil:
		return a.opt.Credentials, nil
	case a.cfg.CredentialsSocket.Path == "":
		return nil, nil
	}
	return socket.Listen(a.cfg.CredentialsSocket.Path, 0o600)
}

// credentialsPart serves the credentials socket.
func (a *Agent) credentialsPart(ln net.Listener) part {
	return part{"credentials", func(ctx context.Context) error { return a.credentials.Serve(ctx, ln) }}
}

// uriOf is the RFC 7512 URI of a key in a token, as the OpenSSL engine or
// provider takes it; "" while the token is not open.
func (k *tokenKeys) uriOf(id string) string {
	st := k.of(id).Status()
	return keyURI(st.Label, st.Serial, id)
}

func keyURI(label, serial, id string) string {
	if label == "" && serial == "" {
		return ""
	}
	uri := "pkcs11:"
	if label != "" {
		uri += "token=" + url.QueryEscape(label) + ";"
	}
	if serial != "" {
		uri += "serial=" + url.QueryEscape(serial) + ";"
	}
	uri = strings.ReplaceAll(uri, "+", "%20")
	uri += "id="
	for i := 0; i+1 < len(id); i += 2 { // hexadecimal
		uri += "%" + id[i:i+2]
	}
	return uri + ";type=private"
}

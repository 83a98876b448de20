package agent

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net"
	"net/url"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// kindCertificate is what the records of rotators are kept under.
const kindCertificate = "certificate"

func (a *Agent) makeRotators() error {
	for name, c := range a.cfg.Identities {
		r, err := a.newRotator(name, c.Issuance, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		id := a.identities[name]
		r.publish = func(ctx context.Context, v version) error {
			changed, err := id.publish(r.keys, v)
			if err != nil {
				return err
			}
			if changed {
				for _, s := range id.users {
					a.resume(s, true)
				}
			}
			return a.publishCertificate(ctx, r, c.Issuance, v)
		}
		id.doubt, id.locked = r.doubt, a.notOpen
		if m := a.services[c.Issuer].manager; m != nil {
			a.expiries[name] = &expiryWatch{
				name: name, share: share(a.host, name), ready: id.enrolled, events: m.Events, shelf: a.store, log: a.log, emit: a.emit,
			}
		}
		r.spec.OneTime = a.cfg.Upstreams[c.Issuer].Type == config.Manager
		if c.CredentialsFile != "" {
			r.creds = func() (credentials, bool, error) { return readCredentials(c.CredentialsFile) }
			r.burn = func() error { return shred(c.CredentialsFile) }
		}
	}
	for name, c := range a.cfg.Certificates {
		r, err := a.newRotator(name, c.Issuance, usageOf(c.Purpose))
		if err != nil {
			return err
		}
		r.publish = func(ctx context.Context, v version) error { return a.publishCertificate(ctx, r, c.Issuance, v) }
	}
	return nil
}

// usageOf is what a certificate of that purpose has to be good for.
func usageOf(purpose string) x509.ExtKeyUsage {
	switch purpose {
	case "client":
		return x509.ExtKeyUsageClientAuth
	case "ca":
		return x509.ExtKeyUsageAny
	}
	return x509.ExtKeyUsageServerAuth
}

func (a *Agent) newRotator(name string, c config.Issuance, usage x509.ExtKeyUsage) (*rotator, error) {
	svc := a.services[c.Issuer]
	if svc == nil || svc.issuer() == nil {
		return nil, fmt.Errorf("%q: issuer %q issues no certificates", name, c.Issuer)
	}
	keys, err := a.keyring(name, c.Key)
	if err != nil {
		return nil, err
	}
	r := &rotator{
		name: name, host: a.host, issuer: svc.issuer(), turns: svc.turns, keys: keys, log: a.log, emit: a.emit,
		spec: specOf(c, usage), asks: make(chan ask), wake: make(chan struct{}, 1), doubts: make(chan struct{}, 1), clock: wall,
	}
	switch svc.cfg.Type {
	case config.CipherTrust:
		r.spec.Again = true
	case config.Manager:
		// The Manager's CA, which its administrator hands over, signs both its
		// own certificate and those of its clients.
		r.spec.Roots, r.spec.AsIs, r.spec.Account = svc.roots, true, svc.cfg.AccountID
	}
	copied := "" // owned by the rotator: what the last copy of the state was made for
	r.save = func(rec record) error {
		blob, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		if err := a.store.SaveRecord(kindCertificate, name, blob); err != nil {
			return err
		}
		if now := fmt.Sprint(serialOf(rec.Current.Chain), len(rec.Old)); !rec.Next.exists() && rec.Current.exists() && now != copied {
			// What cannot be had again must not hang on one file.
			if err := a.store.Copy(); err != nil {
				a.log.Warn("no copy of the state made", "err", err)
				return nil
			}
			copied = now
		}
		return nil
	}
	blob, err := a.store.Record(kindCertificate, name)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: read state: %w", name, err)
	}
	if blob != nil {
		if err := json.Unmarshal(blob, &r.rec); err != nil {
			return nil, fmt.Errorf("certificate %q: state is not as this version writes it: %w", name, err)
		}
	}
	a.rotators[name] = r
	if id := a.identities[name]; id == nil || id != svc.identity {
		svc.rotators = append(svc.rotators, r)
	}
	return r, nil
}

// keyring is where a certificate's keys are.
func (a *Agent) keyring(name string, k config.Key) (keyring, error) {
	if k.InFile() {
		return &fileKeys{typ: hsm.KeyType(k.KeyType()), store: a.store, sealer: func() *sealer { return a.refresher.sealer }}, nil
	}
	h, ok := a.cfg.Token(k.Token)
	if !ok {
		return nil, fmt.Errorf("%q: key.token: no token %q is configured", name, k.Token)
	}
	return &tokenKeys{a.tokens[h.TokenName()], hsm.KeyType(k.KeyType()), h.CallTimeout(), a.tokens}, nil
}

// specOf is the configuration as a rotator wants it.
func specOf(c config.Issuance, usage x509.ExtKeyUsage) certificateSpec {
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	s := certificateSpec{
		Subject: pkix.Name{
			CommonName: c.Subject.CommonName, SerialNumber: c.Subject.SerialNumber,
			Organization: one(c.Subject.Organization), OrganizationalUnit: one(c.Subject.OrganizationalUnit),
			Country: one(c.Subject.Country), Province: one(c.Subject.Province), Locality: one(c.Subject.Locality),
		},
		Names: names{DNS: c.DNSNames, Emails: c.Emails}, Usage: usage, CA: c.Purpose == "ca",
		RotateEvery: c.RotateEvery.Or(0), Grace: c.GraceTime(), Window: c.RenewWindow,
	}
	s.Options.CA, s.Options.Profile, s.Options.Duration = c.CA, c.Profile, c.Duration.Or(0)
	switch {
	case c.Purpose != "":
		s.Options.Purpose = c.Purpose
	case usage == x509.ExtKeyUsageClientAuth:
		s.Options.Purpose = "client"
	default:
		s.Options.Purpose = "server"
	}
	for _, ip := range c.IPAddresses {
		s.Names.IPs = append(s.Names.IPs, net.ParseIP(ip)) // the configuration was checked
	}
	for _, uri := range c.URIs {
		if u, err := url.Parse(uri); err == nil { // the same
			s.Names.URIs = append(s.Names.URIs, u)
		}
	}
	return s
}

// publishCertificate hands a version to the sinks, with its key where that is
// delivered too.
func (a *Agent) publishCertificate(ctx context.Context, r *rotator, c config.Issuance, v version) error {
	cert, err := r.delivered(v)
	if err != nil {
		return err
	}
	a.socket.PublishCertificate(cert)
	a.credentials.PublishCertificate(cert)
	_ = a.files.PublishCertificate(cert) // it tells of each file that it cannot write, and tries again
	return a.storeOnToken(ctx, c, r, v)
}

// delivered is a version as the sinks take it.
func (r *rotator) delivered(v version) (*sinks.Certificate, error) {
	cert := &sinks.Certificate{
		Name: r.name, Generation: v.Generation, Chain: v.Chain, Serial: serialOf(v.Chain),
		NotBefore: v.NotBefore, NotAfter: v.NotAfter, UsableFrom: r.usableFrom(v),
	}
	if keys, ok := r.keys.(*fileKeys); ok {
		key, err := keys.pem(v.KeyID)
		if err != nil {
			return nil, err
		}
		cert.Key = key
	}
	if keys, ok := r.keys.(*tokenKeys); ok {
		cert.KeyURI = keys.uriOf(v.KeyID)
	}
	return cert, nil
}

// usableFrom is the first generation of the key of which no certificate is revoked,
// as far as the record goes back; 0 is any.
func (r *rotator) usableFrom(v version) (generation int) {
	for _, had := range append([]version{v, r.rec.Current}, r.rec.Old...) {
		if had.Chain == nil || had.Generation > v.Generation {
			continue // it came to nothing
		}
		// At a Manager a new key revokes the one before it.
		if had.Compromised || r.spec.AsIs && had.Kind != upstream.Renew {
			generation = max(generation, had.Generation)
		}
	}
	return generation
}

// serialOf is the serial number of the leaf, or "": whole bytes in lower-case
// hex, as others show it.
func serialOf(chain [][]byte) string {
	if len(chain) == 0 {
		return ""
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return ""
	}
	s := leaf.SerialNumber.Text(16)
	if len(s)%2 != 0 {
		s = "0" + s
	}
	return s
}

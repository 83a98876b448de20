package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A Certificate is one certificate as the agent gave it: one of those it keeps
// for apps, or that of an identity.
type Certificate struct {
	Name       string `json:"name"`
	Version    string `json:"version,omitempty"` // opaque; changes whenever the certificate does
	Generation int    `json:"generation"`        // of its key
	// Certificate is the leaf and Chain what is above it, both in PEM.
	Certificate string `json:"certificate"`
	Chain       string `json:"chain"`
	// Key is the private key in PEM for a certificate whose key is kept in files
	// and whose key the caller may have; empty otherwise.
	Key string `json:"key,omitempty"`
	// KeyURI names a key in the HSM by RFC 7512; empty for one in files.
	KeyURI    string    `json:"key_uri,omitempty"`
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after"`
}

// Certificate asks the agent for a certificate.
func (c *Client) Certificate(ctx context.Context, name string) (*Certificate, error) {
	cert := new(Certificate)
	if err := c.get(ctx, whatCertificate(name), certificatePath(name), cert); err != nil {
		return nil, err
	}
	return cert, nil
}

// pollCertificate asks for a certificate whose version is not since, for at most
// wait. It may be the same after all.
func (c *Client) pollCertificate(ctx context.Context, name, since string, wait time.Duration) (*Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+pollMargin)
	defer cancel()
	cert := new(Certificate)
	err := c.read(ctx, call{
		method: http.MethodGet, path: certificatePath(name), what: whatCertificate(name),
		query: url.Values{"wait": {wait.String()}, "version": {since}},
	}, cert)
	if err != nil {
		return nil, err
	}
	return cert, nil
}

// Format keeps the key out of everything that prints a Certificate.
func (cert Certificate) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "certificate(%q, version %q)", cert.Name, cert.Version)
}

// LogValue keeps the key out of structured logs.
func (cert Certificate) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(cert)) }

// Renew has a certificate, or the one of an identity, issued anew for the same
// key, and returns when that is done.
func (c *Client) Renew(ctx context.Context, name string) error {
	_, err := c.TryRenew(ctx, name)
	return err
}

// TryRenew is [Client.Renew], and says whether there is another certificate now:
// an issuer may see no need for one yet.
func (c *Client) TryRenew(ctx context.Context, name string) (changed bool, err error) {
	var answer struct {
		Result string `json:"result"`
	}
	err = c.read(ctx, call{
		method: http.MethodPost, path: certificatePath(name) + "/renew", what: "renew " + strconv.Quote(name), body: struct{}{},
	}, &answer)
	return err == nil && answer.Result != "unchanged", err
}

// Rotate replaces the key as well, and returns when that is done. A compromised
// one is revoked and not used through any time of grace.
func (c *Client) Rotate(ctx context.Context, name string, compromised bool) error {
	return c.read(ctx, call{
		method: http.MethodPost, path: certificatePath(name) + "/rotate", what: "rotate " + strconv.Quote(name),
		body: map[string]bool{"compromised": compromised},
	}, nil)
}

// tls makes a certificate ready for use. If its key is in the HSM, sign makes
// the signer for it.
func (cert *Certificate) tls(sign func(crypto.PublicKey) crypto.Signer) (*tls.Certificate, error) {
	out := &tls.Certificate{Certificate: derOf(cert.Certificate)}
	if len(out.Certificate) == 0 {
		return nil, fmt.Errorf("certificate %q: no PEM in the agent's answer", cert.Name)
	}
	// A chain may begin with the leaf.
	for _, der := range derOf(cert.Chain) {
		if string(der) != string(out.Certificate[0]) {
			out.Certificate = append(out.Certificate, der)
		}
	}
	leaf, err := x509.ParseCertificate(out.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", cert.Name, err)
	}
	out.Leaf = leaf
	if cert.Key == "" {
		out.PrivateKey = sign(leaf.PublicKey)
		return out, nil
	}
	if out.PrivateKey, err = privateKey(cert.Key, leaf.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate %q: %w", cert.Name, err)
	}
	return out, nil
}

// privateKey parses a private key and holds it against the public one. Its
// errors say nothing of the key.
func privateKey(text string, pub crypto.PublicKey) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("private key: not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("private key: not PKCS #8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("private key: cannot sign")
	}
	if p, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(pub) {
		return nil, errors.New("private key: not that of the certificate")
	}
	return signer, nil
}

// derOf is what the CERTIFICATE blocks in text hold.
func derOf(text string) [][]byte {
	var out [][]byte
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
}

// certificatePath is the path of a certificate in the socket's interface.
func certificatePath(name string) string { return "/v1/certificates/" + url.PathEscape(name) }

// whatCertificate names a certificate in errors.
func whatCertificate(name string) string { return "certificate " + strconv.Quote(name) }

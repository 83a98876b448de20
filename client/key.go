package client

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// A Key is a key pair in the HSM as far as others may see it.
type Key struct {
	Name       string         `json:"name"`
	Generation int            `json:"generation"`
	Algorithm  string         `json:"algorithm"`
	PublicKey  string         `json:"public_key"`           // SubjectPublicKeyInfo in PEM
	Attributes map[string]any `json:"attributes,omitempty"` // as the PKCS#11 module states them
}

// Public parses the public key.
func (k *Key) Public() (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(k.PublicKey))
	if block == nil {
		return nil, fmt.Errorf("key %q: public key: not PEM", k.Name)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key %q: public key: %w", k.Name, err)
	}
	return pub, nil
}

// A SignRequest says what to sign and how.
type SignRequest struct {
	Hash    string `json:"hash,omitempty"`    // of Digest: "SHA-256", "SHA-384", "SHA-512"
	Padding string `json:"padding,omitempty"` // RSA only: "pkcs1v15" or "pss"
	Digest  []byte `json:"digest,omitempty"`
	Message []byte `json:"message,omitempty"` // for Ed25519, in place of all else
	// Generation is that of the key to use; 0 is the current one. One that was
	// replaced signs on through its time of grace.
	Generation int `json:"generation,omitempty"`
}

// A Signature is what a key made of a SignRequest: for ECDSA ASN.1 DER, for
// Ed25519 64 bytes.
type Signature struct {
	Signature  []byte `json:"signature"`
	Generation int    `json:"generation"` // of the key that signed
}

// Keys lists the keys that the caller may use.
func (c *Client) Keys(ctx context.Context) ([]*Key, error) {
	var list struct {
		Keys []*Key `json:"keys"`
	}
	err := c.get(ctx, "keys", "/v1/keys", &list)
	return list.Keys, err
}

// Key describes a key.
func (c *Client) Key(ctx context.Context, name string) (*Key, error) {
	k := new(Key)
	if err := c.get(ctx, whatKey(name), keyPath(name), k); err != nil {
		return nil, err
	}
	return k, nil
}

// Sign has a key sign.
func (c *Client) Sign(ctx context.Context, name string, r SignRequest) (*Signature, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	s := new(Signature)
	err := c.read(ctx, call{method: http.MethodPost, path: keyPath(name) + "/sign", what: whatKey(name), body: r, again: true}, s)
	if err != nil {
		return nil, err
	}
	if len(s.Signature) == 0 {
		return nil, &Error{What: whatKey(name), Code: Unavailable, Err: errNotUnderstood}
	}
	return s, nil
}

// ErrRotated is what a Signer answers whose key has been replaced by a newer
// generation and signs no more: get a new Signer, and whatever belongs to it,
// such as the certificate.
var ErrRotated = errors.New("the key was rotated")

// Signer returns a signer whose private key stays in the HSM. It is of the
// generation that the key has now. After a rotation it signs on with that one for
// as long as the agent lets it.
func (c *Client) Signer(ctx context.Context, key string) (crypto.Signer, error) {
	k, err := c.Key(ctx, key)
	if err != nil {
		return nil, err
	}
	pub, err := k.Public()
	if err != nil {
		return nil, err
	}
	return &signer{c: c, key: key, generation: k.Generation, pub: pub}, nil
}

// A signer is one generation of a key.
type signer struct {
	c          *Client
	key        string
	generation int
	pub        crypto.PublicKey
}

// Public is the public key.
func (s *signer) Public() crypto.PublicKey { return s.pub }

// Sign signs a digest, or for Ed25519 a message. The randomness is the HSM's.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	r, err := signRequest(s.pub, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("key %q: sign: %w", s.key, err)
	}
	r.Generation = s.generation
	sig, err := s.c.Sign(context.Background(), s.key, r)
	if err != nil {
		return nil, err
	}
	if sig.Generation != s.generation {
		return nil, fmt.Errorf("key %q: sign: %w: generation %d is now %d", s.key, ErrRotated, s.generation, sig.Generation)
	}
	return sig.Signature, nil
}

// signRequest puts what a crypto.Signer is asked into the agent's words.
func signRequest(pub crypto.PublicKey, digest []byte, opts crypto.SignerOpts) (SignRequest, error) {
	hash := opts.HashFunc()
	switch pub.(type) {
	case ed25519.PublicKey:
		if o, ok := opts.(*ed25519.Options); hash != 0 || ok && o.Context != "" {
			return SignRequest{}, errors.New("only plain Ed25519 is possible, without a hash or context")
		}
		return SignRequest{Message: digest}, nil
	case *rsa.PublicKey:
		r := SignRequest{Hash: hash.String(), Digest: digest, Padding: "pkcs1v15"}
		if o, ok := opts.(*rsa.PSSOptions); ok {
			r.Padding = "pss"
			if n := o.SaltLength; n != rsa.PSSSaltLengthEqualsHash && n != rsa.PSSSaltLengthAuto && n != hash.Size() {
				return SignRequest{}, fmt.Errorf("a PSS salt of %d bytes is not possible, only one as long as the hash", n)
			}
		}
		return r, checkDigest(hash, digest)
	}
	return SignRequest{Hash: hash.String(), Digest: digest}, checkDigest(hash, digest)
}

// checkDigest refuses what cannot be a digest of hash.
func checkDigest(hash crypto.Hash, digest []byte) error {
	if hash == 0 || hash.Size() != len(digest) {
		return fmt.Errorf("%d bytes are not a digest of %v", len(digest), hash)
	}
	return nil
}

// keyPath is the path of a key in the socket's interface.
func keyPath(name string) string { return "/v1/keys/" + url.PathEscape(name) }

// whatKey names a key in errors.
func whatKey(name string) string { return "key " + strconv.Quote(name) }

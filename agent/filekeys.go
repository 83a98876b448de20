package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/secret"
)

// kindFileKey is what keys with `store: file` are kept under, by name and
// generation: "web#3".
const kindFileKey = "file-key"

// A drawer keeps records durably by kind and name; the store is one.
type drawer interface {
	Record(kind, name string) ([]byte, error)
	Records(kind string) (map[string][]byte, error)
	SaveRecord(kind, name string, value []byte) error
	DeleteRecord(kind, name string) error
}

// fileKeys is the keyring of keys that are delivered with their certificates.
// They are made in memory and kept sealed; in clear they are only where they
// are delivered to.
type fileKeys struct {
	typ    hsm.KeyType
	store  drawer
	sealer func() *sealer // there once the data key is unwrapped, before any rotator runs
}

// A fileKey is one key as it is kept.
type fileKey struct {
	Name       string
	Generation int
	Made       time.Time `json:",omitzero"`
	Sealed     []byte    `json:",omitempty"` // PKCS#8; nil while only reserved
}

func (k *fileKeys) read(id string) (fileKey, error) {
	blob, err := k.store.Record(kindFileKey, id)
	if err != nil {
		return fileKey{}, err
	}
	if blob == nil {
		return fileKey{}, fmt.Errorf("key %s: there is no such key", id)
	}
	var f fileKey
	if err := json.Unmarshal(blob, &f); err != nil {
		return fileKey{}, fmt.Errorf("key %s: state is not as this version writes it", id)
	}
	return f, nil
}

func (k *fileKeys) write(id string, f fileKey) error {
	blob, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return k.store.SaveRecord(kindFileKey, id, blob)
}

// of returns the keys of a name by ID.
func (k *fileKeys) of(name string) (map[string]fileKey, error) {
	blobs, err := k.store.Records(kindFileKey)
	if err != nil {
		return nil, err
	}
	found := map[string]fileKey{}
	for id, blob := range blobs {
		var f fileKey
		if err := json.Unmarshal(blob, &f); err != nil {
			return nil, fmt.Errorf("key %s: state is not as this version writes it", id)
		}
		if f.Name == name {
			found[id] = f
		}
	}
	return found, nil
}

// Reserve is for keyring. The current key is always there, so that generations
// go up.
func (k *fileKeys) Reserve(name string) (string, int, error) {
	found, err := k.of(name)
	if err != nil {
		return "", 0, err
	}
	f := fileKey{Name: name, Generation: 1}
	for other := range maps.Values(found) {
		f.Generation = max(f.Generation, other.Generation+1)
	}
	id := fmt.Sprintf("%s#%d", name, f.Generation)
	return id, f.Generation, k.write(id, f)
}

// Ensure is for keyring.
func (k *fileKeys) Ensure(_ context.Context, id string) (crypto.Signer, error) {
	f, err := k.read(id)
	if err != nil {
		return nil, err
	}
	if f.Sealed != nil {
		return k.open(id, f)
	}
	key, err := generate(k.typ)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", id, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", id, err)
	}
	defer clear(der)
	f.Sealed, f.Made = k.sealer().seal(kindFileKey+" "+id, der), wall()
	return key, k.write(id, f)
}

// generate makes a key in memory.
func generate(typ hsm.KeyType) (crypto.Signer, error) {
	switch typ {
	case hsm.RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case hsm.RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case hsm.RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case hsm.ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case hsm.ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case hsm.ECDSAP521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case hsm.Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("type %q is not known", typ)
}

// open unseals a key.
func (k *fileKeys) open(id string, f fileKey) (crypto.Signer, error) {
	if f.Sealed == nil {
		return nil, fmt.Errorf("key %s: not made yet", id)
	}
	der, err := k.sealer().open(kindFileKey+" "+id, f.Sealed)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", id, errTampered)
	}
	return key.(crypto.Signer), nil // as all are that can be marshaled above
}

// pem is the key as it is delivered: PKCS#8 in PEM, unsealed at each use.
func (k *fileKeys) pem(id string) (secret.Value, error) {
	f, err := k.read(id)
	if err != nil {
		return secret.Value{}, err
	}
	if _, err := k.open(id, f); err != nil {
		return secret.Value{}, err
	}
	s := k.sealer()
	return secret.Lazy(func() []byte {
		der, err := s.open(kindFileKey+" "+id, f.Sealed)
		if err != nil {
			return nil // memory was changed under us; an empty value is never delivered
		}
		defer clear(der)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}), nil
}

// Signer is for keyring.
func (k *fileKeys) Signer(id string, pub crypto.PublicKey) crypto.Signer {
	return &fileSigner{k, id, pub}
}

// A fileSigner unseals its key at each use.
type fileSigner struct {
	keys *fileKeys
	id   string
	pub  crypto.PublicKey
}

func (s *fileSigner) Public() crypto.PublicKey { return s.pub }

func (s *fileSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	f, err := s.keys.read(s.id)
	if err != nil {
		return nil, err
	}
	key, err := s.keys.open(s.id, f)
	if err != nil {
		return nil, err
	}
	return key.Sign(rand, digest, opts)
}

// Replaced is for keyring. A file has no states.
func (k *fileKeys) Replaced(string) error { return nil }

// Retire is for keyring.
func (k *fileKeys) Retire(_ context.Context, id string) error {
	return k.store.DeleteRecord(kindFileKey, id)
}

// Forget is for keyring.
func (k *fileKeys) Forget(_ context.Context, name string, keep []string) error {
	found, err := k.of(name)
	if err != nil {
		return err
	}
	for id, f := range found {
		if f.Sealed == nil && !slices.Contains(keep, id) {
			if err := k.store.DeleteRecord(kindFileKey, id); err != nil {
				return err
			}
		}
	}
	return nil
}

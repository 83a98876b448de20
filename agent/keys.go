package agent

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm"
)

// tokenKeys is the keyring of keys that live in an HSM's token.
type tokenKeys struct {
	token *hsm.Token
	typ   hsm.KeyType
	limit time.Duration // for one signature, waiting for the worker included
}

func (k *tokenKeys) Reserve(name string) (string, int, error) {
	key, err := k.token.Reserve(name, k.typ)
	return key.ID, key.Generation, err
}

func (k *tokenKeys) Ensure(ctx context.Context, id string) (crypto.Signer, error) {
	return k.token.Ensure(ctx, id)
}

func (k *tokenKeys) Signer(id string, pub crypto.PublicKey) crypto.Signer {
	return &tokenSigner{k, id, pub}
}

// Replaced leaves alone what was never made, or is further on already.
func (k *tokenKeys) Replaced(id string) error {
	if err := k.token.SetState(id, hsm.Retiring); !errors.Is(err, hsm.ErrState) {
		return err
	}
	return nil
}

func (k *tokenKeys) Retire(ctx context.Context, id string) error {
	for _, key := range k.token.Keys() {
		if key.ID == id && key.State == hsm.Destroyed {
			return nil // before the last process could write that down
		}
	}
	if err := k.token.SetState(id, hsm.Retired); err != nil {
		return err
	}
	return k.token.Destroy(ctx, id)
}

func (k *tokenKeys) Forget(ctx context.Context, name string, keep []string) error {
	for _, key := range k.token.Keys() {
		// Retired ones too: to be destroyed was all that was left to do.
		forgotten := key.State == hsm.Intended || key.State == hsm.Retired
		if key.Name != name || !forgotten || slices.Contains(keep, key.ID) {
			continue
		}
		if err := k.Retire(ctx, key.ID); err != nil {
			return err
		}
	}
	return nil
}

// A tokenSigner signs with a key that is looked up when it is used, so that it
// can be handed out while the token is away.
type tokenSigner struct {
	keys *tokenKeys
	id   string
	pub  crypto.PublicKey
}

func (s *tokenSigner) Public() crypto.PublicKey { return s.pub }

func (s *tokenSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.keys.limit)
	defer cancel()
	key, err := s.keys.token.Key(ctx, s.id)
	if err != nil {
		return nil, err
	}
	return key.Sign(rand, digest, opts)
}

// A ledger is the store as the HSM's token wants it.
type ledger struct{ store *store.Store }

func (l ledger) Keys() ([]hsm.LedgerKey, error) {
	rows, err := l.store.Keys()
	if err != nil {
		return nil, err
	}
	keys := make([]hsm.LedgerKey, len(rows))
	for i, k := range rows {
		keys[i] = hsm.LedgerKey{ID: k.ID, Token: k.Token, Name: k.Name, Generation: k.Generation,
			Type: hsm.KeyType(k.Type), State: hsm.State(k.State), Created: k.Created, Serial: k.Serial}
	}
	return keys, nil
}

func (l ledger) SaveKey(k hsm.LedgerKey) error {
	err := l.store.SaveKey(store.LedgerKey{ID: k.ID, Token: k.Token, Name: k.Name, Generation: k.Generation,
		Type: string(k.Type), State: string(k.State), Created: k.Created, Serial: k.Serial})
	if err == nil && k.State == hsm.Live {
		// A key that was made must not be forgotten with one file. The copy is
		// no condition of anything: the next one knows the key too.
		_ = l.store.Copy()
	}
	return err
}

// keyTypeOf tells the kinds of keys apart that sign differently.
func keyTypeOf(pub crypto.PublicKey) hsm.KeyType {
	if _, ok := pub.(ed25519.PublicKey); ok {
		return hsm.Ed25519
	}
	return ""
}

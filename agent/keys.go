package agent

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm"
)

// tokenKeys is the keyring of keys that live in an HSM's token. A key stays on the
// token that it was made on, whichever is configured for new ones.
type tokenKeys struct {
	token  *hsm.Token // for new ones
	typ    hsm.KeyType
	limit  time.Duration         // for one signature, waiting for the worker included
	tokens map[string]*hsm.Token // all, by what the ledger calls them
}

func (k *tokenKeys) Reserve(name string) (string, int, error) {
	key, err := k.token.Reserve(name, k.typ)
	return key.ID, key.Generation, err
}

// of is the token that a key is on. Where that is not configured, the one for new
// keys will say so.
func (k *tokenKeys) of(id string) *hsm.Token {
	if row, err := k.token.Lookup(id); err == nil && k.tokens[row.Token] != nil {
		return k.tokens[row.Token]
	}
	return k.token
}

// key is a key that has been made. That it is on another token than new ones is the
// exception, for which the ledger is looked at once more.
func (k *tokenKeys) key(ctx context.Context, id string) (*hsm.Key, error) {
	key, err := k.token.Key(ctx, id)
	if errors.Is(err, hsm.ErrElsewhere) {
		return k.of(id).Key(ctx, id)
	}
	return key, err
}

// Ensure makes what was reserved on a token that is not configured any more on the
// one for new keys.
func (k *tokenKeys) Ensure(ctx context.Context, id string) (crypto.Signer, error) {
	return k.of(id).Ensure(ctx, id)
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

// Retire has a key on a token that is not configured any more destroyed by Forget,
// once it is again.
func (k *tokenKeys) Retire(ctx context.Context, id string) error {
	row, err := k.token.Lookup(id)
	if err != nil {
		return err
	}
	if row.State == hsm.Destroyed {
		return nil // before the last process could write that down
	}
	if err := k.token.SetState(id, hsm.Retired); err != nil {
		return err
	}
	if err := k.of(id).Destroy(ctx, id); !errors.Is(err, hsm.ErrElsewhere) {
		return err
	}
	return nil
}

func (k *tokenKeys) Forget(ctx context.Context, name string, keep []string) error {
	var errs []error
	for _, t := range k.tokens {
		for _, key := range t.Keys() {
			// Retired ones too: to be destroyed was all that was left to do.
			forgotten := key.State == hsm.Intended || key.State == hsm.Retired
			if key.Name == name && forgotten && !slices.Contains(keep, key.ID) {
				errs = append(errs, k.Retire(ctx, key.ID))
			}
		}
	}
	return errors.Join(errs...)
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
	key, err := s.keys.key(ctx, s.id)
	if err != nil {
		return nil, err
	}
	return key.Sign(rand, digest, opts)
}

// sealing is the token that the data key is wrapped by. Before there is a data key, or
// while its token is not known, it is the first of the configuration.
func (a *Agent) sealing() *hsm.Token {
	t, _ := a.home()
	return t
}

// home is sealing, as the token of the agent's other keys: one that is not known does
// not have them.
func (a *Agent) home() (*hsm.Token, error) {
	first, _ := a.cfg.Token("")
	t := a.tokens[first.TokenName()]
	if t == nil {
		return nil, nil // there is none at all
	}
	blob, err := a.store.Meta(metaDataKey)
	if err != nil {
		return t, fmt.Errorf("read the wrapped data key: %w", err)
	}
	row, err := t.Lookup(hsm.SealedWith(blob))
	switch {
	case err != nil:
		return t, nil // there is none yet, or it is none of ours
	case a.tokens[row.Token] == nil:
		return t, strayError{row}
	}
	return a.tokens[row.Token], nil
}

// awaitSealing waits until the token that the data key is wrapped by is open, and
// reports false if ctx ends first. While that token is not known, any that is yet to
// open may be it under another name.
func (a *Agent) awaitSealing(ctx context.Context) bool {
	for {
		t, unknown := a.home()
		ready := t.Ready()
		if unknown != nil && a.opening() {
			ready = nil
		}
		select {
		case <-ready:
			if t == a.sealing() {
				return true
			}
		case <-time.After(time.Second / 4):
		case <-ctx.Done():
			return false
		}
	}
}

// opening reports whether a token was neither opened nor could not be.
func (a *Agent) opening() bool {
	for _, t := range a.tokens {
		if st := t.Status(); !st.Open && st.Err == nil {
			return true
		}
	}
	return false
}

// A strayError says that the agent needs keys which are on a token that it does not
// know. One that has another name now is known once it is open.
type strayError []hsm.LedgerKey

func (e strayError) Error() string {
	var texts []string
	for _, k := range e {
		texts = append(texts, fmt.Sprintf("%s on hsm %s", k, k.Place()))
	}
	return "keys in use are on a token that is not configured, or not open yet under its new name: " + strings.Join(texts, ", ")
}

// Hint says what an operator can do about it.
func (e strayError) Hint() string {
	return "name that token under hsm: again, by any name; if it is gone for good, `signet rotate` the items whose keys these are, " +
		"and for kek `signet key rotate-sealing --discard-sealed`; docs/hsm.md says what is lost"
}

// astray are the keys on tokens that the agent does not know, of those that it needs.
func (a *Agent) astray() (e strayError) {
	rows, err := ledger{a.store}.Keys()
	if err != nil {
		return nil // who needs a key is told so
	}
	blob, _ := a.store.Meta(metaDataKey) // as above
	for _, k := range rows {
		needed := k.ID == hsm.SealedWith(blob)
		if r := a.rotators[k.Name]; r != nil {
			snap := r.snap.Load()
			needed = needed || snap != nil && snap.keyInUse(k.ID, -1)
		}
		if needed && a.tokens[k.Token] == nil && (k.State == hsm.Live || k.State == hsm.Retiring) {
			e = append(e, k)
		}
	}
	return e
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

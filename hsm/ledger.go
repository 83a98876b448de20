package hsm

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/signet-agent/signet/hsm/wire"
)

// A KeyType is an algorithm with its size.
type KeyType string

// The types of keys. The last two seal and do not sign.
const (
	RSA2048   KeyType = wire.TypeRSA2048
	RSA3072   KeyType = wire.TypeRSA3072
	RSA4096   KeyType = wire.TypeRSA4096
	ECDSAP256 KeyType = wire.TypeP256
	ECDSAP384 KeyType = wire.TypeP384
	ECDSAP521 KeyType = wire.TypeP521
	Ed25519   KeyType = wire.TypeEd25519

	sealAES KeyType = wire.TypeAES256
	sealRSA KeyType = wire.TypeRSA2048KE
)

// seals reports whether a key of this type seals.
func (t KeyType) seals() bool { return t == sealAES || t == sealRSA }

// valid reports whether t is a type for signing.
func (t KeyType) valid() bool {
	switch t {
	case RSA2048, RSA3072, RSA4096, ECDSAP256, ECDSAP384, ECDSAP521, Ed25519:
		return true
	}
	return false
}

// A State is where a key is in its life. It only ever moves on.
type State string

// The states of a key.
const (
	Intended  State = "intended"  // written down, perhaps not made
	Live      State = "live"      // checked, in use
	Retiring  State = "retiring"  // replaced, still used through the grace time
	Retired   State = "retired"   // no longer used, may be destroyed
	Destroyed State = "destroyed" // gone from the token
)

var stateOrder = []State{Intended, Live, Retiring, Retired, Destroyed}

// A LedgerKey is one key as the ledger knows it.
type LedgerKey struct {
	ID         string // hex CKA_ID
	Token      string // Config.Name of the token that it is on, as it was last opened, see [Token.adopt]
	Name       string
	Generation int // from 1, over all tokens
	Type       KeyType
	State      State
	Created    time.Time
	// Serial is of the token that it was made on; of an intent, of the one on which
	// its generation was begun, see [Token.begin]. It is empty if that is not known.
	Serial string
}

// String is how the key is called: name#generation.
func (k LedgerKey) String() string { return fmt.Sprintf("%s#%d", k.Name, k.Generation) }

// Place is how the token is called that the key is on.
func (k LedgerKey) Place() string {
	if k.Serial == "" {
		return fmt.Sprintf("%q", k.Token)
	}
	return fmt.Sprintf("%q with serial %s", k.Token, k.Serial)
}

// alive reports whether the key is in use, and so must be on its token.
func (k LedgerKey) alive() bool { return k.State == Live || k.State == Retiring }

// A Ledger remembers which keys are ours.
type Ledger interface {
	// Keys returns all keys of all tokens, destroyed ones too.
	Keys() ([]LedgerKey, error)
	// SaveKey adds or replaces the key with this ID. It is durable when it
	// returns.
	SaveKey(LedgerKey) error
}

// Keys returns the keys of this token that the ledger knows, by name and
// generation. It is empty when the ledger cannot be read; calls that need a key
// tell why.
func (t *Token) Keys() []LedgerKey {
	keys, _ := t.ledgerKeys()
	return keys
}

func (t *Token) ledgerKeys() ([]LedgerKey, error) {
	all, err := t.ledgerAll()
	if err != nil {
		return nil, err
	}
	keys := slices.DeleteFunc(slices.Clone(all), func(k LedgerKey) bool { return k.Token != t.cfg.Name })
	slices.SortFunc(keys, func(a, b LedgerKey) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.ID, b.ID))
	})
	return keys, nil
}

// ledgerAll returns the keys of all tokens.
func (t *Token) ledgerAll() ([]LedgerKey, error) {
	if t.cfg.Ledger == nil {
		return nil, t.fail("read ledger", "", fmt.Errorf("%w: none is configured", ErrInvalid))
	}
	all, err := t.cfg.Ledger.Keys()
	if err != nil {
		return nil, t.fail("read ledger", "", err)
	}
	return all, nil
}

// Lookup returns a key as the ledger has it, whichever token it is on.
func (t *Token) Lookup(id string) (LedgerKey, error) { return t.lookup("look up", id) }

func (t *Token) lookup(op, id string) (LedgerKey, error) {
	all, err := t.ledgerAll()
	if err != nil {
		return LedgerKey{}, err
	}
	for _, k := range all {
		if k.ID == id {
			return k, nil
		}
	}
	return LedgerKey{}, t.fail(op, id, ErrNoKey)
}

// SealedWith is the ID of the key that a blob of [Token.Wrap] was sealed with, or ""
// if it is none.
func SealedWith(blob []byte) string {
	c, err := parseSealed(blob)
	if err != nil {
		return ""
	}
	return c.ID
}

// ledgerKey finds one key of this token by ID. That of another token is returned
// with the error [ErrElsewhere].
func (t *Token) ledgerKey(op, id string) (LedgerKey, error) {
	k, err := t.lookup(op, id)
	if err == nil && k.Token != t.cfg.Name {
		err = t.fail(op, k.String(), fmt.Errorf("%w: %s", ErrElsewhere, k.Place()))
	}
	return k, err
}

func (t *Token) save(op string, k LedgerKey) error {
	if err := t.cfg.Ledger.SaveKey(k); err != nil {
		return t.fail(op, k.String(), fmt.Errorf("write ledger: %w", err))
	}
	return nil
}

// Reserve writes down the intent to make the next generation of a key. It needs
// no open token. The key is made by Ensure.
func (t *Token) Reserve(name string, typ KeyType) (LedgerKey, error) {
	if !typ.valid() || name == "" {
		return LedgerKey{}, t.fail("reserve", name, fmt.Errorf("%w: key type %q", ErrInvalid, typ))
	}
	return t.reserve(name, typ)
}

func (t *Token) reserve(name string, typ KeyType) (LedgerKey, error) {
	t.ledger.Lock()
	defer t.ledger.Unlock()
	all, err := t.ledgerAll()
	if err != nil {
		return LedgerKey{}, err
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails
	k := LedgerKey{ID: hex.EncodeToString(id), Token: t.cfg.Name, Name: name, Generation: nextGeneration(all, name),
		Type: typ, State: Intended, Created: time.Now().UTC()}
	return k, t.save("reserve", k)
}

// nextGeneration is the first that no token has had of a name: the two of a key that
// was moved are told apart by it.
func nextGeneration(all []LedgerKey, name string) int {
	next := 1
	for _, k := range all {
		if k.Name == name {
			next = max(next, k.Generation+1)
		}
	}
	return next
}

// SetState moves a key on in its life. A key cannot be called live this way,
// which takes Ensure, nor destroyed, which takes Destroy; nothing moves back; and an
// intent can only be given up. It may be of any token.
func (t *Token) SetState(id string, to State) error {
	t.ledger.Lock()
	defer t.ledger.Unlock()
	k, err := t.lookup("set state of", id)
	if err != nil {
		return err
	}
	if k.State == to {
		return nil
	}
	if to != Retiring && to != Retired || slices.Index(stateOrder, to) < slices.Index(stateOrder, k.State) || k.State == Intended && to == Retiring {
		return t.fail("set state of", k.String(), fmt.Errorf("%w: it is %s and cannot become %s", ErrState, k.State, to))
	}
	k.State = to
	return t.save("set state of", k)
}

// setState records what was done on the token with a key that was in state from. If
// it has moved on meanwhile, the error is [ErrState], and it stays where it is.
func (t *Token) setState(op, id string, from State, change func(*LedgerKey)) (LedgerKey, error) {
	t.ledger.Lock()
	defer t.ledger.Unlock()
	k, err := t.ledgerKey(op, id)
	if err != nil {
		return k, err
	}
	if k.State != from {
		return k, t.fail(op, k.String(), fmt.Errorf("%w: it is %s, no longer %s", ErrState, k.State, from))
	}
	change(&k)
	return k, t.save(op, k)
}

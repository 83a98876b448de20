package hsm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/hsm/wire"
)

const (
	// rsaPatience is how many times longer than other calls the generation of a
	// large RSA key may take. It is a matter of luck, and of who else computes.
	rsaPatience = 6
	// generateTries is how often a generation is tried when workers end under it.
	generateTries = 3
)

// Ensure makes a reserved key if it is not there yet, checks it, and calls it
// live. It may be repeated after any failure. A key that was live before is
// never made anew: if it is gone, the error is [ErrKeyLost]. One that was reserved on
// another token is made on this.
func (t *Token) Ensure(ctx context.Context, id string) (*Key, error) {
	if err := t.making.Acquire(ctx, 1); err != nil {
		return nil, t.fail("make", id, fmt.Errorf("%w: %w", ErrDeadline, err))
	}
	defer t.making.Release(1)
	k, err := t.ledgerKey("make", id)
	if errors.Is(err, ErrElsewhere) && k.State == Intended {
		k, err = t.rename(k)
	}
	if err != nil {
		return nil, err
	}
	switch k.State {
	case Live, Retiring:
		return t.existing(ctx, k)
	case Intended:
		return t.make(ctx, k)
	}
	return nil, t.fail("make", k.String(), fmt.Errorf("%w: it is %s", ErrState, k.State))
}

// Key returns a key that is live or retiring, and makes nothing.
func (t *Token) Key(ctx context.Context, id string) (*Key, error) {
	k, err := t.ledgerKey("use", id)
	if err != nil {
		return nil, err
	}
	if !k.alive() {
		return nil, t.fail("use", k.String(), fmt.Errorf("%w: it is %s", ErrState, k.State))
	}
	return t.existing(ctx, k)
}

// existing returns a key that must be there. It is checked once per process;
// that it stays the same, by the first signature of each worker.
func (t *Token) existing(ctx context.Context, k LedgerKey) (*Key, error) {
	t.mu.Lock()
	key := t.trusted[k.ID]
	t.mu.Unlock()
	if key != nil {
		copied := *key
		copied.info = k
		return &copied, nil
	}
	f, err := t.find(ctx, k, wire.Find{})
	if err != nil {
		return nil, err
	}
	if f.Private+f.Secret == 0 {
		t.nowLost(k)
		return nil, t.fail("use", k.String(), ErrKeyLost)
	}
	t.notLost(k)
	if key, err = t.check(ctx, k, f); err == nil || errors.Is(err, ErrUntrusted) {
		t.setUnfit(k, err != nil)
	}
	if err != nil {
		return nil, err
	}
	t.trust(key)
	return key, nil
}

func (t *Token) trust(key *Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trusted[key.info.ID] = key
}

// make takes an intent to a live key: what an earlier try has left is used if
// it is whole and good, else removed, and the key made under the same ID.
func (t *Token) make(ctx context.Context, k LedgerKey) (*Key, error) {
	var err error
	for range generateTries {
		var key *Key
		if key, err = t.makeOnce(ctx, k); err == nil {
			return key, nil
		}
		if !errors.Is(err, errLost) || errors.Is(err, ErrClosed) || ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

func (t *Token) makeOnce(ctx context.Context, k LedgerKey) (*Key, error) {
	f, err := t.find(ctx, k, wire.Find{Fresh: true})
	if err != nil {
		return nil, err
	}
	clean, err := t.sweep(ctx)
	if err != nil {
		return nil, err
	}
	if f.Private+f.Public+f.Secret+f.Certificates+f.Unreadable > 0 {
		key, err := t.check(ctx, k, f)
		if err == nil {
			return t.born(k, key)
		}
		if !errors.Is(err, ErrUntrusted) {
			return nil, err
		}
		t.log.Warn("removing the remains of an interrupted key generation", "key", k.String(), "id", k.ID, "err", err)
		if err := t.destroy(ctx, k); err != nil {
			return nil, err
		}
	}
	if k, err = t.begin(k, clean); err != nil {
		return nil, err
	}
	if f, err = t.generate(ctx, k); err != nil {
		return nil, err
	}
	key, err := t.check(ctx, k, f)
	if err != nil {
		return nil, err
	}
	return t.born(k, key)
}

// born writes down that a key is good.
func (t *Token) born(k LedgerKey, key *Key) (*Key, error) {
	serial := t.Status().Serial
	saved, err := t.setState("make", k.ID, Intended, func(k *LedgerKey) { k.State, k.Serial = Live, serial })
	if err != nil {
		return nil, err
	}
	key.info = saved
	t.trust(key)
	t.log.Info("key made", "key", k.String(), "id", k.ID, "type", string(k.Type))
	return key, nil
}

// find asks the token what carries the key's ID.
func (t *Token) find(ctx context.Context, k LedgerKey, how wire.Find) (*wire.Found, error) {
	f := &wire.Found{}
	how.ID = k.ID
	return f, t.call(ctx, request{name: "find", key: k.String(), op: wire.OpFind}, how, f)
}

// lookAgain is how often at most the token is searched for a key in use that was
// not there.
const lookAgain = time.Second

// back has the worker look once more for a key that it does not know how to use,
// because it was not there, or twice, when it was last looked for. It reports whether
// the key may be used again: it may have been brought back. One that is still missing
// is no longer trusted.
func (t *Token) back(ctx context.Context, deadline time.Time, k LedgerKey, err error) bool {
	if name := nameOf(err); name != wire.KeyMissing && name != wire.KeyAmbiguous {
		return false
	}
	if now, err := t.ledgerKey("find", k.ID); err != nil || !now.alive() {
		return false
	}
	t.mu.Lock()
	soon := time.Since(t.looked[k.ID]) < lookAgain
	if !soon {
		t.looked[k.ID] = time.Now()
	}
	t.mu.Unlock()
	if soon {
		return false
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	found := wire.Resolved{}
	want := wire.Resolve{Keys: []wire.Wanted{{ID: k.ID, Type: string(k.Type)}}}
	if err := t.call(ctx, request{name: "find", key: k.String(), op: wire.OpResolve}, want, &found); err != nil {
		return false
	}
	if len(found.Missing) > 0 {
		t.mu.Lock()
		delete(t.trusted, k.ID)
		t.mu.Unlock()
		t.nowLost(k)
		return false
	}
	t.notLost(k)
	return true
}

// nameOf is the name of a refusal by the worker, or "".
func nameOf(err error) string {
	var e *Error
	var w *wire.Error
	switch {
	case errors.As(err, &e):
		return e.Name
	case errors.As(err, &w):
		return w.Name
	}
	return ""
}

// generate asks the token for a key, after making sure that it can.
func (t *Token) generate(ctx context.Context, k LedgerKey) (*wire.Found, error) {
	t.mu.Lock()
	able := t.opened == nil || slices.Contains(supported(t.opened), k.Type)
	t.mu.Unlock()
	if !able {
		return nil, t.fail("generate", k.String(), &wire.Error{CKR: 0x70, Name: "CKR_MECHANISM_INVALID", Text: "the token does not offer " + string(k.Type)})
	}
	timeout := t.cfg.Timeout
	if k.Type == RSA3072 || k.Type == RSA4096 {
		timeout *= rsaPatience
	}
	f := &wire.Found{}
	return f, t.call(ctx, request{name: "generate", key: k.String(), op: wire.OpGenerate, alone: true, timeout: timeout, once: true},
		wire.Generate{ID: k.ID, Label: k.String(), Type: string(k.Type)}, f)
}

// destroy removes what carries the key's ID.
func (t *Token) destroy(ctx context.Context, k LedgerKey) error {
	return t.call(ctx, request{name: "destroy", key: k.String(), op: wire.OpDestroy, alone: true}, wire.Destroy{ID: k.ID}, nil)
}

// check decides whether what was found is the key, whole, unable to leave the
// token, and able to do its work.
func (t *Token) check(ctx context.Context, k LedgerKey, f *wire.Found) (*Key, error) {
	key, err := t.whole(k, f)
	if err != nil {
		return nil, t.fail("check", k.String(), err)
	}
	a, err := t.audit(ctx, k)
	if err != nil {
		return nil, err
	}
	v := judge(a)
	if f.Narrow {
		v.weak = append(v.weak, surplus(k.Type, a)...)
	}
	if v.refuses(t.cfg.Lenient) {
		return nil, t.fail("check", k.String(), untrusted("%s", strings.Join(v.all(), "; ")))
	}
	if findings := v.all(); len(findings) > 0 {
		t.log.Warn("key used although its audit failed, because hsm.audit is lenient", "key", k.String(), "findings", findings)
	}
	if k.Type.seals() {
		err = t.trySeal(ctx, key)
	} else {
		err = trySign(ctx, key)
	}
	var e *Error
	switch {
	case err == nil:
		return key, nil
	case errors.As(err, &e) && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrDeadline) && !errors.Is(err, errLost):
		return nil, t.fail("check", k.String(), untrusted("it does not work: %v", e.Err))
	}
	return nil, err
}

func untrusted(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUntrusted, fmt.Sprintf(format, args...))
}

// whole makes a key of what was found if that is one of the right type.
func (t *Token) whole(k LedgerKey, f *wire.Found) (*Key, error) {
	id, err := hex.DecodeString(k.ID)
	if err != nil {
		return nil, untrusted("the ledger has %q for its ID", k.ID)
	}
	typ := k.Type
	if typ == sealRSA {
		typ = RSA2048 // the public key does not say what it is for
	}
	switch {
	case f.Unreadable > 0:
		return nil, untrusted("%d objects cannot be read", f.Unreadable)
	case f.Private+f.Secret > 1, f.Public > 1:
		return nil, &wire.Error{Name: wire.KeyAmbiguous, Text: "the token has " + contents(*f) + " with its ID"}
	case k.Type == sealAES && (f.Secret != 1 || f.Private+f.Public > 0):
		return nil, untrusted("the token has %d secret keys with its ID", f.Secret)
	case k.Type != sealAES && (f.Private != 1 || f.Public != 1 || f.Secret > 0):
		return nil, untrusted("the token has %d private and %d public halves with its ID", f.Private, f.Public)
	case KeyType(f.Type) != typ:
		return nil, untrusted("it is of type %q, not %q", f.Type, k.Type)
	}
	key := &Key{t: t, info: k, id: id, spki: f.SPKI, proven: new(atomic.Pointer[process])}
	if k.Type != sealAES {
		if key.pub, err = x509.ParsePKIXPublicKey(f.SPKI); err != nil {
			return nil, untrusted("public half: %v", err)
		}
	}
	return key, nil
}

func (t *Token) audit(ctx context.Context, k LedgerKey) (*wire.Audited, error) {
	a := &wire.Audited{}
	return a, t.call(ctx, request{name: "audit", key: k.String(), op: wire.OpAudit, alone: true}, wire.Find{ID: k.ID}, a)
}

// trySign makes a signature. Being the first of a key that was just found, it is
// verified.
func trySign(ctx context.Context, k *Key) error {
	msg := make([]byte, sha256.Size)
	rand.Read(msg) // never fails
	hash := crypto.SHA256
	if k.info.Type == Ed25519 {
		hash = 0
	}
	_, err := k.SignContext(ctx, msg, hash)
	return err
}

// Destroy removes a key from the token for good. The ledger must say that it is
// retired. Destroying a destroyed key does nothing.
func (t *Token) Destroy(ctx context.Context, id string) error {
	if err := t.making.Acquire(ctx, 1); err != nil {
		return t.fail("destroy", id, fmt.Errorf("%w: %w", ErrDeadline, err))
	}
	defer t.making.Release(1)
	k, err := t.ledgerKey("destroy", id)
	if err != nil {
		return err
	}
	switch k.State {
	case Destroyed:
		return nil
	case Retired:
	default:
		return t.fail("destroy", k.String(), fmt.Errorf("%w: it is %s, not %s", ErrState, k.State, Retired))
	}
	t.mu.Lock()
	delete(t.trusted, id)
	t.mu.Unlock()
	if err := t.destroy(ctx, k); err != nil {
		return err
	}
	if _, err := t.setState("destroy", id, Retired, func(k *LedgerKey) { k.State = Destroyed }); err != nil {
		return err
	}
	t.notLost(k)
	t.setUnfit(k, false)
	t.log.Info("key destroyed", "key", k.String(), "id", k.ID)
	return nil
}

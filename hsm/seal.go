package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // in OAEP, where its weakness does not matter; SoftHSM offers no other
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-agent/signet/hsm/wire"
)

// sealName is what the sealing key is called in the ledger.
const sealName = "kek"

// maxSealed is the most that is sealed at once: what fits into RSA-2048 OAEP.
const maxSealed = 190

// A sealed blob is: magic, mechanism, length of the key's ID, ID, nonce (GCM
// only), ciphertext. All before the nonce is additional data of GCM, so a blob
// cannot be given another key or mechanism.
var sealMagic = []byte("SK1")

var sealMechanisms = map[string]byte{wire.CipherGCM: 1, wire.CipherOAEP256: 2, wire.CipherOAEP1: 3}

const gcmNonce = 12

// Wrap seals a small secret, such as a data key, so that only this token can
// open it. The sealing key is made at the first use.
func (t *Token) Wrap(ctx context.Context, dek []byte) ([]byte, error) {
	if len(dek) == 0 || len(dek) > maxSealed {
		return nil, t.fail("seal", "", fmt.Errorf("%w: %d bytes: at least 1, at most %d", ErrInvalid, len(dek), maxSealed))
	}
	key, err := t.sealingKey(ctx, false)
	if err != nil {
		return nil, err
	}
	return t.seal(ctx, key, dek)
}

// RotateKEK makes a new sealing key, which Wrap uses from then on, and calls the
// ones before retiring: they still unwrap. The caller calls Rewrap for all that it
// has, keeps that, and then calls RetireKEKs.
func (t *Token) RotateKEK(ctx context.Context) error {
	_, err := t.sealingKey(ctx, true)
	return err
}

// RetireKEKs destroys the sealing keys that were replaced. What they sealed is
// lost.
func (t *Token) RetireKEKs(ctx context.Context) error {
	keys, err := t.ledgerKeys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !k.Type.seals() || k.State != Retiring && k.State != Retired {
			continue
		}
		if err := t.SetState(k.ID, Retired); err != nil {
			return err
		}
		if err := t.Destroy(ctx, k.ID); err != nil {
			return err
		}
	}
	return nil
}

// sealingKey returns the newest sealing key, or makes one. It may be called by
// many at once: one makes it.
func (t *Token) sealingKey(ctx context.Context, another bool) (*Key, error) {
	if err := t.sealing.Acquire(ctx, 1); err != nil {
		return nil, t.fail("seal", "", fmt.Errorf("%w: %w", ErrDeadline, err))
	}
	defer t.sealing.Release(1)
	keys, err := t.ledgerKeys()
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k LedgerKey) bool { return k.Name != sealName || !k.Type.seals() })
	slices.Reverse(keys) // newest first
	i := slices.IndexFunc(keys, func(k LedgerKey) bool { return k.State == Live })
	if i >= 0 && !another {
		return t.Key(ctx, keys[i].ID)
	}
	next, err := t.intendedSeal(ctx, keys)
	if err != nil {
		return nil, err
	}
	key, err := t.Ensure(ctx, next.ID)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.State == Live && k.ID != next.ID {
			if err := t.SetState(k.ID, Retiring); err != nil {
				return nil, err
			}
		}
	}
	return key, nil
}

// intendedSeal takes up an intent to make a sealing key, or writes one down, of
// the type that the token is best at.
func (t *Token) intendedSeal(ctx context.Context, keys []LedgerKey) (LedgerKey, error) {
	if i := slices.IndexFunc(keys, func(k LedgerKey) bool { return k.State == Intended }); i >= 0 {
		return keys[i], nil
	}
	if _, err := t.await(ctx, time.Now().Add(t.cfg.Timeout)); err != nil {
		return LedgerKey{}, t.fail("seal", "", err)
	}
	t.mu.Lock()
	can := supported(t.opened)
	t.mu.Unlock()
	typ := sealRSA
	if slices.Contains(can, sealAES) {
		typ = sealAES
	}
	return t.reserve(sealName, typ)
}

// seal makes a blob. For RSA the token is not needed: the public half seals.
func (t *Token) seal(ctx context.Context, key *Key, dek []byte) ([]byte, error) {
	if key.info.Type == sealRSA {
		return t.sealOAEP(ctx, key, dek)
	}
	head := sealHead(wire.CipherGCM, key.id)
	nonce := make([]byte, gcmNonce)
	rand.Read(nonce) // never fails
	out := wire.Ciphered{}
	err := t.crypt(ctx, request{name: "seal", key: key.info.String(), op: wire.OpEncrypt}, key.info,
		wire.Cipher{ID: key.info.ID, Mechanism: wire.CipherGCM, IV: nonce, AAD: head, Data: dek}, &out)
	if err != nil {
		return nil, err
	}
	return slices.Concat(head, nonce, out.Data), nil
}

// sealOAEP seals with SHA-256 where the token opens that again, else with SHA-1,
// which is all that some tokens have in OAEP.
func (t *Token) sealOAEP(ctx context.Context, key *Key, dek []byte) ([]byte, error) {
	pub, ok := key.pub.(*rsa.PublicKey)
	if !ok {
		return nil, t.fail("seal", key.info.String(), ErrUntrusted)
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, dek, nil)
	if err != nil {
		return nil, t.fail("seal", key.info.String(), err)
	}
	blob := append(sealHead(wire.CipherOAEP256, key.id), sealed...)
	_, err = t.reopen(ctx, key, blob)
	if err == nil || errors.Is(err, ErrClosed) || errors.Is(err, ErrDeadline) {
		return blob, err
	}
	if sealed, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, dek, nil); err != nil {
		return nil, t.fail("seal", key.info.String(), err)
	}
	blob = append(sealHead(wire.CipherOAEP1, key.id), sealed...)
	if _, err := t.reopen(ctx, key, blob); err != nil {
		return nil, err
	}
	return blob, nil
}

func sealHead(mechanism string, id []byte) []byte {
	head := append(bytes.Clone(sealMagic), sealMechanisms[mechanism], byte(len(id)))
	return append(head, id...)
}

// parseSealed takes a blob apart.
func parseSealed(blob []byte) (c wire.Cipher, err error) {
	n := len(sealMagic)
	if len(blob) < n+2 || !bytes.Equal(blob[:n], sealMagic) {
		return c, errors.New("it is no sealed blob")
	}
	end := n + 2 + int(blob[n+1])
	if len(blob) <= end {
		return c, errors.New("it is cut short")
	}
	c.ID, c.Data = hex.EncodeToString(blob[n+2:end]), blob[end:]
	for name, b := range sealMechanisms {
		if b == blob[n] {
			c.Mechanism = name
		}
	}
	if c.Mechanism == "" {
		return c, fmt.Errorf("it is sealed in a way that is not known: %d", blob[n])
	}
	if c.Mechanism == wire.CipherGCM {
		if len(c.Data) <= gcmNonce {
			return c, errors.New("it is cut short")
		}
		c.AAD, c.IV, c.Data = blob[:end], c.Data[:gcmNonce], c.Data[gcmNonce:]
	}
	return c, nil
}

// Unwrap opens what Wrap has sealed, with a key that is checked first, like any.
// The error is [ErrSealed] if the blob was changed or sealed by another host.
func (t *Token) Unwrap(ctx context.Context, blob []byte) ([]byte, error) {
	c, err := parseSealed(blob)
	if err != nil {
		return nil, t.broken("", err.Error())
	}
	k, err := t.ledgerKey("unseal", c.ID)
	if errors.Is(err, ErrNoKey) || err == nil && !k.Type.seals() {
		return nil, t.broken("", fmt.Sprintf("it was sealed with key %s, which is not one of ours", c.ID))
	}
	if err != nil {
		return nil, err
	}
	if (k.Type == sealAES) != (c.Mechanism == wire.CipherGCM) {
		return nil, t.broken(k.String(), "it says that it was sealed by "+c.Mechanism+", which its key does not do")
	}
	if k.State == Destroyed {
		return nil, t.broken(k.String(), "its key was destroyed")
	}
	key, err := t.existing(ctx, k)
	if err != nil {
		return nil, err
	}
	plain, err := t.unseal(ctx, k, c)
	if e := (*Error)(nil); !errors.As(err, &e) || !errors.Is(err, ErrSealed) || e.CKR != wire.CKRGeneralError {
		return plain, err
	}
	// It may still be the token. Then what was sealed just now does not open either.
	switch works := t.trySeal(ctx, key); {
	case works == nil:
		return nil, err
	case errors.Is(works, ErrSealed):
		return nil, t.fail("unseal", k.String(), &wire.Error{CKR: wire.CKRGeneralError, Name: "CKR_GENERAL_ERROR", Text: "the key opens nothing now"})
	default:
		return nil, works
	}
}

// unseal has the token open a blob. Some modules say CKR_GENERAL_ERROR of a blob
// that was changed, and all may of what else is wrong: the worker is replaced, and
// only if the next one says so too it is the blob.
func (t *Token) unseal(ctx context.Context, k LedgerKey, c wire.Cipher) ([]byte, error) {
	out := wire.Ciphered{}
	changed := &wire.Error{CKR: wire.CKRGeneralError, Name: wire.SealBroken, Text: "unseal: CKR_GENERAL_ERROR, from two workers"}
	err := t.crypt(ctx, request{name: "unseal", key: k.String(), op: wire.OpDecrypt, twice: changed}, k, c, &out)
	return out.Data, err
}

// reopen unseals what the key has just sealed.
func (t *Token) reopen(ctx context.Context, key *Key, blob []byte) ([]byte, error) {
	c, err := parseSealed(blob)
	if err != nil {
		return nil, t.broken(key.info.String(), err.Error())
	}
	return t.unseal(ctx, key.info, c)
}

// crypt encrypts or decrypts, once more if the key was missing and is back.
func (t *Token) crypt(ctx context.Context, r request, k LedgerKey, c wire.Cipher, out *wire.Ciphered) error {
	deadline := time.Now().Add(t.cfg.Timeout)
	err := t.call(ctx, r, c, out)
	if t.back(ctx, deadline, k, err) {
		err = t.call(ctx, r, c, out)
	}
	return err
}

func (t *Token) broken(key, text string) error {
	return t.fail("unseal", key, &wire.Error{Name: wire.SealBroken, Text: text})
}

// trySeal seals and unseals something.
func (t *Token) trySeal(ctx context.Context, key *Key) error {
	plain := make([]byte, 32)
	rand.Read(plain) // never fails
	blob, err := t.seal(ctx, key, plain)
	if err != nil {
		return err
	}
	again, err := t.reopen(ctx, key, blob)
	if err != nil {
		return err
	}
	if !bytes.Equal(plain, again) {
		return t.fail("check", key.info.String(), errors.New("what it seals does not open as it was"))
	}
	return nil
}

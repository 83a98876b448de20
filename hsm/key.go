package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync/atomic"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-agent/signet/hsm/wire"
)

// maxMessage is the longest message that Ed25519 signs here; other algorithms
// sign digests.
const maxMessage = 1 << 20

// A Key is a private key on the token that has passed its checks. It is a
// [crypto.Signer] and stays usable when the worker is replaced.
type Key struct {
	t    *Token
	info LedgerKey
	id   []byte
	pub  crypto.PublicKey
	spki []byte // DER; nil for a secret key
	// proven is the last worker whose first signature was seen to be by pub. It
	// is shared by all copies of what one check has made.
	proven *atomic.Pointer[process]
}

// Info is what the ledger knew of the key when it was asked for.
func (k *Key) Info() LedgerKey { return k.info }

// Public returns the public half: *rsa.PublicKey, *ecdsa.PublicKey or
// ed25519.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.pub }

// SPKI is the public half in DER.
func (k *Key) SPKI() []byte { return k.spki }

// Sign signs a digest, or with Ed25519 a message. It answers within
// Config.Timeout. The randomness is the token's own.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext is Sign for a caller who may lose interest.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	req, err := k.request(digest, opts)
	if err != nil {
		return nil, k.t.fail("sign", k.info.String(), fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	sig, err := k.t.sign(ctx, k, &req)
	if err != nil || req.Scheme != wire.SchemeECDSA {
		return sig, err
	}
	if sig, err = ecdsaDER(sig); err != nil {
		return nil, k.t.fail("sign", k.info.String(), err)
	}
	return sig, nil
}

// request settles what the module is asked to sign. What it must not be asked is
// refused here: some modules sign it all the same, and wrongly.
func (k *Key) request(digest []byte, opts crypto.SignerOpts) (wire.Sign, error) {
	if opts == nil {
		return wire.Sign{}, errors.New("no options")
	}
	req := wire.Sign{ID: k.id, Data: digest}
	hash := opts.HashFunc()
	if _, ok := k.pub.(ed25519.PublicKey); ok {
		o, _ := opts.(*ed25519.Options)
		if hash != 0 || o != nil && o.Context != "" {
			return req, errors.New("ed25519 signs messages here, without hash and context")
		}
		if len(digest) == 0 || len(digest) > maxMessage {
			return req, fmt.Errorf("message of %d bytes: at least 1, at most %d", len(digest), maxMessage)
		}
		req.Scheme = wire.SchemeEd25519
		return req, nil
	}
	prefix, pss, ok := digestInfo(hash)
	if !ok {
		return req, fmt.Errorf("hash %v: only SHA-256, SHA-384 and SHA-512", hash)
	}
	if len(digest) != hash.Size() {
		return req, fmt.Errorf("digest of %d bytes: %v has %d", len(digest), hash, hash.Size())
	}
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		req.Scheme = wire.SchemeECDSA
		// FIPS 186-5, 6.4.1: the leftmost bits, as many as the order has.
		// The orders of our curves that are shorter than a digest have whole bytes.
		if n := (pub.Curve.Params().N.BitLen() + 7) / 8; len(digest) > n {
			req.Data = digest[:n]
		}
		return req, nil
	case *rsa.PublicKey:
		o, isPSS := opts.(*rsa.PSSOptions)
		if !isPSS {
			req.Scheme = wire.SchemePKCS1
			req.Data = append(append(make([]byte, 0, len(prefix)+len(digest)), prefix...), digest...)
			return req, nil
		}
		if s := o.SaltLength; s != rsa.PSSSaltLengthAuto && s != rsa.PSSSaltLengthEqualsHash && s != len(digest) {
			return req, fmt.Errorf("salt of %d bytes: only as long as the hash", s)
		}
		req.Scheme = pss
		return req, nil
	}
	return req, errors.New("the key seals and does not sign")
}

// digestInfo is what stands before a digest in PKCS#1 v1.5, and the PSS scheme
// with the same hash.
func digestInfo(hash crypto.Hash) (prefix []byte, pss wire.Scheme, ok bool) {
	switch hash {
	case crypto.SHA256:
		return sha2Prefix(0x31, 1, 32), wire.SchemePSS256, true
	case crypto.SHA384:
		return sha2Prefix(0x41, 2, 48), wire.SchemePSS384, true
	case crypto.SHA512:
		return sha2Prefix(0x51, 3, 64), wire.SchemePSS512, true
	}
	return nil, 0, false
}

func sha2Prefix(total, oid, size byte) []byte {
	return []byte{0x30, total, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, oid, 0x05, 0x00, 0x04, size}
}

// ecdsaDER turns r and s, as PKCS#11 has them, into what everyone else expects.
func ecdsaDER(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, fmt.Errorf("the module made an ECDSA signature of %d bytes", len(raw))
	}
	r, s := new(big.Int).SetBytes(raw[:len(raw)/2]), new(big.Int).SetBytes(raw[len(raw)/2:])
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	return b.Bytes()
}

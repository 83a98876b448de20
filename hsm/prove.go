package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"

	"github.com/signet-agent/signet/hsm/wire"
)

// proves verifies the first signature that a worker makes with a key. A worker
// finds keys by their ID, which anybody who may write to the token can give to
// another key; the public half that was checked when the key was made, or first
// used, tells. No signature is given away by a key that has failed. What passes
// is remembered with the key that was checked, not by its ID: the next key under
// that ID has to pass itself.
func (p *process) proves(k *Key, req *wire.Sign, sig []byte) bool {
	if k.proven.Load() == p {
		return true
	}
	if !verify(k.pub, req, sig) {
		return false
	}
	k.proven.Store(p)
	return true
}

// verify checks a signature as the worker makes it, without the token.
func verify(public crypto.PublicKey, req *wire.Sign, sig []byte) bool {
	switch pub := public.(type) {
	case *rsa.PublicKey:
		if req.Scheme == wire.SchemePKCS1 {
			return rsa.VerifyPKCS1v15(pub, 0, req.Data, sig) == nil // the data says which hash
		}
		hash := map[wire.Scheme]crypto.Hash{wire.SchemePSS256: crypto.SHA256, wire.SchemePSS384: crypto.SHA384, wire.SchemePSS512: crypto.SHA512}[req.Scheme]
		return rsa.VerifyPSS(pub, hash, req.Data, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	case *ecdsa.PublicKey:
		r, s := new(big.Int).SetBytes(sig[:len(sig)/2]), new(big.Int).SetBytes(sig[len(sig)/2:])
		return ecdsa.Verify(pub, req.Data, r, s)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, req.Data, sig)
	}
	return false
}

package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"testing"
)

// TestFirstSignatureTellsKeysApart holds that with every scheme a signature, in
// the form in which a worker makes it, is known for that of its key, and that of
// another key is not.
func TestFirstSignatureTellsKeysApart(t *testing.T) {
	t.Parallel()
	digest := sha512.Sum384([]byte("what is signed"))
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA384}
	type signed struct {
		key  *Key
		opts crypto.SignerOpts
		sig  []byte
	}
	var first, second map[string]signed
	for _, all := range []*map[string]signed{&first, &second} {
		rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, edKey, _ := ed25519.GenerateKey(rand.Reader) // never fails
		pkcs1, err := rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA384, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		padded, err := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA384, digest[:], pss)
		if err != nil {
			t.Fatal(err)
		}
		r, s, err := ecdsa.Sign(rand.Reader, ecKey, digest[:32])
		if err != nil {
			t.Fatal(err)
		}
		*all = map[string]signed{
			"PKCS#1 v1.5": {&Key{pub: &rsaKey.PublicKey}, crypto.SHA384, pkcs1},
			"PSS":         {&Key{pub: &rsaKey.PublicKey}, pss, padded},
			"ECDSA":       {&Key{pub: &ecKey.PublicKey}, crypto.SHA384, append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)},
			"Ed25519":     {&Key{pub: edKey.Public()}, crypto.Hash(0), ed25519.Sign(edKey, digest[:])},
		}
	}
	for scheme, one := range first {
		req, err := one.key.request(digest[:], one.opts)
		if err != nil {
			t.Fatal(err)
		}
		if !verify(one.key.pub, &req, one.sig) {
			t.Errorf("%s: a good signature is not known", scheme)
		}
		if verify(one.key.pub, &req, second[scheme].sig) || verify(one.key.pub, &req, nil) {
			t.Errorf("%s: that of another key passes", scheme)
		}
	}
}

package ciphertrusttest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
)

// encrypted is what encrypt answers and decrypt takes.
type encrypted struct {
	ID         string `json:"id"`
	Version    *int   `json:"version,omitempty"`
	IV         []byte `json:"iv"`
	Tag        []byte `json:"tag"`
	Ciphertext []byte `json:"ciphertext"`
	Mode       string `json:"mode"`
}

// keyFor finds a key by id or name, for a use of it. Only an active key may
// protect; what it has protected can be undone later.
func (s *Server) keyFor(c *call, ref, what string, version *int, protect bool) (*vaultObject, *refusal) {
	c.args["object"] = ref
	c.query.Del("version")
	if version != nil {
		c.query.Set("version", strconv.Itoa(*version))
	}
	x, no := s.pathObject(c, what)
	if no != nil {
		return nil, no
	}
	if x.Destroyed || protect && x.state(c.now) != stateActive {
		return nil, cryptoFailed("the key is not active")
	}
	return x, nil
}

// gcm is AES-GCM with the key.
func (x *vaultObject) gcm(mode string) (cipher.AEAD, *refusal) {
	if x.Record.Algorithm != "aes" || mode != "" && mode != "gcm" {
		return nil, cryptoFailed("want an AES key and mode gcm")
	}
	raw, err := hex.DecodeString(x.Material)
	if err != nil {
		return nil, internal()
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, internal()
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, internal()
	}
	return aead, nil
}

// encrypt is POST /crypto/encrypt.
func (s *Server) encrypt(c *call) (any, *refusal) {
	var in struct {
		ID        string `json:"id"`
		Plaintext []byte `json:"plaintext"`
		Mode      string `json:"mode"`
		AAD       []byte `json:"aad"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	x, no := s.keyFor(c, in.ID, "EncryptWithKey", nil, true)
	if no != nil {
		return nil, no
	}
	aead, no := x.gcm(in.Mode)
	if no != nil {
		return nil, no
	}
	iv := make([]byte, aead.NonceSize())
	_, _ = rand.Read(iv) // never fails
	sealed := aead.Seal(nil, iv, in.Plaintext, in.AAD)
	cut := len(sealed) - aead.Overhead()
	return encrypted{x.Record.ID, &x.Record.Version, iv, sealed[cut:], sealed[:cut], "gcm"}, nil
}

// decrypt is POST /crypto/decrypt.
func (s *Server) decrypt(c *call) (any, *refusal) {
	var in struct {
		encrypted
		AAD []byte `json:"aad"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	x, no := s.keyFor(c, in.ID, "DecryptWithKey", in.Version, false)
	if no != nil {
		return nil, no
	}
	aead, no := x.gcm(in.Mode)
	if no != nil {
		return nil, no
	}
	if len(in.IV) != aead.NonceSize() {
		return nil, cryptoFailed("iv: wrong length")
	}
	plain, err := aead.Open(nil, in.IV, append(in.Ciphertext, in.Tag...), in.AAD)
	if err != nil {
		return nil, cryptoFailed("not encrypted by this key")
	}
	return map[string]string{"plaintext": base64.StdEncoding.EncodeToString(plain)}, nil
}

// signData is POST /crypto/sign: the body is the data, or its hash with
// hashAlgo=none.
func (s *Server) signData(c *call) (any, *refusal) {
	var version *int
	if text := c.query.Get("version"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, invalid("version: want a number")
		}
		version = &n
	}
	x, no := s.keyFor(c, c.query.Get("keyName"), "SignWithKey", version, true)
	if no != nil {
		return nil, no
	}
	key, err := x509.ParsePKCS8PrivateKey(x.Private)
	if err != nil {
		return nil, cryptoFailed("the key cannot sign")
	}
	hashed, opts := c.body, crypto.SignerOpts(crypto.Hash(0))
	switch algo := c.query.Get("hashAlgo"); algo {
	case "none":
	case "", "SHA-256":
		sum := sha256.Sum256(c.body)
		hashed, opts = sum[:], crypto.SHA256
	case "SHA-384":
		sum := sha512.Sum384(c.body)
		hashed, opts = sum[:], crypto.SHA384
	case "SHA-512":
		sum := sha512.Sum512(c.body)
		hashed, opts = sum[:], crypto.SHA512
	default:
		return nil, invalid(fmt.Sprintf("hashAlgo: %q is not known", algo))
	}
	signer, _ := key.(crypto.Signer)
	_, isEC := key.(*ecdsa.PrivateKey)
	_, isRSA := key.(*rsa.PrivateKey)
	switch algo := c.query.Get("signAlgo"); {
	case algo == "ECDSA" && isEC, (algo == "RSA" || algo == "") && isRSA, algo == "" && isEC:
	case algo == "RSA-PSS" && isRSA && opts.HashFunc() != 0:
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
	default:
		return nil, cryptoFailed("signAlgo: is not for this key")
	}
	sig, err := signer.Sign(rand.Reader, hashed, opts)
	if err != nil {
		return nil, cryptoFailed("the key cannot sign that")
	}
	return map[string]any{"data": hex.EncodeToString(sig), "keyId": x.Record.ID, "keyVersion": x.Record.Version}, nil
}

// random is GET /vault/random.
func (s *Server) random(c *call) (any, *refusal) {
	n, no := c.number("bytes", 32)
	if no != nil {
		return nil, no
	}
	if n == 0 || n > 1<<16 {
		return nil, invalid("bytes: want 1 to 65536")
	}
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return map[string]string{"bytes": base64.StdEncoding.EncodeToString(b)}, nil
}

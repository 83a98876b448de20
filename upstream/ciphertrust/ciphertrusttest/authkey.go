package ciphertrusttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
)

// An authKey signs JWTs.
type authKey struct {
	Type  string // hmac or ecdsa
	Curve string // p256, p384 or p521, of ecdsa
	Key   []byte // the secret, or PKCS #8
}

// jwtCurve is a curve as RFC 7518 uses it.
type jwtCurve struct {
	curve     elliptic.Curve
	algorithm string
	name      string
	hash      crypto.Hash
}

var jwtCurves = map[string]jwtCurve{
	"p256": {elliptic.P256(), "ES256", "P-256", crypto.SHA256},
	"p384": {elliptic.P384(), "ES384", "P-384", crypto.SHA384},
	"p521": {elliptic.P521(), "ES512", "P-521", crypto.SHA512},
}

func newAuthKey(kind, curve string) (*authKey, *refusal) {
	switch kind {
	case "", "hmac":
		key := make([]byte, sha256.Size)
		_, _ = rand.Read(key) // never fails
		return &authKey{Type: "hmac", Key: key}, nil
	case "ecdsa":
		if curve == "" {
			curve = "p256"
		}
		c, ok := jwtCurves[curve]
		if !ok {
			return nil, invalid("curve: want p256, p384 or p521")
		}
		pair, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			return nil, internal()
		}
		der, no := marshalKey(pair)
		if no != nil {
			return nil, no
		}
		return &authKey{Type: "ecdsa", Curve: curve, Key: der}, nil
	}
	return nil, invalid("type: want hmac or ecdsa")
}

func (k *authKey) algorithm() string {
	if k.Type == "hmac" {
		return "HS256"
	}
	return jwtCurves[k.Curve].algorithm
}

// pair is the key pair of ecdsa. It was made here, so that it can be read.
func (k *authKey) pair() *ecdsa.PrivateKey {
	key, err := x509.ParsePKCS8PrivateKey(k.Key)
	if err != nil {
		panic(err)
	}
	return key.(*ecdsa.PrivateKey)
}

func (k *authKey) hash(text string) []byte {
	h := jwtCurves[k.Curve].hash.New()
	h.Write([]byte(text))
	return h.Sum(nil)
}

// sign is the signature of a JWS.
func (k *authKey) sign(text string) []byte {
	if k.Type == "hmac" {
		m := hmac.New(sha256.New, k.Key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	r, s, err := ecdsa.Sign(rand.Reader, k.pair(), k.hash(text))
	if err != nil {
		panic(err) // the key is right and rand never fails
	}
	size := (jwtCurves[k.Curve].curve.Params().BitSize + 7) / 8
	out := make([]byte, 2*size)
	r.FillBytes(out[:size])
	s.FillBytes(out[size:])
	return out
}

func (k *authKey) verify(text string, sig []byte) bool {
	if k.Type == "hmac" {
		return hmac.Equal(sig, k.sign(text))
	}
	half := len(sig) / 2
	r, s := new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])
	return ecdsa.Verify(&k.pair().PublicKey, k.hash(text), r, s)
}

// getAuthKey is GET /auth/auth-key: what others verify JWTs with. Of an HMAC
// key there is nothing to show.
func (s *Server) getAuthKey(*call) (any, *refusal) {
	k := &s.state.AuthKey
	out := map[string]any{"type": k.Type}
	if k.Type == "hmac" {
		return out, nil
	}
	pub := &k.pair().PublicKey
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, internal()
	}
	point, err := pub.Bytes() // 4, X, Y
	if err != nil {
		return nil, internal()
	}
	half := len(point) / 2
	out["pem"] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	out["jwk"] = map[string]string{
		"kty": "EC", "crv": jwtCurves[k.Curve].name, "alg": k.algorithm(), "use": "sig",
		"x": base64.RawURLEncoding.EncodeToString(point[1 : 1+half]), "y": base64.RawURLEncoding.EncodeToString(point[1+half:]),
	}
	return out, nil
}

// rotateAuthKey is POST /auth/rotate-auth-key. The new key is used after the
// next start; JWTs of the old one are over then.
func (s *Server) rotateAuthKey(c *call) (any, *refusal) {
	var in struct {
		Type  string `json:"type"`
		Curve string `json:"curve"`
	}
	if no := c.readAny(s, &in); no != nil {
		return nil, no
	}
	next, no := newAuthKey(in.Type, in.Curve)
	if no != nil {
		return nil, no
	}
	s.state.NextKey = next
	c.changed = true
	return map[string]string{"type": next.Type}, nil
}

// promoteAuthKey puts a rotated key to use. The caller is New.
func (s *Server) promoteAuthKey() error {
	if s.state.NextKey == nil {
		return nil
	}
	s.state.AuthKey, s.state.NextKey = *s.state.NextKey, nil
	return s.save()
}

package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A testKey is a key of a testAgent with its certificate.
type testKey struct {
	mu         sync.Mutex
	key        crypto.Signer
	generation int
	issued     []*x509.Certificate // all, each its own issuer
	inHSM      bool
	changed    chan struct{}
}

// set is a rotation, or the start.
func (k *testKey) set(key crypto.Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key = key
	k.generation++
	if k.changed != nil {
		close(k.changed)
	}
	k.changed = make(chan struct{})
}

// key serves a key, its signatures and its certificate under a name.
func (a *testAgent) key(name string, inHSM bool, first crypto.Signer) *testKey {
	k := &testKey{inHSM: inHSM}
	k.set(first)
	a.mux.HandleFunc("GET /v1/keys/"+name, func(w http.ResponseWriter, _ *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		der, _ := x509.MarshalPKIXPublicKey(k.key.Public())
		json.NewEncoder(w).Encode(Key{
			Name: name, Generation: k.generation, Algorithm: "any",
			PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		})
	})
	a.mux.HandleFunc("POST /v1/keys/"+name+"/sign", k.sign)
	a.mux.HandleFunc("GET /v1/certificates/"+name, func(w http.ResponseWriter, r *http.Request) {
		for {
			k.mu.Lock()
			version, changed := fmt.Sprint(k.generation), k.changed
			if r.FormValue("wait") == "" || r.FormValue("version") != version {
				json.NewEncoder(w).Encode(k.certificate(name, version))
				k.mu.Unlock()
				return
			}
			k.mu.Unlock()
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	})
	return k
}

// sign is strict about what it is asked.
func (k *testKey) sign(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var q SignRequest
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		refuse(w, 400, "invalid", "body")
		return
	}
	opts := crypto.SignerOpts(map[string]crypto.Hash{"SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512}[q.Hash])
	data := q.Digest
	_, isRSA := k.key.(*rsa.PrivateKey)
	_, isEd := k.key.(ed25519.PrivateKey)
	switch {
	case isEd != (q.Hash == "") || isEd != (q.Message != nil) || isRSA != (q.Padding != ""):
		refuse(w, 400, "invalid", "not for this key")
		return
	case isEd:
		data = q.Message
	case q.Padding == "pss":
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
	}
	sig, err := k.key.Sign(rand.Reader, data, opts)
	if err != nil {
		refuse(w, 400, "invalid", "sign")
		return
	}
	json.NewEncoder(w).Encode(Signature{Signature: sig, Generation: k.generation})
}

// roots are what a client trusts.
func (k *testKey) roots() *x509.CertPool {
	k.mu.Lock()
	defer k.mu.Unlock()
	pool := x509.NewCertPool()
	for _, c := range k.issued {
		pool.AddCert(c)
	}
	return pool
}

// certificate is made anew each time; the caller holds mu.
func (k *testKey) certificate(name, version string) Certificate {
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(int64(k.generation)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"web.example"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.key.Public(), k.key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	k.issued = append(k.issued, cert)
	leaf := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	c := Certificate{Name: name, Version: version, Generation: k.generation, Certificate: leaf, Chain: leaf, NotAfter: tmpl.NotAfter}
	if !k.inHSM {
		der, _ := x509.MarshalPKCS8PrivateKey(k.key)
		c.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	return c
}

// ecKey and the like are new keys.
func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func edKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSigner(t *testing.T) {
	digest := sha256.Sum256([]byte("message"))
	for _, tt := range []struct {
		name   string
		key    crypto.Signer
		data   []byte
		opts   crypto.SignerOpts
		verify func(pub crypto.PublicKey, sig []byte) bool
	}{
		{"RSA PKCS #1", rsaKey(t), digest[:], crypto.SHA256, func(pub crypto.PublicKey, sig []byte) bool {
			return rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], sig) == nil
		}},
		{"RSA PSS", rsaKey(t), digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}, func(pub crypto.PublicKey, sig []byte) bool {
			return rsa.VerifyPSS(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], sig, nil) == nil
		}},
		{"ECDSA", ecKey(t), digest[:], crypto.SHA256, func(pub crypto.PublicKey, sig []byte) bool {
			return ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig)
		}},
		{"Ed25519", edKey(t), []byte("message"), crypto.Hash(0), func(pub crypto.PublicKey, sig []byte) bool {
			return ed25519.Verify(pub.(ed25519.PublicKey), []byte("message"), sig)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			a.key("host", true, tt.key)
			s, err := a.client().Signer(t.Context(), "host")
			if err != nil {
				t.Fatal(err)
			}
			sig, err := s.Sign(rand.Reader, tt.data, tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.verify(s.Public(), sig) {
				t.Error("the signature is not good")
			}
		})
	}
}

func TestSignerRefusesWhatTheAgentCannotDo(t *testing.T) {
	a := newAgent(t)
	a.key("rsa", true, rsaKey(t))
	a.key("ed", true, edKey(t))
	c := a.client()
	digest := make([]byte, 32)
	for _, tt := range []struct {
		name, key string
		data      []byte
		opts      crypto.SignerOpts
	}{
		{"a digest of the wrong length", "rsa", digest[:31], crypto.SHA256},
		{"RSA without a hash", "rsa", digest, crypto.Hash(0)},
		{"an odd salt", "rsa", digest, &rsa.PSSOptions{SaltLength: 7, Hash: crypto.SHA256}},
		{"prehashed Ed25519", "ed", make([]byte, 64), crypto.SHA512},
		{"Ed25519 with a context", "ed", digest, &ed25519.Options{Context: "x"}},
	} {
		s, err := c.Signer(t.Context(), tt.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sign(rand.Reader, tt.data, tt.opts); err == nil {
			t.Errorf("%s: no error", tt.name)
		}
	}
	if n := a.count("POST"); n != 0 {
		t.Errorf("%d requests to sign", n)
	}
}

func TestSignerOfAGenerationThatIsGone(t *testing.T) {
	a := newAgent(t)
	k := a.key("host", true, ecKey(t))
	s, err := a.client().Signer(t.Context(), "host")
	if err != nil {
		t.Fatal(err)
	}
	k.set(ecKey(t))
	if _, err := s.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, ErrRotated) {
		t.Errorf("error %v", err)
	}
}

func TestTLSConfigFollowsRotations(t *testing.T) {
	for _, inHSM := range []bool{true, false} {
		t.Run(fmt.Sprintf("in HSM %v", inHSM), func(t *testing.T) {
			a := newAgent(t)
			k := a.key("web", inHSM, ecKey(t))
			config, err := a.client().TLSConfig(t.Context(), "web")
			if err != nil {
				t.Fatal(err)
			}
			served := func() int64 {
				near, far := net.Pipe()
				defer near.Close()
				defer far.Close()
				server := tls.Server(far, config)
				go func() {
					if server.Handshake() != nil {
						far.Close()
					}
				}()
				client := tls.Client(near, &tls.Config{RootCAs: k.roots(), ServerName: "web.example"})
				if err := client.HandshakeContext(t.Context()); err != nil {
					return 0
				}
				return client.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
			}
			if n := served(); n != 1 {
				t.Fatalf("generation %d", n)
			}
			k.set(ecKey(t))
			eventually(t, "the second generation", func() bool { return served() == 2 })
			a.stop()
			a.start()
			k.set(ecKey(t))
			eventually(t, "the third generation, after a restart", func() bool { return served() == 3 })
		})
	}
}

func TestACertificateWithAnotherKeyIsNotUsed(t *testing.T) {
	good := &testKey{key: ecKey(t), generation: 1}
	cert := good.certificate("web", "1")
	good.key = ecKey(t)
	cert.Key = good.certificate("web", "1").Key
	if _, err := cert.tls(nil); err == nil {
		t.Error("no error")
	}
}

package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/upstream/senhasegura/senhaseguratest"
)

// setPassword changes the password of the credential, in the vault alone: the
// agent does not know.
func (h *runningHost) setPassword(password string) {
	h.Helper()
	change := senhaseguratest.CredentialChange{Password: &password}
	if err := (controller{filepath.Join(h.dir, "sim")}).call(h.Context(), "PUT", "/senhasegura/credentials/robot-test-5", change, nil); err != nil {
		h.Fatal(err)
	}
}

// current is the credential as the agent has it.
func (h *runningHost) current() *client.Secret {
	h.Helper()
	s, err := h.client.ReadSecret(h.Context(), "db")
	if err != nil {
		h.Fatal(err)
	}
	return s
}

// renewed sets another password and has the agent find that out, as an app does
// that was refused.
func (h *runningHost) renewed(c *client.Client, password string) *client.Secret {
	h.Helper()
	old := h.current()
	h.setPassword(password)
	s, err := c.Refused(h.Context(), "db", old.Version)
	if err != nil || s.Version == old.Version || s.Fields["password"] != password {
		h.Fatalf("after a report: %v, %v", s, err)
	}
	return s
}

// The client package against the real agent: all that an app does, before,
// while and after the agent is killed.
func TestClientOfARealAgent(t *testing.T) {
	h := startHost(t, filepath.Join(shm(t), "run"), "--rotate", "1h", "--life", "10m", "--new-key", "0")
	c := &client.Client{Socket: h.client.Socket, Patience: 10 * time.Second}
	defer c.Close()
	ctx := t.Context()

	first, err := c.Secret(ctx, "db")
	if err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(ctx)
	seen := watch(watching, c, first.Version)
	signer, err := c.Signer(ctx, "host")
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.TLSConfig(ctx, "host")
	if err != nil {
		t.Fatal(err)
	}
	server := newMTLSServer(h)
	tokens := c.TokenSource(ctx, "pam")
	works := func(when string) {
		t.Helper()
		digest := sha256.Sum256([]byte(when))
		sig, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err == nil {
			err = rsa.VerifyPKCS1v15(signer.Public().(*rsa.PublicKey), crypto.SHA256, digest[:], sig)
		}
		if err != nil {
			t.Errorf("%s: sign: %v", when, err)
		}
		if _, err := server.handshake(config); err != nil {
			t.Errorf("%s: handshake: %v", when, err)
		}
		if tok, err := tokens.Token(); err != nil || tok.AccessToken == "" || !tok.Valid() {
			t.Errorf("%s: token: %v", when, err)
		}
	}
	works("at first")

	// A report brings the new password at once, to the copy and to the watch.
	second := h.renewed(c, "Secret#2")
	if s, err := c.Secret(ctx, "db"); err != nil || s.Version != second.Version {
		t.Errorf("copy after a report: %v, %v", s, err)
	}
	if got := <-seen; got != second.Version {
		t.Errorf("the watch yields %s, want %s", got, second.Version)
	}

	// The agent is killed, and comes back: the copy is there all the time.
	for range 2 {
		kill(h, "signet")
		reads := 0
		h.until("the agent's return", 30*time.Second, func() bool {
			for range 1000 {
				if s, err := c.Secret(ctx, "db"); err != nil || s.Version != second.Version {
					t.Fatalf("while the agent is away: %v, %v", s, err)
				}
				reads++
			}
			return h.client.Ready(ctx) == nil
		})
		works(fmt.Sprintf("after a kill, and %d reads", reads))
	}
	third := h.renewed(c, "Secret#3")
	if got := <-seen; got != third.Version {
		t.Errorf("the watch yields %s after a kill, want %s", got, third.Version)
	}
	stop()

	// A rotation of the key: each handshake works, and at last with the new one.
	before, err := server.handshake(config)
	if err != nil {
		t.Fatal(err)
	}
	rotated := make(chan error, 1)
	go func() { rotated <- c.Rotate(ctx, "host", false) }()
	h.until("a handshake with the new key", 60*time.Second, func() bool {
		leaf, err := server.handshake(config)
		if err != nil {
			t.Errorf("during a rotation: %v", err)
		}
		return leaf != nil && !leaf.PublicKey.(*rsa.PublicKey).Equal(before.PublicKey)
	})
	if err := <-rotated; err != nil {
		t.Error(err)
	}
	works("after a rotation, in the old key's time of grace")
	h.stop()
}

// A thousand watchers each see a change once and in order, with the agent killed
// in between.
func TestAThousandWatchers(t *testing.T) {
	h := startHost(t, filepath.Join(shm(t), "run"), "--rotate", "1h", "--life", "10m", "--new-key", "0")
	c := &client.Client{Socket: h.client.Socket, Patience: 10 * time.Second}
	defer c.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const watchers = 1000
	start := h.current().Version
	var mu sync.Mutex
	got := make([][]string, watchers)
	arrived := map[string]int{}
	for i := range watchers {
		seen := watch(ctx, c, start)
		go func() {
			for version := range seen {
				mu.Lock()
				got[i] = append(got[i], version)
				arrived[version]++
				mu.Unlock()
			}
		}()
	}
	var want []string
	for i := range 3 {
		if i == 2 {
			kill(h, "signet")
			h.works("kill")
		}
		s := h.renewed(c, fmt.Sprintf("Secret#%d", i))
		want = append(want, s.Version)
		began := time.Now()
		h.until("arrival of the change everywhere", 60*time.Second, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return arrived[s.Version] >= watchers
		})
		t.Logf("change %d reached all in %v", i+1, time.Since(began).Round(time.Millisecond))
	}
	mu.Lock()
	defer mu.Unlock()
	for i, versions := range got {
		if !slices.Equal(versions, want) {
			t.Errorf("watcher %d saw %v, want %v", i, versions, want)
		}
	}
	stop()
	h.stop()
}

// watch yields the versions of the credential after since, or an error's text.
func watch(ctx context.Context, c *client.Client, since string) <-chan string {
	seen := make(chan string, 16)
	go func() {
		defer close(seen)
		for s, err := range c.Watch(ctx, "db", since) {
			if err != nil {
				seen <- err.Error()
				continue
			}
			seen <- s.Version
		}
	}()
	return seen
}

// kill kills a process of the host.
func kill(h *runningHost, name string) {
	h.Helper()
	pids := h.processes()[name]
	if len(pids) != 1 {
		h.Fatalf("processes %s: %v", name, pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		h.Fatal(err)
	}
}

// An mtlsServer asks for client certificates of the Manager's CA.
type mtlsServer struct {
	config *tls.Config
	roots  *x509.CertPool
}

func newMTLSServer(h *runningHost) *mtlsServer {
	h.Helper()
	blob, err := os.ReadFile(filepath.Join(h.dir, "sim", "manager-ca.pem"))
	if err != nil {
		h.Fatal(err)
	}
	clients, servers := x509.NewCertPool(), x509.NewCertPool()
	if !clients.AppendCertsFromPEM(blob) {
		h.Fatal("no CA")
	}
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	servers.AddCert(web.Certificate())
	return &mtlsServer{
		config: &tls.Config{Certificates: web.TLS.Certificates, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12},
		roots:  servers,
	}
}

// handshake has a client with this configuration present its certificate.
func (s *mtlsServer) handshake(config *tls.Config) (*x509.Certificate, error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	config = config.Clone()
	config.RootCAs, config.ServerName = s.roots, "example.com"
	called := make(chan error, 1)
	go func() {
		conn := tls.Client(a, config)
		if err := conn.Handshake(); err != nil {
			called <- err
			return
		}
		_, err := conn.Read(make([]byte, 1)) // what the server thinks of it
		called <- err
	}()
	conn := tls.Server(b, s.config)
	err := conn.Handshake()
	if err == nil {
		_, err = conn.Write([]byte{1})
	}
	if err := errors.Join(err, <-called); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

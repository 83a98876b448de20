package consumers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/sinks"
)

// served is a TLS server whose certificate can be exchanged.
type served struct {
	address string
	config  atomic.Pointer[tls.Config]
	turns   []*tls.Config // if any, they serve in turns
	n       atomic.Int64
}

func serve(t *testing.T, configs ...*tls.Config) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &served{address: l.Addr().String(), turns: configs}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := s.n.Add(1)
			cfg := s.turns[int(n)%len(s.turns)]
			if anew := s.config.Load(); anew != nil {
				cfg = anew
			}
			go func() {
				defer c.Close()
				_ = tls.Server(c, cfg).Handshake() // the client judges
			}()
		}
	}()
	return s
}

func config(t *testing.T, c *sinks.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{pair(t, c)}}
}

func never() bool { return false }

func TestProofComparesTheLeaf(t *testing.T) {
	ca := newCA(t)
	first, second := ca.issue(t, "web.example"), ca.issue(t, "web.example")
	s := serve(t, config(t, first))
	p := Proof{Address: s.address, ServerName: "web.example", Within: 300 * time.Millisecond}
	if err := p.make(t.Context(), first.Chain[:1], never); err != nil {
		t.Errorf("the delivered certificate: %v", err)
	}
	// Of the same CA, and for the same name, and nevertheless not the new one.
	err := p.make(t.Context(), second.Chain[:1], never)
	if err == nil || !strings.Contains(err.Error(), "serves serial "+first.Serial+" and not "+second.Serial) || !strings.Contains(err.Error(), "not within 300ms") {
		t.Errorf("the old certificate: %v", err)
	}
	s.config.Store(config(t, second))
	if err := p.make(t.Context(), second.Chain[:1], never); err != nil {
		t.Errorf("after the exchange: %v", err)
	}
}

// A consumer that takes a while is given the time.
func TestProofWaitsForTheConsumer(t *testing.T) {
	ca := newCA(t)
	first, second := ca.issue(t, "web.example"), ca.issue(t, "web.example")
	s := serve(t, config(t, first))
	timer := time.AfterFunc(300*time.Millisecond, func() { s.config.Store(config(t, second)) })
	defer timer.Stop()
	p := Proof{Address: s.address, ServerName: "web.example", Within: 10 * time.Second}
	if err := p.make(t.Context(), second.Chain[:1], never); err != nil {
		t.Error(err)
	}
}

// One worker of two still serves the old certificate.
func TestProofOverSeveralConnections(t *testing.T) {
	ca := newCA(t)
	first, second := ca.issue(t, "web.example"), ca.issue(t, "web.example")
	s := serve(t, config(t, first), config(t, second))
	p := Proof{Address: s.address, ServerName: "web.example", Within: 500 * time.Millisecond, Connections: 4}
	if err := p.make(t.Context(), second.Chain[:1], never); err == nil {
		t.Error("proven although every other connection shows the old certificate")
	}
	p.Connections = 1
	if err := p.make(t.Context(), second.Chain[:1], never); err != nil {
		t.Error(err)
	}
}

// A certificate that is served and that clients refuse is no proof, and waiting
// does not make it one.
func TestProofOfAWrongName(t *testing.T) {
	c := newCA(t).issue(t, "web.example")
	s := serve(t, config(t, c))
	p := Proof{Address: s.address, ServerName: "other.example", Within: time.Minute}
	err := p.make(t.Context(), c.Chain[:1], never)
	h, ok := errors.AsType[*hinted](err)
	if !errors.Is(err, errUseless) || !ok || h.Hint() == "" || !strings.Contains(err.Error(), "other.example") {
		t.Errorf("error %v", err)
	}
	p.ServerName = "" // the address is in the certificate
	if err := p.make(t.Context(), c.Chain[:1], never); err != nil {
		t.Error(err)
	}
}

// Of a set with several certificates the one for the name is looked for, wherever
// among them it is. That another one of them is served for it is no proof.
func TestProofOfOneOfSeveral(t *testing.T) {
	ca := newCA(t)
	other, before, after := ca.issue(t, "other.example"), ca.issue(t, "web.example"), ca.issue(t, "web.example")
	leaves := [][]byte{other.Chain[0], after.Chain[0]}
	for _, tt := range []struct {
		serves *sinks.Certificate
		want   string
	}{{after, ""}, {before, "serves serial " + before.Serial + " and not " + after.Serial}, {other, "serves serial " + other.Serial + " and not " + after.Serial}} {
		s := serve(t, config(t, tt.serves))
		p := Proof{Address: s.address, ServerName: "web.example", Within: 300 * time.Millisecond}
		if err := p.make(t.Context(), leaves, never); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("serves %s: error %v, want %q", tt.serves.Serial, err, tt.want)
		}
	}
	// Two for one name, such as one of each kind of key: either may be served.
	s := serve(t, config(t, after))
	p := Proof{Address: s.address, ServerName: "web.example", Within: 300 * time.Millisecond}
	if err := p.make(t.Context(), [][]byte{before.Chain[0], after.Chain[0]}, never); err != nil {
		t.Error(err)
	}
}

// A server that wants a client certificate has shown its own by then.
func TestProofWithoutAClientCertificate(t *testing.T) {
	c := newCA(t).issue(t, "web.example")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := config(t, c)
		cfg.ClientAuth, cfg.MaxVersion = tls.RequireAnyClientCert, version
		s := serve(t, cfg)
		p := Proof{Address: s.address, ServerName: "web.example", Within: time.Second}
		if err := p.make(t.Context(), c.Chain[:1], never); err != nil {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

func TestProofOfADeadConsumer(t *testing.T) {
	c := newCA(t).issue(t, "web.example")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	p := Proof{Address: address, ServerName: "web.example", Within: 300 * time.Millisecond}
	err = p.make(t.Context(), c.Chain[:1], never)
	if h, ok := errors.AsType[*hinted](err); !ok || h.Hint() == "" || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v", err)
	}
	// One that accepts and then says nothing must not hold the others up.
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, protocol := range []string{"", "postgres", "smtp", "imap"} {
		p := Proof{Address: l.Addr().String(), StartTLS: protocol, ServerName: "web.example", Within: 300 * time.Millisecond}
		began := time.Now()
		if err := p.make(t.Context(), c.Chain[:1], never); err == nil || time.Since(began) > 3*time.Second {
			t.Errorf("%q: after %v: %v", protocol, time.Since(began), err)
		}
	}
}

// What a crash has left to do is proven as well, even if it was too much to be
// written down: by what the files have found to be in place.
func TestWhatACrashHasLeftIsProven(t *testing.T) {
	c := newCA(t).issue(t, "web.example")
	s := serve(t, config(t, c))
	for _, targets := range []int{1, manyTargets + 10} {
		store, dir := newStore(), tempDir(t)
		app := Consumer{Name: "app"}
		var noted []Change
		for i := range targets {
			path := filepath.Join(dir, strconv.Itoa(i))
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			app.Targets = append(app.Targets, Target{Path: path, Way: wayFunc{"way", func(context.Context) error { return nil }},
				Proof: Proof{Address: s.address, ServerName: "web.example", Within: 2 * time.Second}})
			noted = append(noted, Change{Target: path, Generation: 7, Leaves: c.Chain[:1]})
		}
		cs, err := New(Config{Consumers: []Consumer{app}, Store: store, Files: newFiles()})
		if err != nil {
			t.Fatal(err)
		}
		if err := cs.Writing(noted); err != nil { // and there it dies
			t.Fatal(err)
		}
		files := newFiles()
		r := start(t, store, files, app)
		published := time.AfterFunc(200*time.Millisecond, func() {
			files.mu.Lock()
			defer files.mu.Unlock()
			files.leaves[app.Targets[0].Path] = c.Chain[:1]
		})
		defer published.Stop()
		eventually(t, 5*time.Second, "the reload", func() bool { return !store.pending(t, "app") })
		if r.Status()[0].ProvenAt.IsZero() {
			t.Errorf("%d targets: not proven", targets)
		}
		r.halt()
	}
}

// A reload does not wait for ever for a proof that nobody can make, such as where
// the token of the host is away, and that it was not made is said.
func TestAProofThatCannotBeMadeIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		var n atomic.Int64
		app := counting("app", &n, nil, "/f/a")
		app.Targets[0].Proof = Proof{Address: "127.0.0.1:1"}
		cs, err := New(Config{Consumers: []Consumer{app}, Store: store, Files: newFiles()})
		if err != nil {
			t.Fatal(err)
		}
		if err := cs.Writing([]Change{{Target: "/f/a", Generation: 7}}); err != nil {
			t.Fatal(err)
		}
		r := start(t, store, newFiles(), app)
		time.Sleep(longestBurst + time.Second)
		synctest.Wait()
		if n.Load() != 1 || store.pending(t, "app") || !r.Status()[0].ProvenAt.IsZero() {
			t.Errorf("%d reloads, %+v", n.Load(), r.Status()[0])
		}
		r.halt()
		if text := r.log.String(); !strings.Contains(text, "not proven") {
			t.Errorf("said:\n%s", text)
		}
	})
}

// A serial number is shown as the agent and openssl show it.
func TestASerialNumberIsWholeBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "00", 7: "07", 0x7f: "7f", 0xabc: "0abc"} {
		if got := serialOf(&x509.Certificate{SerialNumber: big.NewInt(n)}); got != want {
			t.Errorf("%#x is shown as %q, want %q", n, got, want)
		}
	}
}

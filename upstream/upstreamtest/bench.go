package upstreamtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// A Bench is the clock, the faults and the log of one simulator. The zero Bench
// shows the real time, makes no mistakes, and has seen no calls.
type Bench struct {
	Clock  Clock
	Faults Faults
	Log    Log
}

// Wrap returns a simulator's handler as its callers see it: through the faults,
// each call logged.
func (b *Bench) Wrap(h http.Handler) http.Handler {
	return b.Log.wrap(&b.Clock, b.Faults.Wrap(h))
}

// Serve answers TLS connections with Wrap(h) until ctx is done, and closes ln.
// It shows a certificate of ca for loopback, and asks for a client certificate
// without demanding or checking one: that is left to h, as in products where
// both ways of logging in share a port.
func (b *Bench) Serve(ctx context.Context, ln net.Listener, ca *CA, h http.Handler) error {
	cfg, err := b.TLS(ca)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	srv := &http.Server{
		Handler:           b.Wrap(h),
		ReadHeaderTimeout: 10 * time.Second,
		// A client that refuses the certificate is a fault being rehearsed, not
		// news for the simulator's standard error.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err = srv.Serve(tls.NewListener(ln, cfg))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// TLS is the server's side of TLS: certificates of ca for loopback, except
// while FaultWrongCA is on. HTTP/2 is left out, so that a dropped connection is
// a dropped connection.
func (b *Bench) TLS(ca *CA) (*tls.Config, error) {
	right, err := ca.Server()
	if err != nil {
		return nil, err
	}
	stranger, err := NewCA(CAConfig{Subject: ca.Certificate.Subject})
	if err != nil {
		return nil, err
	}
	wrong, err := stranger.Server()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"http/1.1"},
		// Without tickets each connection shows its certificate anew.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if b.Faults.wrongCA() {
				return wrong, nil
			}
			return right, nil
		},
	}, nil
}

// A TB is what Start needs of a testing.TB.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start serves h on loopback until the test ends, and returns the URL.
func (b *Bench) Start(t TB, ca *CA, h http.Handler) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	b.run(t, ln, ca, h)
	return "https://" + ln.Addr().String()
}

// StartPipe serves h on a Pipe until the test ends, for tests in a bubble of
// testing/synctest. The client's URL has to name localhost or 127.0.0.1.
func (b *Bench) StartPipe(t TB, ca *CA, h http.Handler) *Pipe {
	t.Helper()
	p := NewPipe()
	b.run(t, p, ca, h)
	return p
}

func (b *Bench) run(t TB, ln net.Listener, ca *CA, h http.Handler) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, ln, ca, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("%v", err)
		}
	})
}

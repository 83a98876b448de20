package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
	"github.com/signet-agent/signet/upstream/manager/managertest"
	"github.com/signet-agent/signet/upstream/senhasegura/senhaseguratest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// settings are what `serve` is told.
type settings struct {
	dir                  string
	manager, senhasegura string // addresses; "" means the last one, or any
	cipherTrust          string // likewise
	rotate, tokenLife    time.Duration
	anyCaller            bool
}

func serveCommand(dir *string) *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the simulators until SIGTERM",
		Long: `serve serves the simulators over TLS on loopback, until SIGTERM or SIGINT. Once
they can be called it prints one line that starts with "ready".

In the directory are then
    endpoints.json              URLs, ids and the names of the files below
    ca.pem                      CA of senhasegura's server certificate
    manager-ca.pem              CA of the Manager's server certificate and of the client certificates
    one-time.json               user name and password to register the account with, once
    senhasegura-client-secret   secret of the access key
    manager-admin-password      password of the Manager's user admin
    ciphertrust-ca.pem          root CA of the CipherTrust Manager, and of its server certificate
    ciphertrust-admin-password  password of its user admin
    ciphertrust-password        password of its user signet
    control.sock                what the other commands talk to

A simulator that was killed comes back with the same CAs, accounts, access key
and passwords, and on the same ports if they are free.`,
		RunE: func(c *cobra.Command, _ []string) error {
			s.dir = *dir
			return s.serve(c.Context(), c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&s.manager, "manager", "", "loopback `address` of the Manager, such as 127.0.0.1:8443")
	f.StringVar(&s.senhasegura, "senhasegura", "", "loopback `address` of senhasegura")
	f.StringVar(&s.cipherTrust, "ciphertrust", "", "loopback `address` of the CipherTrust Manager")
	f.DurationVar(&s.rotate, "rotate", 0, "how often senhasegura changes the password of robot-test-5; 0 leaves it as it was")
	f.DurationVar(&s.tokenLife, "token-life", 0, "how long senhasegura's access tokens live; 0 leaves it as it was, at first 1h")
	f.BoolVar(&s.anyCaller, "any-caller", false, "let senhasegura be called without a client certificate of the Manager's CA")
	return c
}

// serve runs everything until ctx is done or a part of it fails.
func (s settings) serve(ctx context.Context, out io.Writer) error {
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	s.dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()

	e, err := s.setup()
	if err != nil {
		return err
	}
	control, err := listenControl(filepath.Join(dir, controlName))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"manager", func(ctx context.Context) error { return e.manager.Serve(ctx, e.managerListener) }},
		{"senhasegura", func(ctx context.Context) error {
			return e.senhasegura.Serve(ctx, e.senhaseguraListener, e.ca, e.senhasegura)
		}},
		{"ciphertrust", func(ctx context.Context) error { return e.cipherTrust.Serve(ctx, e.cipherTrustListener) }},
		{"control", func(ctx context.Context) error { return serveControl(ctx, control, e.control()) }},
	} {
		g.Go(func() error {
			err := part.run(ctx)
			if ctx.Err() != nil {
				return nil // asked to stop
			}
			return fmt.Errorf("%s: ended of itself: %w", part.name, err)
		})
	}
	fmt.Fprintf(out, "ready manager=%s senhasegura=%s ciphertrust=%s dir=%s\n",
		e.files.Manager.URL, e.files.Senhasegura.URL, e.files.CipherTrust.URL, dir)
	return g.Wait()
}

// lockDir makes sure that one signet-sim at a time uses dir. The kernel drops
// the lock of a process that is killed.
func lockDir(dir string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: another signet-sim serves it; stop that one, or give another --dir", dir), f.Close())
	}
	return f, nil
}

// listen listens on address; without one on the address of the last time, if
// that is free, else on any.
func listen(address, lastURL string) (net.Listener, error) {
	if address != "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, usageError{fmt.Errorf("address %q: want host:port", address)}
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, usageError{fmt.Errorf("address %q: want one on loopback, such as 127.0.0.1:8443", address)}
		}
		return net.Listen("tcp", address)
	}
	if u, err := url.Parse(lastURL); err == nil && u.Port() != "" {
		if ln, err := net.Listen("tcp", u.Host); err == nil {
			return ln, nil
		}
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// listenControl listens on the control socket. Whoever served it before is gone:
// the directory is locked.
func listenControl(path string) (net.Listener, error) {
	if len(path) > 107 {
		return nil, fmt.Errorf("%s: too long for the name of a socket (107 bytes); give a shorter --dir", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The directory keeps others out already; this is for the reader of ls -l.
	return ln, os.Chmod(path, 0o600)
}

// serveControl answers on the control socket until ctx is done.
func serveControl(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	return srv.Serve(ln)
}

// control puts the control handlers of all simulators on one socket.
func (e *bench) control() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/manager/", http.StripPrefix("/manager", e.manager.Control()))
	mux.Handle("/senhasegura/", http.StripPrefix("/senhasegura", e.senhasegura.Control()))
	mux.Handle("/ciphertrust/", http.StripPrefix("/ciphertrust", e.cipherTrust.Control()))
	return mux
}

// A bench is all simulators, set up and listening.
type bench struct {
	manager             *managertest.Server
	managerListener     net.Listener
	senhasegura         *senhaseguratest.Server
	senhaseguraListener net.Listener
	cipherTrust         *ciphertrusttest.Server
	cipherTrustListener net.Listener
	ca                  *upstreamtest.CA
	files               endpoints
}

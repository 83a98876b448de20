package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/signet-agent/signet/client"
)

// A host is a throwaway host: a token, simulators and an agent, each a process
// of its own, under one directory.
type host struct {
	dir    string // absolute
	bin    string // where signet and signet-hsm are
	module string
	rotate time.Duration // of the credential
	life   time.Duration // of the client certificate
	newKey time.Duration // when the client key is rotated; 0 is never
	out    *lines
	client *client.Client
	reads  atomic.Int64
	failed atomic.Int64
}

// hostCommand is `signet-sim host`.
func hostCommand(dir *string) *cobra.Command {
	h := &host{}
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Bring a whole throwaway host up and show it working, until Ctrl-C",
		Long: `Bring up, each as a process of its own: a SoftHSM token, the simulators, and an
agent that enrols itself, keeps an access token and a credential fresh, renews
its client certificate and rotates its key. Whatever dies is started again.
Everything is under --dir, which is made anew; nothing else of this machine is
touched.

In the directory are then signet.yaml, signet.sock, files/ with what the agent
delivers, log/ with what it says, and sim/ as signet-sim serve has it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h.dir, h.out = *dir, &lines{w: cmd.OutOrStdout()}
			return h.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&h.module, "module", "/usr/lib/softhsm/libsofthsm2.so", "the PKCS#11 library")
	f.DurationVar(&h.rotate, "rotate", 20*time.Second, "how often the vault changes the password")
	f.DurationVar(&h.life, "life", 2*time.Minute, "how long a client certificate lives")
	f.DurationVar(&h.newKey, "new-key", 45*time.Second, "when the client key is rotated; 0 is never")
	return cmd
}

// run brings the host up, stays until ctx is done, and takes it down.
func (h *host) run(ctx context.Context) error {
	// Children die with the thread that started them; this keeps it alive.
	runtime.LockOSThread()
	if err := h.find(); err != nil {
		return err
	}
	unlock, err := h.claim()
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.prepare(ctx); err != nil {
		return err
	}
	h.client = &client.Client{Socket: h.path("signet.sock"), Patience: time.Second}
	defer h.client.Close()

	// Children are started by this goroutine alone; see above.
	sim := h.child("signet-sim", h.self(), "serve", "--dir", h.path("sim"), "--rotate", h.rotate.String())
	agent := h.child("signet", filepath.Join(h.bin, "signet"), "run", "--config", h.path("signet.yaml"))
	defer func() {
		agent.stop()
		sim.stop()
		h.out.line("stopped; %d reads of the credential, %d failed", h.reads.Load(), h.failed.Load())
	}()
	if err := sim.start(); err != nil {
		return err
	}
	if err := h.await(ctx, sim, h.path("sim", endpointsName)); err != nil {
		return quiet(ctx, err)
	}
	if err := h.configure(); err != nil {
		return err
	}
	if err := agent.start(); err != nil {
		return err
	}
	watch, stop := context.WithCancel(ctx)
	g, watch := errgroup.WithContext(watch)
	g.Go(func() error { return h.follow(watch) })
	if err := h.awaitReady(ctx, agent, sim); err != nil {
		stop()
		return quiet(ctx, errors.Join(err, g.Wait()))
	}
	h.greet()
	g.Go(func() error { return h.read(watch) })
	g.Go(func() error { return h.replaceKey(watch) })
	err = h.supervise(ctx, agent, sim)
	stop()
	return quiet(ctx, errors.Join(err, g.Wait()))
}

// quiet is no error where the host was asked to stop.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (h *host) path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

func (h *host) self() string { return filepath.Join(h.bin, "signet-sim") }

// find makes the paths absolute and sees that everything is there.
func (h *host) find() (err error) {
	if h.dir, err = filepath.Abs(h.dir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	h.bin = filepath.Dir(self)
	for path, why := range map[string]string{
		h.module:                           "install the package softhsm2, or name another with --module",
		filepath.Join(h.bin, "signet"):     "run make build",
		filepath.Join(h.bin, "signet-hsm"): "run make build",
	} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w; %s", err, why)
		}
	}
	if len(h.path("signet.sock")) > 100 {
		return fmt.Errorf("%s: too long a path for a socket; name a shorter one with --dir", h.dir)
	}
	return nil
}

// claim sees that nobody else runs a host in the directory. What an earlier one
// left there that was killed is none: its children died with it.
func (h *host) claim() (unlock func(), err error) {
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(h.path("lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(5 * time.Second)
	for syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		if time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("%s: another host runs here; stop it with Ctrl-C, or name another directory with --dir", h.dir)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return func() { f.Close() }, nil
}

// await waits until a file is there that the child makes when it is ready.
func (h *host) await(ctx context.Context, c *child, path string) error {
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-c.ended:
			return fmt.Errorf("%s ended before it was ready: %w; see %s", c.name, c.err, c.log)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitReady waits until the agent is ready.
func (h *host) awaitReady(ctx context.Context, agent, sim *child) error {
	for {
		if h.client.Ready(ctx) == nil {
			if _, err := h.client.ReadSecret(ctx, "db"); err == nil {
				return nil
			}
		}
		select {
		case <-agent.ended:
			return fmt.Errorf("signet ended before it was ready: %w; see %s", agent.err, agent.log)
		case <-sim.ended:
			return fmt.Errorf("signet-sim ended: %w; see %s", sim.err, sim.log)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// supervise starts what dies again, until ctx is done.
func (h *host) supervise(ctx context.Context, children ...*child) error {
	for {
		for _, c := range children {
			select {
			case <-c.ended:
				if ctx.Err() != nil {
					return nil
				}
				h.out.line("%s ended (%v), started again", c.name, c.err)
				if err := c.start(); err != nil {
					return err
				}
			default:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// lines writes whole lines from several goroutines.
type lines struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (l *lines) line(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

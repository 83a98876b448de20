package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/agent"
	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/systemd"
)

// newRun is `signet run`.
func newRun(p *program) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Run the agent until SIGTERM. The configuration is checked whole before anything
starts. SIGHUP reads it again: one that is in order replaces the running one,
one that is not changes nothing and is told in the log.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hurry()
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			if err := harden(); err != nil {
				return err
			}
			return keepRunning(cmd.Context(), p, file, cfg)
		},
	}
	configFlag(cmd, &file)
	return cmd
}

// harden keeps the memory of this process from others: no core dump, and no
// debugger but root's.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	return os.NewSyscallError("setrlimit RLIMIT_CORE", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}

// keepRunning runs the agent until ctx is done or it fails. At each SIGHUP it loads
// the configuration again: one that is in order replaces the running agent by
// stopping it and starting anew; there is no other way to change it.
func keepRunning(ctx context.Context, p *program, file string, cfg *config.Config) error {
	var level slog.Level
	if cfg.Log.Level != "" {
		if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
			return err
		}
	}
	log := slog.New(systemd.NewLogHandler(p.stderr, systemd.LogOptions{Level: level, Format: cfg.Log.Format}))
	opt := agent.Options{Log: log, Version: versionText(), Notifier: systemd.NewNotifier(log), Settled: saveMemory}
	given, held, err := systemd.Listeners()
	if err != nil {
		return err
	}
	// Said first of all: what is said later must not look alive.
	defer context.AfterFunc(ctx, opt.Notifier.Stopping)()

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for ctx.Err() == nil {
		var next *config.Config
		rctx, stop := context.WithCancel(ctx)
		if opt.Listener, err = again(given[systemd.SocketName]); err != nil {
			stop()
			return err
		}
		if opt.Credentials, err = again(given[systemd.CredentialsSocketName]); err != nil {
			stop()
			return err
		}
		opt.Held, held = held, nil // they are answered once
		opt.Refreshes = refreshes(ctx, cfg, log)
		done := make(chan error, 1)
		go func(cfg *config.Config) { done <- agent.Run(rctx, cfg, opt) }(cfg) // which nobody else keeps
		for next == nil {
			select {
			case err := <-done:
				stop()
				return err
			case <-hup:
				opt.Notifier.Reloading()
				if next, err = loadConfig(file); err != nil {
					log.Error("configuration not reloaded; the one before stays", "err", err)
					opt.Notifier.Ready()
				}
			}
		}
		stop()
		if err := <-done; err != nil {
			return err
		}
		cfg = next
	}
	return nil
}

// refreshes is how units are asked whether they take new credentials at a
// reload; nil if none does on this host, or if that cannot be told.
func refreshes(ctx context.Context, cfg *config.Config, log *slog.Logger) func(ctx context.Context, unit string) (bool, error) {
	if cfg.CredentialsSocket.Path == "" {
		return nil
	}
	can, err := systemd.CanRefresh(ctx)
	if err != nil {
		log.Warn("no unit is told of new credentials", "err", err,
			"hint", "once the system bus answers: systemctl reload signet; units that have older ones by then are told")
	}
	if !can {
		return nil
	}
	return systemd.Refreshes
}

// again is a listener that systemd made, once more: the agent closes its own
// when it stops, and a reload needs another.
func again(ln net.Listener) (net.Listener, error) {
	u, ok := ln.(*net.UnixListener)
	if !ok {
		return nil, nil
	}
	f, err := u.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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
one that is not changes nothing and is told in the log. If the agent cannot start
with the new one after all, the one before is gone back to.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hurry()
			c, err := loadSetup(file)
			if err != nil {
				return err
			}
			if err := harden(); err != nil {
				return err
			}
			return keepRunning(cmd.Context(), p, c)
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

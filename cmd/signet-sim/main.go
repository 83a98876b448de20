// Command signet-sim serves simulators of the upstreams, for `make run`,
// rehearsals and tests, and lets an operator break them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// A usageError is a command line that cannot be meant.
type usageError struct{ error }

// run carries out one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "signet-sim: "+err.Error())
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintln(stderr, "signet-sim: hint: signet-sim help shows all commands")
		return exitUsage
	}
	return exitFailed
}

// command is the whole command line.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "signet-sim",
		Short: "Simulated upstreams: a Manager with locked vaults, senhasegura, CipherTrust Manager",
		Long: `signet-sim serves simulators of the systems that Signet gets certificates and
secrets from. They are strict: what the real product refuses, they refuse.

    signet-sim serve --dir sim &                       serve them on loopback
    signet-sim fault add senhasegura status --status 502 --count 3
    signet-sim clock --advance 1h
    signet-sim log senhasegura

All commands but serve talk to the simulators that serve has started for the
same directory.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	var dir string
	root.PersistentFlags().StringVar(&dir, "dir", "signet-sim", "directory that holds the state and the control socket")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		hostCommand(&dir), serveCommand(&dir), faultCommand(&dir), clockCommand(&dir), logCommand(&dir),
		accountCommand(&dir), credentialCommand(&dir), authorizationCommand(&dir), cipherTrustCommand(&dir),
	)
	needsCommand(root)
	return root
}

// needsCommand makes a command without a verb a usage error instead of help
// with status 0, for it and all below it.
func needsCommand(c *cobra.Command) {
	for _, sub := range c.Commands() {
		needsCommand(sub)
	}
	if c.RunE == nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("%s: which command?", c.CommandPath())}
			}
			return usageError{fmt.Errorf("%s: no command %q", c.CommandPath(), args[0])}
		}
		c.Args = cobra.ArbitraryArgs
		return
	}
	check := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		if check == nil {
			check = cobra.NoArgs
		}
		if err := check(c, args); err != nil {
			return usageError{fmt.Errorf("%s: %w; usage: %s", c.CommandPath(), err, c.UseLine())}
		}
		return nil
	}
}

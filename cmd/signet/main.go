// Command signet keeps a host's keys, certificates and secrets fresh, and is the
// tool to speak with the agent that does so.
//
// A command is one call and an exit status: what it does is in packages agent
// and client.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/signet-agent/signet/client"
)

func main() {
	os.Exit(signet(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// signet is main without the process. It returns the exit status.
func signet(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(p)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !p.begun && status(err) != exitUsage {
		err = &usageError{err: err}
	}
	report(stderr, err)
	return status(err)
}

// A program is what all commands share.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	socket         string // --socket
	begun          bool   // the command line made sense so far
}

// agent is a client of the agent that the command line names.
func (p *program) agent() *client.Client { return &client.Client{Socket: p.socket} }

// terminal reports whether stream is one, and its descriptor.
func terminal(stream any) (int, bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return 0, false
	}
	return int(f.Fd()), term.IsTerminal(int(f.Fd()))
}

// The groups under which `signet help` lists the commands.
const (
	groupUse     = "use"
	groupOperate = "operate"
	groupHost    = "host"

	groupUpstream = "upstream"
)

// newRoot is the whole command line.
func newRoot(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:   "signet",
		Short: "Keep a host's keys, certificates and secrets fresh",
		Long: `Signet is a host agent. It keeps private keys in an HSM, access tokens and
certificates fresh, and secrets cached exactly as long as they are true; local
programs read them from files, a Unix socket, or systemd credentials.

Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 refused by
policy, 4 not found, 5 unavailable (agent, upstream or HSM), 6 expired.`,
		Args:                       cobra.ArbitraryArgs,
		RunE:                       unknownCommand,
		PersistentPreRun:           func(*cobra.Command, []string) { p.begun = true },
		SilenceErrors:              true,
		SilenceUsage:               true,
		DisableAutoGenTag:          true,
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, "%w", err) })
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.PersistentFlags().StringVar(&p.socket, "socket", "",
		"`path` of the agent's socket (default $SIGNET_SOCKET, or "+client.DefaultSocket+")")
	root.AddGroup(
		&cobra.Group{ID: groupUse, Title: "For programs and people who need a value:"},
		&cobra.Group{ID: groupOperate, Title: "For operators of a running agent:"},
		&cobra.Group{ID: groupUpstream, Title: "For administrators of upstreams, through the agent:"},
		&cobra.Group{ID: groupHost, Title: "On the host:"},
	)
	add(root, groupUse, newGet(p), newWatch(p), newRefused(p), newExec(p), newToken(p), newKey(p))
	add(root, groupOperate, newStatus(p), newPlan(p), newDoctor(p), newEnroll(p), newRenew(p), newRotate(p), newLogin(p), newLogout(p), newPolicy(p))
	add(root, groupUpstream, newManager(p), newCipherTrust(p))
	add(root, groupHost, newRun(p), newCheck(p), newPolkit(p), newAudit(p), newVersion(p))
	return root
}

// add puts commands into a group.
func add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

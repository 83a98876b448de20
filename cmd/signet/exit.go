package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/client"
)

// The exit statuses, as the Contract has them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2 // bad usage or configuration
	exitDenied      = 3
	exitNotFound    = 4
	exitUnavailable = 5
	exitExpired     = 6
)

// A usageError is a command line or a configuration that makes no sense.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return e.hint }

// usage is a usageError of that text, which points to the help of the command.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), hint: "see `" + cmd.CommandPath() + " --help`"}
}

// status is the exit status for an error.
func status(err error) int {
	if err == nil {
		return exitDone
	}
	if e, ok := errors.AsType[*exited](err); ok {
		return e.status
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*config.Errors](err); ok {
		return exitUsage
	}
	code := client.CodeOf(err)
	if c, ok := errors.AsType[coder](err); ok {
		code = client.Code(c.Code())
	}
	switch code {
	case client.Denied:
		return exitDenied
	case client.NotFound:
		return exitNotFound
	case client.Unavailable, client.Busy:
		return exitUnavailable
	case client.Expired:
		return exitExpired
	case client.Invalid:
		return exitUsage
	}
	return exitFailed
}

// A coder is an error of the agent's own that knows the code of the socket API
// for it.
type coder interface {
	error
	Code() string
}

// A hinter is an error that knows what can be done about it.
type hinter interface {
	error
	Hint() string
}

// report prints an error the way every error of this program is printed: on one
// line what failed, why, and what to do about it. Only a configuration has a
// line for each of its faults.
func report(w io.Writer, err error) {
	if _, ok := errors.AsType[*exited](err); ok || err == nil {
		return
	}
	if faults, ok := errors.AsType[*config.Errors](err); ok {
		for _, f := range faults.Faults {
			_, _ = fmt.Fprintln(w, "signet: "+printable(f.Error()))
		}
		return
	}
	text := err.Error()
	if h, ok := errors.AsType[hinter](err); ok && h.Hint() != "" {
		text += "; " + h.Hint()
	} else if e, ok := errors.AsType[*client.Error](err); ok {
		text += "; " + remedy(e)
	}
	_, _ = fmt.Fprintln(w, "signet: "+printable(strings.TrimSuffix(text, "; ")))
}

// remedy is what can be done about an error of the agent's. What the agent
// itself says is better, as it knows more.
func remedy(e *client.Error) string {
	switch {
	case e.Hint != "":
		return e.Hint
	case e.Code == client.Denied:
		return "the rules are under `policy:` in the agent's configuration"
	case e.Code == client.NotFound:
		return "`signet status` lists what there is"
	case e.Code == client.Unavailable && e.Status != 0, e.Code == client.Expired:
		return "`signet doctor` shows what the agent cannot reach"
	case e.Code == client.Busy && e.RetryAfter > 0:
		return "try again in " + e.RetryAfter.String()
	case e.Code == client.Busy:
		return "try again later"
	}
	return ""
}

// printable keeps what others wrote from steering the terminal it is shown on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// exactly demands these arguments, by the names they have in the usage line.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usage(cmd, "%q is one argument too many", args[len(names)])
		}
		for i, arg := range args {
			if arg == "" {
				return usage(cmd, "%s is empty", names[i])
			}
		}
		return nil
	}
}

// unknownCommand is what a command answers that only has subcommands.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage(cmd, "no command given")
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return &usageError{err: fmt.Errorf("no command %q", args[0]), hint: "did you mean `" + cmd.CommandPath() + " " + near[0] + "`?"}
	}
	return usage(cmd, "no command %q", args[0])
}

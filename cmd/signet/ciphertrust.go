package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream/ciphertrust"
)

// A trust is what the commands of `signet ciphertrust` share.
type trust struct {
	*program
	upstream string // --upstream
	asJSON   bool   // --json
	yes      bool   // --yes
}

// newCipherTrust is `signet ciphertrust`.
func newCipherTrust(p *program) *cobra.Command {
	t := &trust{program: p}
	cmd := group("ciphertrust", "Administer a CipherTrust Manager",
		`Administer a CipherTrust Manager. The calls go through the running agent, which
adds its own token: none is ever in this shell. Who may make them is under
"policy:" in the agent's configuration, as proxy: {UPSTREAM: ["GET /api/v1/**"]}.`)
	f := cmd.PersistentFlags()
	f.StringVar(&t.upstream, "upstream", "", "`name` of the server in the agent's configuration (default the only one)")
	f.BoolVar(&t.asJSON, "json", false, "print JSON, as the server has it")
	f.BoolVar(&t.yes, "yes", false, "do not ask before something is destroyed")
	cmd.AddCommand(newTrustUsers(t), newTrustGroups(t), newTrustCAs(t), newTrustCerts(t), newTrustExternalCAs(t),
		newTrustTokens(t), newTrustSecrets(t), newTrustProperties(t))
	return cmd
}

// family is a command that only has subcommands.
func family(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := group(use, short, "")
	cmd.AddCommand(commands...)
	return cmd
}

// A deed is what a command does at the server.
type deed func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error

// command is a command whose usage line names its arguments.
func (t *trust) command(use, short string, do deed) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactly(strings.Fields(use)[1:]...),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.open(cmd)
			if err != nil {
				return err
			}
			return explained(do(cmd, c, args))
		},
	}
}

// open is a client of the server that goes through the agent.
func (t *trust) open(cmd *cobra.Command) (*ciphertrust.Client, error) {
	u, err := t.theUpstream(cmd, t.upstream, "ciphertrust")
	if err != nil {
		return nil, err
	}
	h, err := t.through(u.Name)
	if err != nil {
		return nil, err
	}
	return ciphertrust.New(ciphertrust.Config{HTTP: h}), nil
}

// confirm asks before something is destroyed.
func (t *trust) confirm(cmd *cobra.Command, format string, args ...any) error {
	return t.program.confirm(cmd.Context(), cmd, t.yes, fmt.Sprintf(format, args...)+"?")
}

// said prints a line about what was done; with --json nothing.
func (t *trust) said(format string, args ...any) error {
	if t.asJSON {
		return nil
	}
	_, err := fmt.Fprintln(t.stdout, printable(fmt.Sprintf(format, args...)))
	return err
}

// maxInput is more than any file that the commands read has.
const maxInput = 1 << 20

// input is the text of a file, or of the standard input for -.
func (t *trust) input(cmd *cobra.Command, flag, file string) (string, error) {
	if file == "" {
		return "", usage(cmd, "--%s is missing", flag)
	}
	r := t.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err == nil && len(text) > maxInput {
		err = errors.New("too large")
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return string(text), nil
}

// hidden is a secret from a file, without the newline at its end, or else from
// the person at the terminal.
func (p *program) hidden(cmd *cobra.Command, flag, file, prompt string) (secret.Value, error) {
	if file == "" {
		return p.askSecret(cmd, flag, prompt)
	}
	text, err := (&trust{program: p}).input(cmd, flag, file)
	if err != nil {
		return secret.Value{}, err
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if text == "" {
		return secret.Value{}, fmt.Errorf("%s: is empty", file)
	}
	return secret.New([]byte(text)), nil
}

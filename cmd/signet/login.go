package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream/ciphertrust"
)

// loginFlags are the flags of `signet login`.
type loginFlags struct {
	user, url, passwordFile, credentials, ksctl string
	days, hours                                 int
	adopt                                       bool
}

// newLogin is `signet login`.
func newLogin(p *program) *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login UPSTREAM",
		Short: "Have the agent log in to an upstream anew",
		Long: `Have the agent log in to an upstream, in place of its login of before, which is
revoked. The password is asked for on a terminal, or read from a file; without
one the agent uses what its configuration gives.

The agent keeps a refresh token, sealed, and no password. How long it is good for
is said with --days and --hours; if neither is given, it is as configured, 30
days by default. Asking for more than the server allows is refused before
anything happens.

With --ksctl-config the login serves ksctl as well: user and URL are taken from
its configuration file, a refresh token in there is revoked, and the new one is
written into it. With --adopt it is the other way round: the agent goes on with
the refresh token of that file.`,
		Example: `  signet login cm --user admin --days 10 --hours 10
  signet login cm --ksctl-config ~/.ksctl/config.yaml`,
		Args: exactly("UPSTREAM"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.login(cmd, args[0], &f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.user, "user", "", "`name` to log in as (default as configured)")
	fl.IntVar(&f.days, "days", 0, "how many `days` the login is good for")
	fl.IntVar(&f.hours, "hours", 0, "how many `hours`, besides the days")
	fl.StringVar(&f.url, "url", "", "`URL` that the upstream has to have")
	fl.StringVar(&f.passwordFile, "password-file", "", "`file` with the password, - for the standard input")
	fl.StringVar(&f.credentials, "credentials-file", "", "`file` with a user name and password, - for the standard input")
	fl.StringVar(&f.ksctl, "ksctl-config", "", "configuration `file` of ksctl to share the login with")
	fl.BoolVar(&f.adopt, "adopt", false, "go on with the refresh token of --ksctl-config")
	return cmd
}

// login has the agent log in, and shares the login with ksctl if that is wanted.
func (p *program) login(cmd *cobra.Command, upstream string, f *loginFlags) error {
	life := time.Duration(f.days)*24*time.Hour + time.Duration(f.hours)*time.Hour
	if f.days < 0 || f.hours < 0 || life == 0 && (cmd.Flags().Changed("days") || cmd.Flags().Changed("hours")) {
		return usage(cmd, "a login has to last for at least an hour")
	}
	r := client.LoginRequest{Username: f.user, URL: f.url, LifeSeconds: int64(life / time.Second)}
	var file *ksctlFile
	if f.ksctl != "" {
		var err error
		if file, err = readKsctl(f.ksctl); err != nil {
			return err
		}
		r.RefreshToken, r.ClientID, r.Share = file.get(ksctlToken), file.get(ksctlClient), true
		if r.URL == "" {
			r.URL = file.get(ksctlURL)
		}
		if r.Username == "" && !f.adopt {
			r.Username = file.get(ksctlUser)
		}
	}
	switch {
	case f.adopt && (file == nil || r.RefreshToken == ""):
		return usage(cmd, "--adopt needs a --ksctl-config with a refresh token in it")
	case f.adopt && (f.user != "" || f.passwordFile != "" || f.credentials != "" || life > 0):
		return usage(cmd, "--adopt takes the login as it is; it goes with no user, password or life")
	case !f.adopt:
		if err := p.loginCredentials(cmd, f, &r); err != nil {
			return err
		}
	}
	got, err := p.agent().LoginAs(cmd.Context(), upstream, r)
	if err != nil {
		return err
	}
	if file != nil {
		file.set(ksctlURL, got.URL)
		file.set(ksctlUser, got.Username)
		file.set(ksctlToken, got.RefreshToken)
		file.set(ksctlClient, got.ClientID)
		if err := file.write(); err != nil {
			return fmt.Errorf("login %q: done, but ksctl does not have it: %w", upstream, err)
		}
	}
	if got.Until.IsZero() {
		_, err = fmt.Fprintf(p.stdout, "%s: logged in\n", printable(upstream))
	} else {
		// The moments since the login began are not worth telling.
		left := time.Until(got.Until).Round(time.Minute)
		_, err = fmt.Fprintf(p.stdout, "this login will expire in %s\n", ciphertrust.Span(left))
	}
	return err
}

// loginCredentials finds the password, and the name where it comes with it.
func (p *program) loginCredentials(cmd *cobra.Command, f *loginFlags, r *client.LoginRequest) error {
	_, people := terminal(p.stdin)
	switch {
	case f.credentials != "" && f.passwordFile != "":
		return usage(cmd, "give either --credentials-file or --password-file")
	case f.credentials != "":
		c, once, err := p.credentials(cmd, f.credentials)
		if err != nil {
			return err
		}
		once.close()
		r.Username, r.Password = c.Username, c.Password
		return nil
	case f.passwordFile == "" && !people && r.Username != "":
		return usage(cmd, "--password-file is missing, and there is no terminal to ask for the password of %s", r.Username)
	case f.passwordFile == "" && !people:
		return nil
	}
	prompt := "password of " + r.Username
	if r.Username == "" {
		prompt = "password (empty for the agent's own)"
	}
	password, err := p.hidden(cmd, "password-file", f.passwordFile, prompt)
	r.Password = string(password.Reveal())
	return err
}

// askSecret asks the person at the terminal, without echo.
func (p *program) askSecret(cmd *cobra.Command, flag, prompt string) (secret.Value, error) {
	fd, people := terminal(p.stdin)
	if !people {
		return secret.Value{}, usage(cmd, "--%s is missing, and there is no terminal to ask at", flag)
	}
	before, err := term.GetState(fd)
	if err != nil {
		return secret.Value{}, fmt.Errorf("terminal: %w", err)
	}
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		_, _ = fmt.Fprint(p.stderr, printable(prompt)+": ")
		text, err := term.ReadPassword(fd)
		_, _ = fmt.Fprintln(p.stderr)
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return secret.New(a.text), a.err
	case <-cmd.Context().Done(): // interrupted, with the echo off
		_ = term.Restore(fd, before)
		return secret.Value{}, context.Cause(cmd.Context())
	}
}

// newLogout is `signet logout`.
func newLogout(p *program) *cobra.Command {
	var ksctl string
	cmd := &cobra.Command{
		Use:   "logout UPSTREAM",
		Short: "Have the agent revoke and forget its login at an upstream",
		Long: `Have the agent revoke its refresh token and forget it. It does not log in again
by itself, across restarts either, until somebody runs signet login.

With --ksctl-config the token is taken out of the configuration file of ksctl
too.`,
		Args: exactly("UPSTREAM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var file *ksctlFile
			if ksctl != "" {
				var err error
				if file, err = readKsctl(ksctl); err != nil {
					return err
				}
				if file.get(ksctlToken) == "" || file.get(ksctlClient) == "" {
					return errors.New("login token and client id must exist in ksctl configuration file")
				}
			}
			if err := p.agent().Logout(cmd.Context(), args[0]); err != nil {
				return err
			}
			if file != nil {
				file.remove(ksctlToken)
				file.remove(ksctlClient)
				if err := file.write(); err != nil {
					return fmt.Errorf("logout %q: done, but the token is still in the file: %w", args[0], err)
				}
			}
			_, err := fmt.Fprintln(p.stdout, "login revoked")
			return err
		},
	}
	cmd.Flags().StringVar(&ksctl, "ksctl-config", "", "configuration `file` of ksctl that has the same login")
	return cmd
}

// blank reports whether a line of a file says nothing.
func blank(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || strings.HasPrefix(line, "#") || line == "---"
}

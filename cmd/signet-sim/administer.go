package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/manager/managertest"
	"github.com/signet-agent/signet/upstream/senhasegura/senhaseguratest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

func accountCommand(dir *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "account",
		Short: "Administer the Manager's private accounts",
	}
	var file string
	add := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a private account with one-time credentials",
		Long: `add makes a private account, writes its one-time user name and password to a
file, and prints its id. An account can be registered once; who has lost its
certificate or let it expire needs another.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if file == "" {
				return usageError{errors.New("--credentials-file: missing; it is where the user name and password go")}
			}
			path, err := filepath.Abs(file)
			if err != nil {
				return err
			}
			var made struct {
				ID int64 `json:"id"`
			}
			_, err = newAccount(path, func(login oneTime) (int64, error) {
				in := map[string]string{"name": args[0], "username": login.Username, "password": login.Password}
				err := controller{*dir}.call(c.Context(), "POST", "/manager/accounts", in, &made)
				return made.ID, err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "account %d\n", made.ID)
			return nil
		},
	}
	add.Flags().StringVar(&file, "credentials-file", "", "`file` to write the user name and password to")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the accounts with their certificates",
		RunE: func(c *cobra.Command, _ []string) error {
			var accounts []managertest.Account
			if err := (controller{*dir}).call(c.Context(), "GET", "/manager/accounts", nil, &accounts); err != nil {
				return err
			}
			for _, a := range accounts {
				fmt.Fprintf(c.OutOrStdout(), "account %d %s: %s\n", a.ID, a.Name, a.State)
				for _, cert := range a.Certificates {
					fmt.Fprintf(c.OutOrStdout(), "  certificate %s: %s\n", cert.Serial, cert.State)
				}
			}
			return nil
		},
	}
	disown := &cobra.Command{
		Use:   "disown [SERIAL]...",
		Short: "Take none of these certificates any more, and every other again",
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if args == nil {
				args = []string{}
			}
			return controller{*dir}.call(c.Context(), "PUT", "/manager/disowned", args, nil)
		},
	}
	c.AddCommand(add, list, disown)
	return c
}

func credentialCommand(dir *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "credential",
		Short: "Administer senhasegura's credentials",
	}
	change := func(use, short string, args int, ch func(c *cobra.Command, args []string) (senhaseguratest.CredentialChange, error)) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: cobra.ExactArgs(args),
			RunE: func(c *cobra.Command, args []string) error {
				to, err := ch(c, args)
				if err != nil {
					return err
				}
				return controller{*dir}.call(c.Context(), "PUT", "/senhasegura/credentials/"+url.PathEscape(args[0]), to, nil)
			},
		}
	}
	c.AddCommand(
		showCredentialCommand(dir),
		loginCommand(dir),
		change("password CREDENTIAL", "Set the password to what is on standard input", 1,
			func(c *cobra.Command, _ []string) (senhaseguratest.CredentialChange, error) {
				text, err := line(c.InOrStdin())
				return senhaseguratest.CredentialChange{Password: &text}, err
			}),
		change("rotate-every CREDENTIAL DURATION", "Have the password changed at this interval; 0 ends it", 2,
			func(_ *cobra.Command, args []string) (senhaseguratest.CredentialChange, error) {
				d, err := time.ParseDuration(args[1])
				if err != nil {
					return senhaseguratest.CredentialChange{}, usageError{fmt.Errorf("duration %q: want something like 20s or 12h", args[1])}
				}
				every := upstreamtest.Duration(d)
				return senhaseguratest.CredentialChange{RotateEvery: &every}, nil
			}),
		change("deactivate CREDENTIAL", "Switch a credential off", 1,
			func(*cobra.Command, []string) (senhaseguratest.CredentialChange, error) {
				return senhaseguratest.CredentialChange{Inactive: new(true)}, nil
			}),
		change("activate CREDENTIAL", "Switch a credential on again", 1,
			func(*cobra.Command, []string) (senhaseguratest.CredentialChange, error) {
				return senhaseguratest.CredentialChange{Inactive: new(false)}, nil
			}),
	)
	return c
}

func showCredentialCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "show CREDENTIAL",
		Short: "Show a credential, but for its password",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var cred senhaseguratest.Credential
			if err := (controller{*dir}).call(c.Context(), "GET", "/senhasegura/credentials/"+url.PathEscape(args[0]), nil, &cred); err != nil {
				return err
			}
			state := "active"
			if cred.Inactive {
				state = "inactive"
			}
			fmt.Fprintf(c.OutOrStdout(), "%s (%s): %s, changed %d times", cred.Identifier, cred.ID, state, cred.Changes)
			if !cred.Expires.IsZero() {
				fmt.Fprintf(c.OutOrStdout(), ", expires %s", cred.Expires.UTC().Format(time.RFC3339))
			}
			if cred.RotateEvery > 0 {
				fmt.Fprintf(c.OutOrStdout(), ", then every %v", time.Duration(cred.RotateEvery))
			}
			fmt.Fprintln(c.OutOrStdout())
			return nil
		},
	}
}

func loginCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "login CREDENTIAL",
		Short: "Try the password on standard input, as the target system would",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := line(c.InOrStdin())
			if err != nil {
				return err
			}
			return controller{*dir}.call(c.Context(), "POST", "/senhasegura/credentials/"+url.PathEscape(args[0])+"/login",
				map[string]string{"password": text}, nil)
		},
	}
}

// line reads a secret, with or without a newline after it.
func line(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

func authorizationCommand(dir *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "authorization",
		Short: "Administer senhasegura's authorization",
	}
	change := func(use, short string, ch senhaseguratest.AuthorizationChange) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short,
			RunE: func(c *cobra.Command, _ []string) error {
				var e endpoints
				found, err := upstreamtest.Load(filepath.Join(*dir, endpointsName), &e)
				if err != nil {
					return err
				}
				if !found {
					return fmt.Errorf("%s: signet-sim serve has not been run with this --dir", *dir)
				}
				return controller{*dir}.call(c.Context(), "PUT", "/senhasegura/authorizations/"+url.PathEscape(e.Senhasegura.ClientID), ch, nil)
			},
		}
	}
	c.AddCommand(
		change("revoke-tokens", "End all access tokens", senhaseguratest.AuthorizationChange{RevokeTokens: true}),
		change("deactivate", "Switch the authorization off", senhaseguratest.AuthorizationChange{Inactive: new(true)}),
		change("activate", "Switch the authorization on again", senhaseguratest.AuthorizationChange{Inactive: new(false)}),
	)
	return c
}

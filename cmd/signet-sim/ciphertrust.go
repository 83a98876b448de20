package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
)

// setupCipherTrust makes the CipherTrust Manager, with a user for the agent.
func (s settings) setupCipherTrust(e *bench, last *endpoints) error {
	ca, err := ciphertrusttest.LoadCA(s.dir)
	if err != nil {
		return err
	}
	t := &e.files.CipherTrust
	t.CAFile = filepath.Join(s.dir, "ciphertrust-ca.pem")
	t.AdminUsername, t.AdminPasswordFile = "admin", filepath.Join(s.dir, "ciphertrust-admin-password")
	t.Username, t.PasswordFile = "signet", filepath.Join(s.dir, "ciphertrust-password")
	t.Secret = "mypass"
	// The policy of a new appliance wants a capital and something that is no letter.
	admin, err := keepSecret(t.AdminPasswordFile, "Sim-"+randomHex(10))
	if err != nil {
		return err
	}
	password, err := keepSecret(t.PasswordFile, "Sim-"+randomHex(10))
	if err != nil {
		return err
	}
	setup := ciphertrusttest.Examples()
	setup.RefreshTokens = nil // printed in a manual: everybody has them
	setup.Users = append(setup.Users, ciphertrusttest.User{
		Username: t.Username, Password: password, Name: "Agent", Groups: []string{"Key Users", "CA Admins"},
	})
	e.cipherTrust, err = ciphertrusttest.New(ciphertrusttest.Config{
		CA: ca, StateFile: filepath.Join(s.dir, "ciphertrust.json"), AdminPassword: admin, Setup: setup,
	})
	if err != nil {
		return err
	}
	t.CA = e.cipherTrust.RootCA()
	if e.cipherTrustListener, err = listen(s.cipherTrust, last.CipherTrust.URL); err != nil {
		return err
	}
	t.URL = "https://" + e.cipherTrustListener.Addr().String()
	return nil
}

func cipherTrustCommand(dir *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "ciphertrust",
		Short: "Administer the CipherTrust Manager",
		Long: `What its administrator would do by the API. Its users are those of the product's
manual, and signet, the agent's.

    signet-sim ciphertrust token list
    signet-sim ciphertrust token revoke
    signet-sim ciphertrust user lock signet
    echo new | signet-sim ciphertrust secret rotate mypass
    signet-sim ciphertrust mistake other-key expired`,
	}
	user := &cobra.Command{Use: "user", Short: "Administer users"}
	user.AddCommand(addCipherTrustUser(dir),
		cipherTrustVerb(dir, "password USER", "Set the password to what is on standard input", true,
			func(text string) any { return map[string]string{"password": text} }, "/users/"),
		cipherTrustVerb(dir, "lock USER", "Lock a user out, as after too many wrong passwords", false,
			func(string) any { return map[string]bool{"locked": true} }, "/users/"),
		cipherTrustVerb(dir, "unlock USER", "Let a locked user in again", false,
			func(string) any { return map[string]bool{"locked": false} }, "/users/"))
	secret := &cobra.Command{Use: "secret", Short: "Administer secrets"}
	secret.AddCommand(addCipherTrustSecret(dir),
		cipherTrustVerb(dir, "rotate SECRET", "Add a version with what is on standard input", true,
			func(text string) any { return map[string]string{"material": text} }, "/secrets/"))
	c.AddCommand(user, secret, cipherTrustTokens(dir), cipherTrustProperty(dir), cipherTrustMistake(dir), cipherTrustCRL(dir))
	return c
}

// cipherTrustVerb is a command that puts a body, made of standard input where
// it reads any, at a named thing.
func cipherTrustVerb(dir *string, use, short string, reads bool, body func(string) any, path string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			text := ""
			if reads {
				if text, err = line(c.InOrStdin()); err != nil {
					return err
				}
			}
			return controller{*dir}.call(c.Context(), "PUT", "/ciphertrust"+path+url.PathEscape(args[0]), body(text), nil)
		},
	}
}

func addCipherTrustUser(dir *string) *cobra.Command {
	var groups, methods []string
	var dn string
	c := &cobra.Command{
		Use: "add USER", Short: "Make a user with the password on standard input", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := line(c.InOrStdin())
			if err != nil {
				return err
			}
			in := map[string]any{"username": args[0], "password": text, "groups": groups, "certificate_subject_dn": dn}
			if len(methods) > 0 {
				in["allowed_auth_methods"] = methods
			}
			return controller{*dir}.call(c.Context(), "POST", "/ciphertrust/users", in, nil)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&groups, "group", nil, "`group` that the user is in; can be repeated")
	f.StringArrayVar(&methods, "method", nil, "how the user may log in: password, user_certificate, password_with_user_certificate")
	f.StringVar(&dn, "dn", "", "subject `name` of the certificate that logs the user in")
	return c
}

func addCipherTrustSecret(dir *string) *cobra.Command {
	var groups []string
	var kind string
	c := &cobra.Command{
		Use: "add SECRET", Short: "Make a secret of what is on standard input", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := line(c.InOrStdin())
			if err != nil {
				return err
			}
			in := map[string]any{"name": args[0], "dataType": kind, "material": text, "groups": groups}
			return controller{*dir}.call(c.Context(), "POST", "/ciphertrust/secrets", in, nil)
		},
	}
	c.Flags().StringArrayVar(&groups, "group", []string{"Key Users"}, "`group` that may read it; can be repeated")
	c.Flags().StringVar(&kind, "type", "password", "password, blob or seed")
	return c
}

func cipherTrustTokens(dir *string) *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Administer refresh tokens"}
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "List the refresh tokens, but for their texts",
		RunE: func(c *cobra.Command, _ []string) error {
			var tokens []ciphertrusttest.Token
			if err := (controller{*dir}).call(c.Context(), "GET", "/ciphertrust/tokens", nil, &tokens); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), tokens)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tUSER\tLIVE\tLABELS\tUSED\tEXPIRES")
			for _, t := range tokens {
				expires := "never"
				if !t.ExpiresAt.IsZero() {
					expires = t.ExpiresAt.Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%v\t%v\t%s\t%s\n", t.ID, t.Username, t.Live, t.Labels, t.UsedAt.Format(time.RFC3339), expires)
			}
			return w.Flush()
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	revoke := &cobra.Command{
		Use: "revoke [ID]", Short: "Revoke one refresh token, or all", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path := "/ciphertrust/tokens"
			if len(args) == 1 {
				path += "/" + url.PathEscape(args[0])
			}
			var n struct{ Revoked int }
			if err := (controller{*dir}).call(c.Context(), "DELETE", path, nil, &n); err != nil {
				return err
			}
			if n.Revoked == 0 && len(args) == 1 {
				return fmt.Errorf("token %q: not there, or revoked already", args[0])
			}
			fmt.Fprintf(c.OutOrStdout(), "%d revoked\n", n.Revoked)
			return nil
		},
	}
	c.AddCommand(list, revoke)
	return c
}

func cipherTrustProperty(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "property NAME VALUE", Short: "Set a system property", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return controller{*dir}.call(c.Context(), "PUT", "/ciphertrust/properties/"+url.PathEscape(args[0]),
				map[string]string{"value": args[1]}, nil)
		},
	}
}

func cipherTrustMistake(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "mistake KIND...", Short: "Make the next certificates wrong, one by each mistake",
		Long: `KIND is other-key, other-ca, other-name, expired, not-yet-valid, other-purpose or
longer. none takes back what has not happened yet.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "none" {
				args = []string{}
			}
			return controller{*dir}.call(c.Context(), "PUT", "/ciphertrust/mistakes", args, nil)
		},
	}
}

func cipherTrustCRL(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "crl CA", Short: "Print the revocation list of a local CA in PEM, for openssl verify -crl_check",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var out struct{ CRL string }
			if err := (controller{*dir}).call(c.Context(), "GET", "/ciphertrust/crl/"+url.PathEscape(args[0]), nil, &out); err != nil {
				return err
			}
			if out.CRL == "" {
				return errors.New("no revocation list came back")
			}
			fmt.Fprint(c.OutOrStdout(), out.CRL)
			return nil
		},
	}
}

// cipherTrustLog prints the audit records.
func cipherTrustLog(c *cobra.Command, dir string, asJSON bool) error {
	var list []ciphertrusttest.Record
	if err := (controller{dir}).call(c.Context(), "GET", "/ciphertrust/records", nil, &list); err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), list)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CREATED\tUSER\tDOMAIN\tIP\tMETHOD\tPATH\tSTATUS\tERROR\tREQUEST ID")
	for _, e := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", e.CreatedAt.Format(time.RFC3339), e.Username, e.Domain, e.ClientIP,
			e.Method, e.Path, e.Status, e.Error, e.RequestID)
	}
	return w.Flush()
}

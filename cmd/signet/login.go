package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/client"
)

// newLogin is `signet login`.
func newLogin(p *program) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "login UPSTREAM",
		Short: "Have the agent log in to an upstream anew",
		Long: `Have the agent get new tokens from an upstream, with the credentials of its
configuration, or with those in a file that has the form that enroll takes; this
file stays.`,
		Args: exactly("UPSTREAM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var with *client.Credentials
			if file != "" {
				c, once, err := p.credentials(cmd, file)
				if err != nil {
					return err
				}
				once.close()
				with = &c
			}
			if err := p.agent().Login(cmd.Context(), args[0], with); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.stdout, "%s: logged in\n", printable(args[0]))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "credentials-file", "", "`file` with a user name and password, - for the standard input")
	return cmd
}

// newLogout is `signet logout`.
func newLogout(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "logout UPSTREAM",
		Short: "Have the agent revoke and forget its tokens of an upstream",
		Args:  exactly("UPSTREAM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.agent().Logout(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.stdout, "%s: logged out\n", printable(args[0]))
			return err
		},
	}
}

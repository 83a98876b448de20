package main

import (
	"github.com/spf13/cobra"
)

// newToken is `signet token`.
func newToken(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "token UPSTREAM",
		Short:   "Print an access token, where policy allows",
		Example: `  curl -H "Authorization: Bearer $(signet token pam)" https://vault.example/...`,
		Args:    exactly("UPSTREAM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := p.agent().Token(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(p.stdout, t)
			}
			return p.writeRaw(t.AccessToken)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the token with its type and expiry as JSON")
	return cmd
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newRenew is `signet renew`.
func newRenew(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "renew NAME",
		Short: "Have a certificate issued anew for the same key, now",
		Long: `Have a certificate, or the one of an identity, issued anew for the same key, and
wait for it. An issuer may see no need for another one yet, as the Manager does:
then it is said to be unchanged.`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed, err := p.agent().TryRenew(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			result := "renewed"
			if !changed {
				result = "unchanged; the issuer sees no need for another certificate yet"
			}
			_, err = fmt.Fprintf(p.stdout, "%s: %s\n", printable(args[0]), result)
			return err
		},
	}
}

// newRotate is `signet rotate`.
func newRotate(p *program) *cobra.Command {
	var compromised bool
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Replace a key and its certificate, now",
		Long: `Replace the key of a certificate or identity, have the certificate issued for the
new one, and wait for it. The old key stays usable for a time of grace, unless it
is compromised: then its certificate is revoked and it is used no more.`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.agent().Rotate(cmd.Context(), args[0], compromised); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.stdout, "%s: rotated\n", printable(args[0]))
			return err
		},
	}
	cmd.Flags().BoolVar(&compromised, "compromised", false, "others may have the old key: revoke it")
	return cmd
}

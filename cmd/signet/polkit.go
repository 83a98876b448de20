package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/systemd"
)

// newPolkit is `signet polkit`.
func newPolkit(p *program) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "polkit",
		Short: "Print the polkit rule that lets the agent reload its units",
		Long: `Print the rule for polkit that lets the agent reload the units which the
configuration names, and nothing else. As root:

    signet polkit >` + systemd.PolkitRulesPath + `

The rule is as exact as it is fresh: make it again when the configuration changes.
` + "`signet doctor`" + ` tells of units that it lacks.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			units := c.ReloadedUnits()
			if systemd.CanRefresh(cmd.Context()) { // else none is reloaded for its credentials
				units = append(units, c.CredentialUnits()...)
			}
			_, err = io.WriteString(p.stdout, systemd.PolkitRule(units))
			return err
		},
	}
	configFlag(cmd, &file)
	return cmd
}

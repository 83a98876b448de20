package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/systemd"
)

// newPolkit is `signet polkit`.
func newPolkit(p *program) *cobra.Command {
	var file, output string
	cmd := &cobra.Command{
		Use:   "polkit",
		Short: "Print the polkit rule that lets the agent reload its units",
		Long: `Print the rule for polkit that lets the agent reload the units which the
configuration names, and nothing else. As root:

    signet polkit --output ` + systemd.PolkitRulesPath + `

The file is replaced as a whole, or, when anything fails, not at all: polkit takes
up at once what is there, and the shell's > would leave it an empty rule.

The rule is as exact as it is fresh: make it again when the configuration changes.
` + "`signet doctor`" + ` tells of units that it lacks.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			units := c.ReloadedUnits()
			if more := c.CredentialUnits(); len(more) > 0 {
				can, err := systemd.CanRefresh(cmd.Context())
				if err != nil { // a rule without them would be a wrong one
					return err
				}
				if can { // else none is reloaded for its credentials
					units = append(units, more...)
				}
			}
			rule := systemd.PolkitRule(units)
			if output == "" {
				_, err = io.WriteString(p.stdout, rule)
				return err
			}
			if err := replaceFile(output, rule, 0o644); err != nil {
				return fmt.Errorf("polkit rule: %w", err)
			}
			return nil
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&output, "output", "", "write the rule to `file`")
	return cmd
}

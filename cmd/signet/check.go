package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/agent"
	"github.com/signet-agent/signet/agent/config"
)

// defaultConfig is where packages put the configuration.
const defaultConfig = "/etc/signet/signet.yaml"

// newCheck is `signet check`.
func newCheck(p *program) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration, and do nothing else",
		Long: `Check everything of a configuration that can be checked offline, on the host that
it is for. Each fault is a line FILE:LINE:COLUMN: what is wrong; what to do. Exit
status 2 if there are any; the agent does not start with them. A warning is about
what does not work yet and may yet come: a PKCS#11 module, a file with a secret, a
program that reloads, a user who is to own a file. What is in a file with a secret
is not looked at.`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			c, warnings, err := checkConfig(file)
			for _, w := range warnings {
				if _, err := fmt.Fprintln(p.stderr, "signet: warning: "+printable(w.Error())); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.stdout, "%s: ok: upstreams %d, identities %d, secrets %d, certificates %d, files %d, rules %d\n",
				file, len(c.Upstreams), len(c.Identities), len(c.Secrets), len(c.Certificates), len(c.Files), len(c.Policy))
			if n := agent.SecretFiles(c); err == nil && n > 0 {
				_, err = fmt.Fprintf(p.stdout, "%s: note: %d files hold secrets, and are removed at once if the upstream refuses theirs (not found, forbidden, deactivated)\n", file, n)
			}
			return err
		},
	}
	configFlag(cmd, &file)
	return cmd
}

// configFlag adds --config to a command.
func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "config", defaultConfig, "the configuration `file`")
}

// loadConfig is checkConfig for those who do not mind warnings.
func loadConfig(file string) (*config.Config, error) {
	c, _, err := checkConfig(file)
	return c, err
}

// checkConfig reads a configuration and holds it against this host. All its
// faults, and a file that cannot be read, are bad usage.
func checkConfig(file string) (c *config.Config, warnings []config.Fault, err error) {
	text, err := readConfig(file)
	if err != nil {
		return nil, nil, err
	}
	return agent.CheckConfig(file, text)
}

func readConfig(file string) ([]byte, error) {
	text, err := config.Read(file)
	if err != nil {
		return nil, &usageError{err: err, hint: "name the configuration with --config"}
	}
	return text, nil
}

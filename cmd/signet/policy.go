package main

import (
	"fmt"
	"os/user"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/client"
)

// newPolicy is `signet policy`.
func newPolicy(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Ask what the policy allows",
		Args:  cobra.ArbitraryArgs,
		RunE:  unknownCommand,
	}
	cmd.AddCommand(newPolicyExplain(p))
	return cmd
}

// newPolicyExplain is `signet policy explain`.
func newPolicyExplain(p *program) *cobra.Command {
	var q client.Question
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain NAME",
		Short: "Say which rule of the policy decides about a caller",
		Long: `Say which rule of the policy decides about a caller: a user, with the groups that
the host gives it, or a systemd unit. NAME is of a secret, certificate, key or
upstream; without --kind it is looked for as each.`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.UID == "" && q.Unit == "" {
				return usage(cmd, "--uid or --unit is missing")
			}
			if err := numberOf(cmd, &q.UID); err != nil {
				return err
			}
			q.Name = args[0]
			decisions, err := p.agent().ExplainPolicy(cmd.Context(), q)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(p.stdout, decisions)
			}
			w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
			for _, d := range decisions {
				what := d.Kind + " " + d.Name
				if d.Kind == "admin" {
					what = "administration"
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\n", printable(what), printable(d.Text))
			}
			return w.Flush()
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.UID, "uid", "", "the `user`, by number or name")
	f.StringVar(&q.Unit, "unit", "", "the systemd `unit`, such as app.service")
	f.StringVar(&q.Kind, "kind", "", "`kind` of NAME: secret, certificate, key, token, proxy or admin")
	f.StringVar(&q.Op, "op", "", "with a key: `sign` (default) or read; with a proxy: the method (default GET)")
	f.StringVar(&q.Path, "path", "", "with a proxy: the `path` at the upstream")
	f.BoolVar(&asJSON, "json", false, "print the decisions as JSON")
	return cmd
}

// numberOf replaces a user's name by its number.
func numberOf(cmd *cobra.Command, uid *string) error {
	if _, err := strconv.ParseUint(*uid, 10, 32); err == nil || *uid == "" {
		return nil
	}
	u, err := user.Lookup(*uid)
	if err != nil {
		return usage(cmd, "there is no user %q on this host", *uid)
	}
	*uid = u.Uid
	return nil
}

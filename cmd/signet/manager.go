package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/manager"
)

// newManager is `signet manager`.
func newManager(p *program) *cobra.Command {
	m := &managerCommand{program: p}
	cmd := group("manager", "Administer the locked vaults of the host's account at a Manager",
		`Administer the locked vaults of the host's private account at a Manager. The calls
go through the running agent, which has the only key that the Manager accepts
for them. Who may make them is under "policy:" in the agent's configuration, as
proxy: {UPSTREAM: ["POST /manager/api/json/1.0/*"]}.`)
	cmd.PersistentFlags().StringVar(&m.upstream, "upstream", "", "`name` of the Manager in the agent's configuration (default the only one)")
	cmd.PersistentFlags().BoolVar(&m.asJSON, "json", false, "print JSON")
	vault := group("vault", "Create, list and delete locked vaults", "")
	vault.AddCommand(m.vaultCreate(), m.vaultList(), m.vaultDelete())
	mirror := group("mirror", "Create mirrors for locked vaults", "")
	mirror.AddCommand(m.mirrorCreate())
	cmd.AddCommand(vault, mirror, m.account(), m.events())
	return cmd
}

// group is a command that only has subcommands.
func group(name, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long, Args: cobra.ArbitraryArgs, RunE: unknownCommand, SuggestionsMinimumDistance: 2,
	}
}

// A managerCommand is what the commands about a Manager share.
type managerCommand struct {
	*program
	upstream string
	asJSON   bool
}

// open is a client of the Manager, through the agent.
func (m *managerCommand) open(cmd *cobra.Command) (*manager.Client, error) {
	u, err := m.theUpstream(cmd, m.upstream, "manager")
	if err != nil {
		return nil, err
	}
	h, err := m.through(u.Name)
	if err != nil {
		return nil, err
	}
	return manager.New(manager.Config{HTTP: h, AccountID: u.AccountID}), nil
}

// show prints v as JSON, or rows as a table.
func (m *managerCommand) show(v any, rows [][]string) error {
	if m.asJSON {
		return printJSON(m.stdout, v)
	}
	var out bytes.Buffer
	table(&out, rows)
	_, err := m.stdout.Write(out.Bytes())
	return err
}

// made says what was created.
func (m *managerCommand) made(what, name string, id int64) error {
	if m.asJSON {
		return printJSON(m.stdout, map[string]any{"id": id, "name": name})
	}
	_, err := fmt.Fprintf(m.stdout, "%s %d %s: created\n", what, id, printable(name))
	return err
}

func (m *managerCommand) vaultCreate() *cobra.Command {
	var r manager.VaultRequest
	cmd := &cobra.Command{
		Use:   "create --template ID --name NAME",
		Short: "Create a locked vault from a template",
		Long: `Create a vault from a template. As it is made with the certificate of a private
account it is a locked one: its access cannot be changed, it cannot be renamed,
and it can be deleted only while it is empty. If the answer of the Manager is
lost, the vault is looked for instead of created again.`,
		Example: `  signet manager vault create --template 1 --name backups`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Template == 0 || r.Name == "" {
				return usage(cmd, "--template and --name are needed")
			}
			if r.MirrorPosition != "" && r.Mirror == 0 {
				return usage(cmd, "--mirror-position is nothing without --mirror")
			}
			c, err := m.open(cmd)
			if err != nil {
				return err
			}
			id, err := c.CreateVault(cmd.Context(), r)
			if err != nil {
				return explained(err)
			}
			return m.made("vault", r.Name, id)
		},
	}
	f := cmd.Flags()
	f.Int64Var(&r.Template, "template", 0, "`id` of the vault template")
	f.StringVar(&r.Name, "name", "", "`name` of the vault")
	f.StringVar(&r.Description, "description", "", "`text` for people")
	f.Int64Var(&r.Mirror, "mirror", 0, "`id` of the mirror that the vault joins")
	f.StringVar(&r.MirrorPosition, "mirror-position", "", "`position1` or position2 in the mirror (default the free one)")
	f.StringVar(&r.ProvisioningCode, "provisioning-code", "", "`code` (default the name)")
	f.Int64Var(&r.Organization, "organization", 0, "`id` of the organization")
	return cmd
}

func (m *managerCommand) vaultList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the vaults that the account may see",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := m.open(cmd)
			if err != nil {
				return err
			}
			vaults, err := c.Vaults(cmd.Context())
			if err != nil {
				return explained(err)
			}
			slices.SortFunc(vaults, func(a, b manager.Vault) int { return cmp.Compare(a.ID, b.ID) })
			rows := [][]string{{"ID", "NAME", "LOCKED", "TEMPLATE", "OWNER", "EMPTY"}}
			for _, v := range vaults {
				rows = append(rows, []string{decimal(v.ID), v.Name, strconv.FormatBool(v.Locked), decimal(v.TemplateID), decimal(v.OwnerAccountID), strconv.FormatBool(v.Empty)})
			}
			return m.show(map[string]any{"vaults": vaults}, rows)
		},
	}
}

func (m *managerCommand) vaultDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete VAULT",
		Short: "Delete an empty vault, by its id or name",
		Args:  exactly("VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := m.open(cmd)
			if err != nil {
				return err
			}
			vaults, err := c.Vaults(cmd.Context())
			if err != nil {
				return explained(err)
			}
			// A name may look like an id, and is what a person means first.
			at := slices.IndexFunc(vaults, func(v manager.Vault) bool { return v.Name == args[0] })
			if at < 0 {
				at = slices.IndexFunc(vaults, func(v manager.Vault) bool { return decimal(v.ID) == args[0] })
			}
			if at < 0 {
				return &missingError{what: fmt.Sprintf("vault %q", args[0]), hint: "`signet manager vault list` shows what there is"}
			}
			v := vaults[at]
			if err := m.confirm(cmd.Context(), cmd, yes, fmt.Sprintf("delete vault %d %q for good?", v.ID, v.Name)); err != nil {
				return err
			}
			if err := c.DeleteVault(cmd.Context(), v.ID); err != nil {
				return explained(err)
			}
			if m.asJSON {
				return printJSON(m.stdout, map[string]any{"id": v.ID, "name": v.Name, "deleted": true})
			}
			_, err = fmt.Fprintf(m.stdout, "vault %d %s: deleted\n", v.ID, printable(v.Name))
			return err
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (m *managerCommand) mirrorCreate() *cobra.Command {
	var r manager.MirrorRequest
	cmd := &cobra.Command{
		Use:   "create --template ID --name NAME",
		Short: "Create a mirror from a template, for two vaults to join",
		Long: `Create a mirror from a template. A locked mirror cannot be deleted. If the answer
of the Manager is lost nothing is created again: there is no list to look it up
in, so its administrator has to.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Template == 0 || r.Name == "" {
				return usage(cmd, "--template and --name are needed")
			}
			c, err := m.open(cmd)
			if err != nil {
				return err
			}
			id, err := c.CreateMirror(cmd.Context(), r)
			if err != nil {
				return explained(err)
			}
			return m.made("mirror", r.Name, id)
		},
	}
	f := cmd.Flags()
	f.Int64Var(&r.Template, "template", 0, "`id` of the mirror template")
	f.StringVar(&r.Name, "name", "", "`name` of the mirror")
	f.StringVar(&r.Description, "description", "", "`text` for people")
	f.Int64Var(&r.Organization, "organization", 0, "`id` of the organization")
	return cmd
}

func (m *managerCommand) account() *cobra.Command {
	return &cobra.Command{
		Use:   "account",
		Short: "Show the account as the Manager knows it",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := m.open(cmd)
			if err != nil {
				return err
			}
			accounts, err := c.Accounts(cmd.Context())
			if err != nil {
				return explained(err)
			}
			rows := [][]string{{"ID", "NAME", "STATE", "SUBJECT", "SERIAL", "NOT AFTER"}}
			for _, a := range accounts {
				end := ""
				if a.CertificateExpiration != 0 {
					end = instant(time.UnixMilli(a.CertificateExpiration))
				}
				rows = append(rows, []string{decimal(a.ID), a.Name, a.State, a.SubjectDN, a.CertificateSerial, end})
			}
			return m.show(map[string]any{"accounts": accounts}, rows)
		},
	}
}

func (m *managerCommand) events() *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "Show what the Manager has noticed about the account",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := m.open(cmd)
			if err != nil {
				return err
			}
			events, err := c.Events(cmd.Context())
			if err != nil {
				return explained(err)
			}
			rows := [][]string{{"ID", "TIME", "TYPE", "NOT AFTER", "MESSAGE"}}
			for _, e := range events {
				rows = append(rows, []string{decimal(e.ID), instant(e.Time), e.Type, instant(e.Expiration), e.Message})
			}
			return m.show(map[string]any{"events": events}, rows)
		},
	}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// A missingError is something that is not there.
type missingError struct{ what, hint string }

func (e *missingError) Error() string { return e.what + ": there is none" }
func (e *missingError) Hint() string  { return e.hint }
func (e *missingError) Code() string  { return "not-found" }

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/client"
)

// newGet is `signet get`.
func newGet(p *program) *cobra.Command {
	var field, format string
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Print a secret",
		Long: `Print a secret, or one field of it.

Formats:
  raw   the bytes of one field, and a newline only on a terminal; what --field
        gives if not told otherwise
  json  the fields as one object; what is given without --field
  env   a line NAME_FIELD='value' for each field, quoted for a shell`,
		Example: `  signet get db --field password
  PGPASSWORD=$(signet get db --field password) psql
  eval "$(signet get db --format env)"; echo "$DB_USERNAME"`,
		Args:              exactly("NAME"),
		ValidArgsFunction: p.completeSecrets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if format == "" {
				format = "json"
				if field != "" {
					format = "raw"
				}
			}
			switch {
			case format != "raw" && format != "json" && format != "env":
				return usage(cmd, "no format %q: raw, json or env", format)
			case format == "raw" && field != "":
				value, err := p.agent().ReadField(cmd.Context(), args[0], field)
				if err != nil {
					return err
				}
				if value.Stale {
					p.warnStale(args[0])
				}
				return p.writeRaw(string(value.Value))
			}
			s, err := p.agent().ReadSecret(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if s.Stale {
				p.warnStale(args[0])
			}
			if err := pick(cmd, s, field, format); err != nil {
				return err
			}
			switch format {
			case "json":
				for name, value := range s.Fields {
					if !utf8.ValidString(value) {
						return fmt.Errorf("secret %q: field %q is not text, which JSON cannot hold; print it with --field %s", s.Name, name, name)
					}
				}
				return printJSON(p.stdout, s.Fields)
			case "env":
				return printEnv(p.stdout, args[0], s.Fields)
			}
			for _, value := range s.Fields { // one, says pick
				return p.writeRaw(value)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&field, "field", "f", "", "`name` of the one field to print")
	cmd.Flags().StringVar(&format, "format", "", "`raw`, json or env")
	return cmd
}

// pick leaves in s only the field that was asked for, and for raw exactly one.
func pick(cmd *cobra.Command, s *client.Secret, field, format string) error {
	names := slices.Sorted(maps.Keys(s.Fields))
	if field != "" {
		value, ok := s.Fields[field]
		if !ok {
			return &client.Error{
				What: fmt.Sprintf("secret %q", s.Name), Code: client.NotFound,
				Detail: fmt.Sprintf("no field %q", field), Hint: "it has " + strings.Join(names, ", "),
			}
		}
		s.Fields = map[string]string{field: value}
		return nil
	}
	if format == "raw" && len(names) != 1 {
		return usage(cmd, "secret %q has several fields (%s): name one with --field", s.Name, strings.Join(names, ", "))
	}
	return nil
}

// warnStale says that a value may be out of date. It is the best there is, so it
// is printed all the same.
func (p *program) warnStale(secret string) {
	_, _ = fmt.Fprintf(p.stderr, "signet: secret %q: stale: the upstream could not be asked in time; `signet status` shows why\n", secret)
}

// writeRaw prints a value as it is. On a terminal a newline keeps the prompt
// apart; anywhere else it would become a part of the value.
func (p *program) writeRaw(value string) error {
	if _, ok := terminal(p.stdout); ok {
		value += "\n"
	}
	_, err := io.WriteString(p.stdout, value)
	return err
}

// printJSON prints one line of JSON, with < and & as they are.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printEnv prints fields as assignments for a POSIX shell.
func printEnv(w io.Writer, secret string, fields map[string]string) error {
	vars, err := variables(secret, fields)
	if err != nil {
		return err
	}
	var out strings.Builder
	for _, v := range vars {
		out.WriteString(v.name + "='" + strings.ReplaceAll(v.value, "'", `'\''`) + "'\n")
	}
	_, err = io.WriteString(w, out.String())
	return err
}

// An assignment is a variable of an environment.
type assignment struct{ name, value string }

// variables makes a variable of each field, in the order of the fields' names.
func variables(secret string, fields map[string]string) ([]assignment, error) {
	var out []assignment
	from := map[string]string{}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		name := variable(secret + "_" + field)
		if other, taken := from[name]; taken {
			return nil, fmt.Errorf("secret %q: the fields %q and %q would both be %s", secret, other, field, name)
		}
		from[name] = field
		if strings.ContainsRune(fields[field], 0) {
			return nil, fmt.Errorf("secret %q: field %q holds a NUL byte, which no environment variable can", secret, field)
		}
		out = append(out, assignment{name, fields[field]})
	}
	return out, nil
}

// variable makes a name for the environment.
func variable(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
	if s[0] >= '0' && s[0] <= '9' {
		return "_" + s
	}
	return s
}

// A change is what `signet watch` prints.
type change struct {
	Name       string            `json:"name"`
	Version    string            `json:"version,omitempty"`
	FetchedAt  time.Time         `json:"fetched_at,omitzero"`
	FreshUntil time.Time         `json:"fresh_until,omitzero"`
	RotatesAt  time.Time         `json:"rotates_at,omitzero"`
	Stale      bool              `json:"stale"`
	Fields     map[string]string `json:"fields,omitempty"`
	Code       client.Code       `json:"code,omitempty"` // why there is no version
	Detail     string            `json:"detail,omitempty"`
}

// newWatch is `signet watch`.
func newWatch(p *program) *cobra.Command {
	var fields bool
	cmd := &cobra.Command{
		Use:   "watch NAME",
		Short: "Print a line of JSON each time a secret changes",
		Long: `Print a line of JSON for a secret as it is now, and one each time it changes,
until interrupted. It goes on while the agent restarts. A line with a code instead
of a version says that the secret cannot be had for now. The values themselves
are printed only with --fields.`,
		Example:           `  signet watch db | while read -r change; do systemctl reload app; done`,
		Args:              exactly("NAME"),
		ValidArgsFunction: p.completeSecrets,
		RunE: func(cmd *cobra.Command, args []string) error {
			agent := p.agent()
			defer agent.Close()
			print := func(s *client.Secret) error {
				c := change{Name: s.Name, Version: s.Version, FetchedAt: s.FetchedAt, FreshUntil: s.FreshUntil, RotatesAt: s.RotatesAt, Stale: s.Stale}
				if fields {
					c.Fields = s.Fields
				}
				return printJSON(p.stdout, c)
			}
			// The first answer tells whether there is anything to watch at all.
			s, err := agent.ReadSecret(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := print(s); err != nil {
				return err
			}
			for s, err := range agent.Watch(cmd.Context(), args[0], s.Version) {
				if err == nil {
					err = print(s)
				} else if e, ok := err.(*client.Error); ok { //nolint:errorlint // Watch yields no other
					err = printJSON(p.stdout, change{Name: args[0], Code: e.Code, Detail: e.Detail})
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&fields, "fields", false, "print the values as well")
	return cmd
}

// newRefused is `signet refused`.
func newRefused(p *program) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use:   "refused NAME --version V",
		Short: "Report that a value did not work",
		Long: `Report that a version of a secret did not work, so that the agent asks the
upstream again, and print the version that there is now. If that is the same
one, the upstream has no other.`,
		Args:              exactly("NAME"),
		ValidArgsFunction: p.completeSecrets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if version == "" {
				return usage(cmd, "--version is missing: the version that did not work")
			}
			s, err := p.agent().Refused(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, printable(s.Version))
			return err
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "the `version` that did not work")
	return cmd
}

// completeSecrets offers the names of secrets to the shell.
func (p *program) completeSecrets(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	secrets, err := p.agent().Secrets(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, s := range secrets {
		names = append(names, s.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

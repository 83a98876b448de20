package main

import (
	"encoding/json"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/ciphertrust"
)

var tokens = view[ciphertrust.Token]{
	header: []string{"ID", "USER", "LABELS", "CREATED", "REFRESHED", "EXPIRES", "IDLE LIMIT", "STATE"},
	row: func(k *ciphertrust.Token) []string {
		state, idle := "live", "-"
		switch {
		case k.Revoked:
			state = "revoked"
		case k.Expired:
			state = "expired"
		}
		if k.RevokeUnused > 0 {
			idle = strconv.Itoa(k.RevokeUnused) + " min"
		}
		return []string{k.ID, k.UserID, strings.Join(k.Labels, ","), instant(k.CreatedAt), instant(k.RefreshedAt), instant(k.ExpiresAt), idle, state}
	},
	text: func(k *ciphertrust.Token) json.RawMessage { return k.JSON },
}

func newTrustTokens(t *trust) *cobra.Command {
	return family("tokens", "Refresh tokens that the server has issued",
		listing(t, "List refresh tokens", tokens, ciphertrust.TokenFilters,
			func(cmd *cobra.Command, c *ciphertrust.Client, f ciphertrust.Filter) iter.Seq2[*ciphertrust.Token, error] {
				return c.Tokens(cmd.Context(), f)
			}),
		t.command("get ID", "Show the record of a refresh token", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			k, err := c.Token(cmd.Context(), args[0])
			return showOne(t, tokens, k, err)
		}),
		t.command("revoke ID", "Revoke a refresh token", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if err := t.confirm(cmd, "revoke refresh token %s", args[0]); err != nil {
				return err
			}
			return done(t, args[0], "revoked", c.DeleteToken(cmd.Context(), args[0]))
		}),
	)
}

var secrets = view[ciphertrust.Secret]{
	header: []string{"NAME", "VERSION", "TYPE", "STATE", "UPDATED", "ROTATES", "ENDS"},
	row: func(s *ciphertrust.Secret) []string {
		kind := s.DataType
		if kind == "" {
			kind = s.ObjectType
		}
		return []string{s.Name, strconv.Itoa(s.Version), kind, s.State, instant(s.UpdatedAt), instant(s.RotationDate), instant(s.DeactivationDate)}
	},
	text: func(s *ciphertrust.Secret) json.RawMessage { return s.JSON },
}

// newTrustSecrets is `secrets`. None of its commands shows a value: that is what
// `signet get` is for, where policy allows it.
func newTrustSecrets(t *trust) *cobra.Command {
	var kind, file, newFile string
	create := t.command("create NAME", "Create a secret", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		kinds := []string{ciphertrust.TypePassword, ciphertrust.TypeBlob, ciphertrust.TypeSeed}
		if !slices.Contains(kinds, kind) {
			return usage(cmd, "--type: want one of %s", strings.Join(kinds, ", "))
		}
		value, err := t.hidden(cmd, "value-file", file, "value of "+args[0])
		if err != nil {
			return err
		}
		s, err := c.CreateSecret(cmd.Context(), ciphertrust.NewSecret{Name: args[0], DataType: kind, Value: value})
		return showOne(t, secrets, s, err)
	})
	create.Flags().StringVar(&kind, "type", ciphertrust.TypePassword, "password, blob or seed")
	create.Flags().StringVar(&file, "value-file", "", "`file` with the value, - for the standard input; one newline at its end is not part of it")
	rotate := t.command("rotate NAME", "Give a secret a new version", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		value, err := t.hidden(cmd, "value-file", newFile, "new value of "+args[0])
		if err != nil {
			return err
		}
		s, err := c.RotateSecret(cmd.Context(), args[0], value)
		return showOne(t, secrets, s, err)
	})
	rotate.Flags().StringVar(&newFile, "value-file", "", "`file` with the value, - for the standard input; one newline at its end is not part of it")
	return family("secrets", "Secrets, without their values",
		listing(t, "List secrets", secrets, ciphertrust.SecretFilters,
			func(cmd *cobra.Command, c *ciphertrust.Client, f ciphertrust.Filter) iter.Seq2[*ciphertrust.Secret, error] {
				return c.Secrets(cmd.Context(), f)
			}),
		t.command("get NAME", "Show the record of a secret", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			s, err := c.Secret(cmd.Context(), args[0])
			return showOne(t, secrets, s, err)
		}),
		t.command("versions NAME", "List the versions of a secret", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			return showAll(t, secrets, c.Versions(cmd.Context(), args[0]))
		}),
		create, rotate,
		t.command("delete NAME", "Delete a secret with its value", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if err := t.confirm(cmd, "delete secret %s and its value", args[0]); err != nil {
				return err
			}
			return done(t, args[0], "deleted", c.DeleteSecret(cmd.Context(), args[0]))
		}),
	)
}

var properties = view[ciphertrust.Property]{
	header: []string{"NAME", "VALUE", "DESCRIPTION"},
	row:    func(p *ciphertrust.Property) []string { return []string{p.Name, p.Value, p.Description} },
	text:   func(p *ciphertrust.Property) json.RawMessage { return p.JSON },
}

func newTrustProperties(t *trust) *cobra.Command {
	return family("properties", "Settings of the whole server",
		listing(t, "List settings", properties, ciphertrust.PropertyFilters,
			func(cmd *cobra.Command, c *ciphertrust.Client, f ciphertrust.Filter) iter.Seq2[*ciphertrust.Property, error] {
				return c.Properties(cmd.Context(), f)
			}),
		t.command("get NAME", "Show a setting", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			p, err := c.Property(cmd.Context(), args[0])
			return showOne(t, properties, p, err)
		}),
		t.command("set NAME VALUE", "Change a setting", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			p, err := c.SetProperty(cmd.Context(), args[0], args[1])
			return showOne(t, properties, p, err)
		}),
		t.command("reset NAME", "Give a setting its default value", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			return done(t, args[0], "reset", c.ResetProperty(cmd.Context(), args[0]))
		}),
	)
}

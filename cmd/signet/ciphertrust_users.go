package main

import (
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/ciphertrust"
)

var users = view[ciphertrust.User]{
	header: []string{"ID", "USERNAME", "NAME", "EMAIL", "LAST LOGIN", "FAILED", "LOCKED AT", "GROUPS"},
	row: func(u *ciphertrust.User) []string {
		return []string{u.ID, u.Username, u.Name, u.Email, instant(u.LastLogin), strconv.Itoa(u.FailedLoginsCount),
			instant(u.AccountLockoutAt), strings.Join(u.Groups, ",")}
	},
	text: func(u *ciphertrust.User) json.RawMessage { return u.JSON },
}

func newTrustUsers(t *trust) *cobra.Command {
	return family("users", "Users of the server",
		listing(t, "List users", users, ciphertrust.UserFilters,
			func(cmd *cobra.Command, c *ciphertrust.Client, f ciphertrust.Filter) iter.Seq2[*ciphertrust.User, error] {
				return c.Users(cmd.Context(), f)
			}),
		t.command("get ID", "Show a user; self is the agent's own", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			u, err := c.User(cmd.Context(), args[0])
			return showOne(t, users, u, err)
		}),
		newUserCreate(t), newUserUpdate(t),
		t.command("delete ID", "Delete a user", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if err := t.confirm(cmd, "delete user %s", args[0]); err != nil {
				return err
			}
			if err := c.DeleteUser(cmd.Context(), args[0]); err != nil {
				return err
			}
			return t.said("%s: deleted", args[0])
		}),
		t.command("unlock ID", "Let a user log in again who failed too often", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			u, err := c.UpdateUser(cmd.Context(), args[0], ciphertrust.UserSettings{FailedLoginsCount: new(int)})
			return showOne(t, users, u, err)
		}),
		newUserPassword(t),
	)
}

// userFlags are the settings of a user as flags.
type userFlags struct {
	email, name, dn, policy, expires        string
	methods, clients                        []string
	mustChange, noUI                        bool
	passwordFile, userMetadata, appMetaData string
}

func (u *userFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&u.email, "email", "", "e-mail `address`")
	f.StringVar(&u.name, "name", "", "full `name`")
	f.StringVar(&u.dn, "certificate-subject-dn", "", "`name` in the certificate that the user logs in by")
	f.StringVar(&u.policy, "password-policy", "", "`name` of the policy for the password")
	f.StringVar(&u.expires, "expires-at", "", "`time` from which the account is closed; empty is never")
	f.StringSliceVar(&u.methods, "auth-methods", nil, "password, user_certificate, password_with_user_certificate; empty is none")
	f.StringSliceVar(&u.clients, "client-types", nil, "unregistered, public, confidential")
	f.BoolVar(&u.mustChange, "password-change-required", false, "demand another password at the next login")
	f.BoolVar(&u.noUI, "prevent-ui-login", false, "keep the user out of the web console")
	f.StringVar(&u.passwordFile, "password-file", "", "`file` with the password, - for the standard input")
	f.StringVar(&u.userMetadata, "user-metadata", "", "`JSON` that the user may see and change")
	f.StringVar(&u.appMetaData, "app-metadata", "", "`JSON` that the user may not")
}

// settings are those of the flags that were set.
func (u *userFlags) settings(cmd *cobra.Command) (ciphertrust.UserSettings, error) {
	s := ciphertrust.UserSettings{
		Email: given(cmd, "email", &u.email), Name: given(cmd, "name", &u.name), CertificateDN: given(cmd, "certificate-subject-dn", &u.dn),
		PasswordPolicy: given(cmd, "password-policy", &u.policy), ExpiresAt: given(cmd, "expires-at", &u.expires),
		AllowedAuthMethods: list(given(cmd, "auth-methods", &u.methods)), AllowedClientTypes: list(given(cmd, "client-types", &u.clients)),
		MustChangePassword: given(cmd, "password-change-required", &u.mustChange),
	}
	if cmd.Flags().Changed("prevent-ui-login") {
		s.LoginFlags = &ciphertrust.LoginFlags{PreventUILogin: u.noUI}
	}
	for flag, text := range map[string]struct {
		from string
		to   *json.RawMessage
	}{"user-metadata": {u.userMetadata, &s.UserMetadata}, "app-metadata": {u.appMetaData, &s.ApplicationMetadata}} {
		if text.from == "" {
			continue
		}
		if !json.Valid([]byte(text.from)) {
			return s, usage(cmd, "--%s is not JSON", flag)
		}
		*text.to = json.RawMessage(text.from)
	}
	return s, nil
}

// list is a list that is there even if it is empty: that is said with --x "".
func list(v *[]string) *[]string {
	if v != nil && (*v == nil || len(*v) == 1 && (*v)[0] == "") {
		return &[]string{}
	}
	return v
}

func newUserCreate(t *trust) *cobra.Command {
	var u userFlags
	var connection string
	cmd := t.command("create USERNAME", "Create a user", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		s, err := u.settings(cmd)
		if err != nil {
			return err
		}
		s.Username, s.Connection = args[0], connection
		if u.passwordFile != "" || u.dn == "" {
			if s.Password, err = t.hidden(cmd, "password-file", u.passwordFile, "password of "+args[0]); err != nil {
				return err
			}
		}
		made, err := c.CreateUser(cmd.Context(), s)
		return showOne(t, users, made, err)
	})
	u.add(cmd)
	cmd.Flags().StringVar(&connection, "connection", "", "`directory` to keep the user in")
	return cmd
}

func newUserUpdate(t *trust) *cobra.Command {
	var u userFlags
	cmd := t.command("update ID", "Change a user", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		s, err := u.settings(cmd)
		if err != nil {
			return err
		}
		if u.passwordFile != "" {
			if s.Password, err = t.hidden(cmd, "password-file", u.passwordFile, ""); err != nil {
				return err
			}
		}
		changed, err := c.UpdateUser(cmd.Context(), args[0], s)
		return showOne(t, users, changed, err)
	})
	u.add(cmd)
	return cmd
}

func newUserPassword(t *trust) *cobra.Command {
	var current, next, domain string
	cmd := t.command("password USERNAME", "Change the password of a user by the present one", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		old, err := t.hidden(cmd, "password-file", current, "present password of "+args[0])
		if err != nil {
			return err
		}
		fresh, err := t.hidden(cmd, "new-password-file", next, "new password of "+args[0])
		if err != nil {
			return err
		}
		if err := c.ChangePassword(cmd.Context(), args[0], domain, old, fresh); err != nil {
			return err
		}
		return t.said("%s: password changed", args[0])
	})
	cmd.Flags().StringVar(&current, "password-file", "", "`file` with the present password")
	cmd.Flags().StringVar(&next, "new-password-file", "", "`file` with the new one")
	cmd.Flags().StringVar(&domain, "auth-domain", "", "`domain` where the user was created")
	return cmd
}

var groups = view[ciphertrust.Group]{
	header: []string{"NAME", "USERS", "SYSTEM", "DESCRIPTION"},
	row: func(g *ciphertrust.Group) []string {
		return []string{g.Name, strconv.Itoa(g.UsersCount), yes(g.System()), g.Description}
	},
	text: func(g *ciphertrust.Group) json.RawMessage { return g.JSON },
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return ""
}

func newTrustGroups(t *trust) *cobra.Command {
	var description, name, newDescription string
	create := t.command("create NAME", "Create a group", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		g, err := c.CreateGroup(cmd.Context(), ciphertrust.GroupSettings{Name: args[0], Description: given(cmd, "description", &description)})
		return showOne(t, groups, g, err)
	})
	create.Flags().StringVar(&description, "description", "", "`text` that says what it is for")
	update := t.command("update NAME", "Change a group", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		g, err := c.UpdateGroup(cmd.Context(), args[0], ciphertrust.GroupSettings{Name: name, Description: given(cmd, "description", &newDescription)})
		return showOne(t, groups, g, err)
	})
	update.Flags().StringVar(&name, "rename", "", "its new `name`")
	update.Flags().StringVar(&newDescription, "description", "", "`text` that says what it is for")
	var force bool
	remove := t.command("delete NAME", "Delete a group", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		if err := t.confirm(cmd, "delete group %s", args[0]); err != nil {
			return err
		}
		if err := c.DeleteGroup(cmd.Context(), args[0], force); err != nil {
			return err
		}
		return t.said("%s: deleted", args[0])
	})
	remove.Flags().BoolVar(&force, "force", false, "delete it even if something refers to it")
	return family("groups", "Groups of users and clients",
		listing(t, "List groups", groups, ciphertrust.GroupFilters,
			func(cmd *cobra.Command, c *ciphertrust.Client, f ciphertrust.Filter) iter.Seq2[*ciphertrust.Group, error] {
				return c.Groups(cmd.Context(), f)
			}),
		create, update, remove,
		t.command("add GROUP USER-ID", "Make a user a member", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			g, err := c.AddUser(cmd.Context(), args[0], args[1])
			return showOne(t, groups, g, err)
		}),
		t.command("remove GROUP USER-ID", "End the membership of a user", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if err := t.confirm(cmd, "remove user %s from group %s", args[1], args[0]); err != nil {
				return err
			}
			if err := c.RemoveUser(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			return t.said("%s: %s removed", args[0], args[1])
		}),
	)
}

// done says that something happened to something.
func done(t *trust, what, how string, err error) error {
	if err != nil {
		return err
	}
	return t.said("%s", fmt.Sprintf("%s: %s", what, how))
}

package ciphertrust

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A User is a record of the server's user directory. It never holds a password.
type User struct {
	Raw
	ID                  string          `json:"user_id"` // "local|9cd4196b-..."
	Username            string          `json:"username"`
	Name                string          `json:"name"`
	Nickname            string          `json:"nickname"`
	Email               string          `json:"email"`
	CreatedAt           time.Time       `json:"created_at"`
	UpdatedAt           time.Time       `json:"updated_at"`
	LastLogin           time.Time       `json:"last_login"`
	LoginsCount         int             `json:"logins_count"`
	FailedLoginsCount   int             `json:"failed_logins_count"`
	AccountLockoutAt    time.Time       `json:"account_lockout_at"`
	PasswordChangedAt   time.Time       `json:"password_changed_at"`
	MustChangePassword  bool            `json:"password_change_required"`
	CertificateDN       string          `json:"certificate_subject_dn"`
	AllowedAuthMethods  []string        `json:"allowed_auth_methods"`
	AllowedClientTypes  []string        `json:"allowed_client_types"`
	AuthDomain          string          `json:"auth_domain"`
	AuthDomainName      string          `json:"auth_domain_name"`
	ExpiresAt           string          `json:"expires_at"` // "" is never
	Groups              []string        `json:"groups"`     // of a list only if return_groups is asked for
	UserMetadata        json.RawMessage `json:"user_metadata"`
	ApplicationMetadata json.RawMessage `json:"app_metadata"`
}

// UserFilters are the filters of Users. The group "nil" is no group at all.
var UserFilters = []string{"name", "username", "email", "groups", "exclude_groups", "auth_domain_name", "account_expired",
	"allowed_auth_methods", "allowed_client_types", "password_policy", "return_groups"}

// Users lists users.
func (c *Client) Users(ctx context.Context, f Filter) iter.Seq2[*User, error] {
	return list[User](ctx, c, read("list users", "", "/usermgmt/users/"), UserFilters, f)
}

// User is one user, by ID; "self" is the one that calls are made as.
func (c *Client) User(ctx context.Context, id string) (*User, error) {
	return one[User](ctx, c, read("read user", id, "/usermgmt/users/"+segment(id)), id)
}

// UserSettings are what can be set of a user. What is nil or empty is left as
// it is, or as the server has it by default.
type UserSettings struct {
	Username string `json:"username,omitempty"` // of a new user only
	// Password is needed for a new user, unless it logs in by certificate.
	Password            secret.Value    `json:"-"`
	Connection          string          `json:"connection,omitempty"` // of a new user only
	Email               *string         `json:"email,omitempty"`
	Name                *string         `json:"name,omitempty"`
	UserID              string          `json:"user_id,omitempty"` // of a new user only
	CertificateDN       *string         `json:"certificate_subject_dn,omitempty"`
	IsDomainUser        *bool           `json:"is_domain_user,omitempty"`
	MustChangePassword  *bool           `json:"password_change_required,omitempty"`
	PasswordPolicy      *string         `json:"password_policy,omitempty"`
	ExpiresAt           *string         `json:"expires_at,omitempty"` // RFC 3339; "" is never
	AllowedAuthMethods  *[]string       `json:"allowed_auth_methods,omitempty"`
	AllowedClientTypes  *[]string       `json:"allowed_client_types,omitempty"`
	LoginFlags          *LoginFlags     `json:"login_flags,omitempty"`
	UserMetadata        json.RawMessage `json:"user_metadata,omitempty"`
	ApplicationMetadata json.RawMessage `json:"app_metadata,omitempty"`
	FailedLoginsCount   *int            `json:"failed_logins_count,omitempty"` // of an existing user only; 0 unlocks it
}

// LoginFlags are ways in that are closed to a user.
type LoginFlags struct {
	PreventUILogin bool `json:"prevent_ui_login"`
}

// userBody is UserSettings with the password in clear.
type userBody struct {
	UserSettings
	Password string `json:"password,omitempty"`
}

func (s UserSettings) body() userBody { return userBody{s, string(s.Password.Reveal())} }

// CreateUser makes a user.
func (c *Client) CreateUser(ctx context.Context, s UserSettings) (*User, error) {
	return one[User](ctx, c, post("create user", s.Username, "/usermgmt/users/", s.body()))
}

// UpdateUser changes a user.
func (c *Client) UpdateUser(ctx context.Context, id string, s UserSettings) (*User, error) {
	return one[User](ctx, c, change("update user", id, "/usermgmt/users/"+segment(id), s.body()), id)
}

// DeleteUser deletes a user.
func (c *Client) DeleteUser(ctx context.Context, id string) error {
	return c.on(ctx, remove("delete user", id, "/usermgmt/users/"+segment(id)), nil, id)
}

// ChangePassword changes the password of whoever knows it. It needs no token,
// so that it serves users who have to change theirs before they may log in.
func (c *Client) ChangePassword(ctx context.Context, username, authDomain string, current, next secret.Value) error {
	k := change("change password", username, "/auth/changepw", struct {
		Username   string `json:"username"`
		Password   string `json:"password"`
		New        string `json:"new_password"`
		AuthDomain string `json:"auth_domain,omitempty"`
	}{username, string(current.Reveal()), string(next.Reveal()), authDomain})
	k.open, k.again = true, false
	return c.do(ctx, k, nil)
}

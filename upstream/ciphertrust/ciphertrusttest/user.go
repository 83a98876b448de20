package ciphertrusttest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A user is one of the users of the appliance.
type user struct {
	ID           string // local|uuid
	Username     string
	Name, Email  string
	Salt, Digest string   // of the password
	History      []string // salt:digest of earlier passwords, newest first
	AuthDomain   string   // id
	Domains      []string // ids of the further domains that the user may enter
	Groups       map[string][]string
	CreatedAt    time.Time
	UpdatedAt    time.Time
	LastLogin    *time.Time
	Logins       int
	Failed       int
	FailedFirst  *time.Time
	FailedLast   *time.Time
	LockedAt     *time.Time
	PasswordAt   time.Time
	MustChange   bool
	Policy       string
	ExpiresAt    *time.Time
	SubjectDN    string
	EnableCert   bool
	IsDomainUser bool
	AuthMethods  []string
	ClientTypes  []string
	PreventUI    bool
	UserMeta     map[string]any
	AppMeta      map[string]any
}

type loginFlags struct {
	PreventUI bool `json:"prevent_ui_login"`
}

// userRecord is a user on the wire.
type userRecord struct {
	UserID      string         `json:"user_id"`
	Username    string         `json:"username"`
	Connection  string         `json:"connection"`
	Name        string         `json:"name"`
	Nickname    string         `json:"nickname"`
	Email       string         `json:"email"`
	CreatedAt   time.Time      `json:"created_at"`
	UpdatedAt   time.Time      `json:"updated_at"`
	LastLogin   *time.Time     `json:"last_login"`
	Logins      int            `json:"logins_count"`
	Failed      int            `json:"failed_logins_count"`
	FailedFirst *time.Time     `json:"failed_logins_initial_attempt_at"`
	FailedLast  *time.Time     `json:"last_failed_login_at"`
	LockedAt    *time.Time     `json:"account_lockout_at"`
	PasswordAt  time.Time      `json:"password_changed_at"`
	MustChange  bool           `json:"password_change_required"`
	Policy      string         `json:"password_policy,omitempty"`
	ExpiresAt   *time.Time     `json:"expires_at,omitempty"`
	SubjectDN   string         `json:"certificate_subject_dn"`
	EnableCert  bool           `json:"enable_cert_auth"`
	AuthMethods []string       `json:"allowed_auth_methods"`
	ClientTypes []string       `json:"allowed_client_types"`
	LoginFlags  loginFlags     `json:"login_flags"`
	AuthDomain  string         `json:"auth_domain"`
	DomainName  string         `json:"auth_domain_name"`
	Groups      *[]string      `json:"groups,omitempty"`
	UserMeta    map[string]any `json:"user_metadata"`
	AppMeta     map[string]any `json:"app_metadata"`
}

// record shows the user as seen from the domain.
func (u *user) record(d *domain, groups bool) userRecord {
	r := userRecord{
		UserID: u.ID, Username: u.Username, Connection: "local_account", Name: u.Name, Nickname: u.Username, Email: u.Email,
		CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt, LastLogin: u.LastLogin, Logins: u.Logins,
		Failed: u.Failed, FailedFirst: u.FailedFirst, FailedLast: u.FailedLast, LockedAt: u.LockedAt,
		PasswordAt: u.PasswordAt, MustChange: u.MustChange, Policy: u.Policy, ExpiresAt: u.ExpiresAt,
		SubjectDN: u.SubjectDN, EnableCert: u.EnableCert, AuthMethods: u.AuthMethods, ClientTypes: u.ClientTypes,
		LoginFlags: loginFlags{u.PreventUI}, AuthDomain: u.AuthDomain, DomainName: "root",
		UserMeta: u.UserMeta, AppMeta: u.AppMeta,
	}
	if u.AuthDomain == d.ID {
		r.DomainName = d.Name
	}
	if groups {
		in := append([]string{}, u.groups(d)...)
		r.Groups = &in
	}
	return r
}

// groups are the names of the user's groups in a domain, sorted.
func (u *user) groups(d *domain) []string { return u.Groups[d.ID] }

func (u *user) mayEnter(d *domain) bool {
	return u.AuthDomain == d.ID || slices.Contains(u.Domains, d.ID) || slices.Contains(d.Admins, u.ID)
}

// admin reports whether the user is in a group admin.
func (u *user) admin() bool {
	for _, groups := range u.Groups {
		if slices.Contains(groups, "admin") {
			return true
		}
	}
	return false
}

func (u *user) expired(now time.Time) bool { return u.ExpiresAt != nil && !now.Before(*u.ExpiresAt) }

// userByID finds a user by user_id in either spelling, or returns nil.
func (s *Server) userByID(id string) *user {
	if bare, ok := strings.CutPrefix(id, "local_account|"); ok {
		id = "local|" + bare
	}
	for _, u := range s.state.Users {
		if u.ID == id {
			return u
		}
	}
	return nil
}

// userByName finds a user by login name, or returns nil.
func (s *Server) userByName(name, authDomain string) *user {
	for _, u := range s.state.Users {
		if u.Username == name && u.AuthDomain == authDomain {
			return u
		}
	}
	return nil
}

// pathUser finds the user that the path names, if the caller may see it.
func (s *Server) pathUser(c *call) (*user, *refusal) {
	id := c.args["user"]
	if id == "self" {
		id = c.caller.userID
	}
	u := s.userByID(id)
	if u == nil {
		u = s.userByName(id, c.dom.ID)
	}
	if !c.in("User Admins") && (u == nil || u.ID != c.caller.userID) {
		return nil, forbidden()
	}
	if u == nil || !u.mayEnter(c.dom) {
		return nil, notFound()
	}
	return u, nil
}

// listUsers is GET /usermgmt/users/.
func (s *Server) listUsers(c *call) (any, *refusal) {
	var items []*user
	for _, u := range s.state.Users {
		if u.mayEnter(c.dom) {
			items = append(items, u)
		}
	}
	inAny := func(u *user, want string) bool {
		for name := range strings.SplitSeq(want, ",") {
			if name == "nil" && len(u.groups(c.dom)) == 0 || slices.Contains(u.groups(c.dom), name) {
				return true
			}
		}
		return false
	}
	return list(c, items, map[string]filter[*user]{
		"name":             like(func(u *user) string { return u.Name }),
		"username":         like(func(u *user) string { return u.Username }),
		"email":            like(func(u *user) string { return u.Email }),
		"groups":           inAny,
		"exclude_groups":   func(u *user, want string) bool { return !inAny(u, want) },
		"auth_domain_name": like(func(u *user) string { return u.record(c.dom, false).DomainName }),
		"account_expired":  func(u *user, want string) bool { return yes(u.expired(c.now), want) },
		"allowed_auth_methods": func(u *user, want string) bool {
			return containsAll(u.AuthMethods, want)
		},
		"allowed_client_types": func(u *user, want string) bool {
			return containsAll(u.ClientTypes, want)
		},
		"password_policy": like(func(u *user) string { return u.Policy }),
		"return_groups":   nil,
	}, func(u *user) any { return u.record(c.dom, c.flag("return_groups")) })
}

func containsAll(have []string, want string) bool {
	for one := range strings.SplitSeq(want, ",") {
		if !slices.Contains(have, one) {
			return false
		}
	}
	return true
}

func (s *Server) getUser(c *call) (any, *refusal) {
	u, no := s.pathUser(c)
	if no != nil {
		return nil, no
	}
	return u.record(c.dom, true), nil
}

// userChange holds the fields that both making and changing a user take.
type userChange struct {
	Password     *string        `json:"password"`
	Email        *string        `json:"email"`
	Name         *string        `json:"name"`
	SubjectDN    *string        `json:"certificate_subject_dn"`
	IsDomainUser *bool          `json:"is_domain_user"`
	MustChange   *bool          `json:"password_change_required"`
	Policy       *string        `json:"password_policy"`
	ExpiresAt    *string        `json:"expires_at"`
	AuthMethods  *[]string      `json:"allowed_auth_methods"`
	ClientTypes  *[]string      `json:"allowed_client_types"`
	LoginFlags   *loginFlags    `json:"login_flags"`
	UserMetadata map[string]any `json:"user_metadata"`
	AppMetadata  map[string]any `json:"app_metadata"`
	EnableCert   *bool          `json:"enable_cert_auth"`
	Failed       *int           `json:"failed_logins_count"`
}

// createUser is POST /usermgmt/users/.
func (s *Server) createUser(c *call) (any, *refusal) {
	var in struct {
		userChange
		Username   string `json:"username"`
		Connection string `json:"connection"`
		UserID     string `json:"user_id"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.UserID != "" && c.dom.ID != rootDomain {
		return s.admitUser(c, in.UserID)
	}
	switch {
	case in.UserID != "":
		return nil, invalid("user_id: only an existing user can be added to another domain")
	case in.Failed != nil:
		return nil, invalid(`unknown field "failed_logins_count"`)
	case in.Username == "":
		return nil, invalid("username is required")
	case in.Connection != "" && in.Connection != "local_account" && in.Connection != "local":
		return nil, invalid("connection: not known")
	case s.userByName(in.Username, c.dom.ID) != nil:
		return nil, conflict("a user of that name exists already")
	}
	u := newUser(in.Username, c.dom.ID, c.now)
	byCert := in.SubjectDN != nil && *in.SubjectDN != "" && in.AuthMethods != nil && slices.Contains(*in.AuthMethods, byUserCert)
	if (in.Password == nil || *in.Password == "") && !byCert {
		return nil, invalid("password is required")
	}
	if no := s.change(c, u, in.userChange); no != nil {
		return nil, no
	}
	s.state.Users = append(s.state.Users, u)
	c.changed = true
	return u.record(c.dom, true), nil
}

// newUser is a user with the product's defaults.
func newUser(username, domain string, now time.Time) *user {
	return &user{
		ID: "local|" + uuid(), Username: username, AuthDomain: domain, CreatedAt: now, UpdatedAt: now, PasswordAt: now,
		Groups: map[string][]string{}, AuthMethods: []string{byPassword},
		ClientTypes: []string{"unregistered", "public", "confidential"},
		UserMeta:    map[string]any{}, AppMeta: map[string]any{},
	}
}

// admitUser adds a user of the root domain to another one.
func (s *Server) admitUser(c *call, id string) (any, *refusal) {
	u := s.userByID(id)
	switch {
	case u == nil:
		return nil, notFound()
	case u.mayEnter(c.dom):
		return nil, conflict("the user is in the domain already")
	}
	u.Domains = append(u.Domains, c.dom.ID)
	c.changed = true
	return u.record(c.dom, true), nil
}

func (s *Server) patchUser(c *call) (any, *refusal) {
	u, no := s.pathUser(c)
	if no != nil {
		return nil, no
	}
	if !c.in("User Admins") {
		return nil, forbidden()
	}
	var in userChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if no := s.change(c, u, in); no != nil {
		return nil, no
	}
	return u.record(c.dom, true), nil
}

// change applies a change to a user, all of it or nothing.
func (s *Server) change(c *call, u *user, in userChange) *refusal {
	next := *u
	if in.Email != nil && *in.Email != "" {
		if slices.ContainsFunc(s.state.Users, func(x *user) bool { return x != u && strings.EqualFold(x.Email, *in.Email) }) {
			return conflict("a user with that email exists already")
		}
	}
	if in.ExpiresAt != nil {
		at, no := optionalTime("expires_at", *in.ExpiresAt)
		if no != nil {
			return no
		}
		next.ExpiresAt = at
	}
	if in.AuthMethods != nil {
		if bad := stranger(*in.AuthMethods, byPassword, byUserCert, "password_with_user_certificate"); bad != "" {
			return invalid(fmt.Sprintf("allowed_auth_methods: %q is not known", bad))
		}
		next.AuthMethods = slices.Clone(*in.AuthMethods)
	} else if in.EnableCert != nil && *in.EnableCert && !slices.Contains(u.AuthMethods, byUserCert) {
		next.AuthMethods = append(slices.Clone(u.AuthMethods), byUserCert)
	}
	if in.ClientTypes != nil {
		if bad := stranger(*in.ClientTypes, "unregistered", "public", "confidential"); bad != "" {
			return invalid(fmt.Sprintf("allowed_client_types: %q is not known", bad))
		}
		next.ClientTypes = slices.Clone(*in.ClientTypes)
	}
	if in.Policy != nil && *in.Policy != "" && s.policy(*in.Policy) == nil {
		return invalid("password_policy: not known")
	}
	put(&next.Policy, in.Policy)
	put(&next.Email, in.Email)
	put(&next.Name, in.Name)
	put(&next.SubjectDN, in.SubjectDN)
	put(&next.IsDomainUser, in.IsDomainUser)
	put(&next.MustChange, in.MustChange)
	put(&next.EnableCert, in.EnableCert)
	if in.LoginFlags != nil {
		next.PreventUI = in.LoginFlags.PreventUI
	}
	if in.UserMetadata != nil {
		next.UserMeta = in.UserMetadata
	}
	if in.AppMetadata != nil {
		next.AppMeta = in.AppMetadata
	}
	if in.Failed != nil {
		next.Failed = *in.Failed
		if next.Failed == 0 {
			next.FailedFirst, next.FailedLast, next.LockedAt = nil, nil, nil
		}
	}
	if in.Password != nil && *in.Password != "" {
		if no := s.policyOf(&next).check(&next, *in.Password); no != nil {
			return no
		}
		next.setPassword(*in.Password, c.now)
		next.MustChange = in.MustChange != nil && *in.MustChange
		s.revokeTokensOf(u, c.now)
	}
	next.UpdatedAt = c.now
	*u = next
	c.changed = true
	return nil
}

// stranger is the first of list that is not known, or "".
func stranger(list []string, known ...string) string {
	for _, x := range list {
		if !slices.Contains(known, x) {
			return x
		}
	}
	return ""
}

// put sets what a change names.
func put[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}

// optionalTime reads a time; "" is none.
func optionalTime(field, text string) (*time.Time, *refusal) {
	if text == "" {
		return nil, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, invalid(field + ": want a time as in RFC 3339")
	}
	t = t.UTC()
	return &t, nil
}

func (s *Server) deleteUser(c *call) (any, *refusal) {
	u, no := s.pathUser(c)
	if no != nil {
		return nil, no
	}
	switch {
	case !c.in("User Admins"):
		return nil, forbidden()
	case u.Username == "admin" && u.AuthDomain == rootDomain:
		return nil, protected("the user admin cannot be deleted")
	case u.AuthDomain != c.dom.ID:
		u.Domains = remove(u.Domains, c.dom.ID)
		delete(u.Groups, c.dom.ID)
	default:
		s.state.Users = remove(s.state.Users, u)
		s.state.Tokens = slices.DeleteFunc(s.state.Tokens, func(t *refreshToken) bool { return t.UserID == u.ID })
	}
	c.changed = true
	return nil, nil
}

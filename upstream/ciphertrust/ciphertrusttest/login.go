package ciphertrusttest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// login is the password grant: who the user is, and whether they may now.
func (s *Server) login(c *call, in tokenRequest) (*user, *refusal) {
	authDomain := in.AuthDomain
	if in.AuthDomainPath != "" {
		_, authDomain, _ = cutLast("/"+strings.Trim(in.AuthDomainPath, "/"), "/")
	}
	u, no := s.checkPassword(c, in.Username, in.Password, in.Connection, authDomain)
	if no != nil {
		return nil, no
	}
	if u.MustChange {
		return nil, &refusal{401, 5, "NCERRUnauthorizedAccess", "Password change required."}
	}
	if !u.admin() {
		registered := in.ClientID != "" && s.registered(in.ClientID)
		switch {
		case !registered && !slices.Contains(u.ClientTypes, "unregistered"),
			registered && !slices.Contains(u.ClientTypes, "confidential") && !slices.Contains(u.ClientTypes, "public"),
			!slices.Contains(u.AuthMethods, byPassword) && !slices.Contains(u.AuthMethods, withCert),
			in.Cookies && u.PreventUI:
			return nil, s.wrongPassword()
		}
	}
	if slices.Contains(u.AuthMethods, withCert) && !slices.Contains(u.AuthMethods, byPassword) {
		cert, _, no := s.trustedCertificate(c, userAuth)
		if no != nil {
			return nil, no
		}
		if !sameDN(u.SubjectDN, cert) {
			return nil, invalidClient()
		}
	}
	return u, nil
}

// withCert is the authentication method that takes a password and a certificate.
const withCert = "password_with_user_certificate"

// checkPassword finds the user and counts what goes wrong.
func (s *Server) checkPassword(c *call, username, password, connection, authDomain string) (*user, *refusal) {
	if conn, name, ok := strings.Cut(username, "|"); ok {
		connection, username = conn, name
	}
	d := s.domain(authDomain)
	if d == nil || connection != "" && connection != "local_account" && connection != "local" {
		return nil, s.wrongPassword()
	}
	u := s.userByName(username, d.ID)
	if u == nil || u.expired(c.now) {
		return nil, s.wrongPassword()
	}
	p := s.policyOf(u)
	if u.locked(p, c.now) {
		return nil, s.wrongPassword()
	}
	if !u.hasPassword(password) {
		u.fail(p, c.now)
		c.changed = true
		return nil, s.wrongPassword()
	}
	if p.Lifetime > 0 && !c.now.Before(u.PasswordAt.AddDate(0, 0, p.Lifetime)) {
		u.MustChange = true
		c.changed = true
	}
	return u, nil
}

// loginByCertificate finds the user that the certificate of the connection is
// for.
func (s *Server) loginByCertificate(c *call) (*user, *refusal) {
	cert, _, no := s.trustedCertificate(c, userAuth)
	if no != nil {
		return nil, no
	}
	for _, u := range s.state.Users {
		if !sameDN(u.SubjectDN, cert) || u.expired(c.now) || u.locked(s.policyOf(u), c.now) {
			continue
		}
		if u.admin() || slices.Contains(u.AuthMethods, byUserCert) {
			return u, nil
		}
	}
	return nil, invalidClient()
}

// loggedIn counts a login and forgets failed ones.
func (u *user) loggedIn(now time.Time) {
	u.LastLogin = &now
	u.Logins++
	u.Failed, u.FailedFirst, u.LockedAt = 0, nil, nil
}

// fail counts a failed login.
func (u *user) fail(p *policy, now time.Time) {
	u.Failed++
	u.FailedLast = &now
	if u.FailedFirst == nil {
		u.FailedFirst = &now
	}
	if p.lockout(u.Failed) > 0 {
		u.LockedAt = &now
	}
}

// locked reports whether the user is locked out for failed logins.
func (u *user) locked(p *policy, now time.Time) bool {
	return u.LockedAt != nil && now.Before(u.LockedAt.Add(p.lockout(u.Failed)))
}

func (u *user) setPassword(password string, now time.Time) {
	if u.Digest != "" {
		u.History = append([]string{u.Salt + ":" + u.Digest}, u.History...)
	}
	u.Salt = rand.Text()
	u.Digest, u.PasswordAt = digest(u.Salt, password), now
}

func (u *user) hasPassword(password string) bool {
	return u.Digest != "" && subtle.ConstantTimeCompare([]byte(digest(u.Salt, password)), []byte(u.Digest)) == 1
}

func digest(salt, password string) string {
	sum := sha256.Sum256([]byte(salt + password))
	return hex.EncodeToString(sum[:])
}

// changePassword is PATCH /auth/changepw, which needs no token.
func (s *Server) changePassword(c *call) (any, *refusal) {
	var in struct {
		Username    string `json:"username"`
		Password    string `json:"password"`
		NewPassword string `json:"new_password"`
		AuthDomain  string `json:"auth_domain"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Username == "" || in.Password == "" || in.NewPassword == "" {
		return nil, invalid("username, password and new_password are required")
	}
	u, no := s.checkPassword(c, in.Username, in.Password, "", in.AuthDomain)
	if no != nil {
		return nil, no
	}
	p := s.policyOf(u)
	if p.MinDays > 0 && c.now.Before(u.PasswordAt.AddDate(0, 0, p.MinDays)) && !u.MustChange {
		return nil, invalid("new_password: the password was changed too recently")
	}
	if no := p.check(u, in.NewPassword); no != nil {
		return nil, no
	}
	u.setPassword(in.NewPassword, c.now)
	u.MustChange, u.Failed, u.FailedFirst, u.LockedAt, u.UpdatedAt = false, 0, nil, nil, c.now
	s.revokeTokensOf(u, c.now)
	c.changed = true
	return nil, nil
}

package ciphertrusttest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The grant types.
const (
	byPassword     = "password"
	byRefreshToken = "refresh_token"
	byUserCert     = "user_certificate"
	byClientCert   = "client_credential"
)

// tokenRequest is the body of POST /auth/tokens/.
type tokenRequest struct {
	GrantType      string   `json:"grant_type"`
	Username       string   `json:"username"`
	Name           string   `json:"name"` // an older name of username
	Password       string   `json:"password"`
	Connection     string   `json:"connection"`
	Domain         string   `json:"domain"`
	AuthDomain     string   `json:"auth_domain"`
	AuthDomainPath string   `json:"auth_domain_path"`
	ClientID       string   `json:"client_id"`
	RefreshToken   string   `json:"refresh_token"`
	Lifetime       int      `json:"refresh_token_lifetime"`         // minutes
	UnusedIn       int      `json:"refresh_token_revoke_unused_in"` // minutes
	Renew          bool     `json:"renew_refresh_token"`
	Cookies        bool     `json:"cookies"`
	Labels         []string `json:"labels"`
}

// tokenAnswer is what it answers.
type tokenAnswer struct {
	JWT            string `json:"jwt,omitempty"`
	Duration       int    `json:"duration"`
	TokenType      string `json:"token_type"`
	ClientID       string `json:"client_id,omitempty"`
	RefreshTokenID string `json:"refresh_token_id,omitempty"`
	RefreshToken   string `json:"refresh_token,omitempty"`
	ExpiresIn      int    `json:"refresh_token_expires_in,omitempty"`
}

// issueToken is POST /auth/tokens/.
func (s *Server) issueToken(c *call) (any, *refusal) {
	var in tokenRequest
	if no := c.readTokenRequest(s, &in); no != nil {
		return nil, no
	}
	if in.Username == "" {
		in.Username = in.Name
	}
	if in.GrantType == "" {
		in.GrantType = byPassword
		if in.RefreshToken != "" {
			in.GrantType = byRefreshToken
		}
	}
	if no := in.check(); no != nil {
		return nil, no
	}
	var out *tokenAnswer
	var no *refusal
	switch in.GrantType {
	case byPassword, byUserCert:
		out, no = s.grantUser(c, in)
	case byRefreshToken:
		out, no = s.grantRefresh(c, in)
	default:
		out, no = s.grantClient(c, in)
	}
	if no != nil {
		return nil, no
	}
	if in.Cookies {
		c.setCookie("jwt", out.JWT)
		c.setCookie("refresh_token", out.RefreshToken)
		out.JWT, out.RefreshToken = "", ""
	}
	return out, nil
}

func (c *call) setCookie(name, value string) {
	if value != "" {
		k := http.Cookie{Name: name, Value: value, Path: base, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
		c.header.Add("Set-Cookie", k.String())
	}
}

// check refuses what does not belong together.
func (in *tokenRequest) check() *refusal {
	switch {
	case !slices.Contains([]string{byPassword, byRefreshToken, byUserCert, byClientCert}, in.GrantType):
		return invalid(fmt.Sprintf("grant_type: %q is not known", in.GrantType))
	case in.GrantType == byPassword && (in.Username == "" || in.Password == ""):
		return invalid("username and password are required")
	case in.GrantType == byRefreshToken && in.RefreshToken == "":
		return invalid("refresh_token is required")
	case in.GrantType != byPassword && in.Password != "":
		return invalid("password is not allowed with this grant_type")
	case in.GrantType != byRefreshToken && in.RefreshToken != "":
		return invalid("refresh_token is not allowed with this grant_type")
	case in.GrantType != byRefreshToken && in.Renew:
		return invalid("renew_refresh_token is not allowed with this grant_type")
	case in.GrantType == byClientCert && in.ClientID == "":
		return invalid("client_id is required")
	case in.GrantType == byClientCert && in.Domain != "":
		return invalid("domain is not allowed with this grant_type")
	case in.Lifetime < 0 || in.UnusedIn < 0:
		return invalid("refresh_token_lifetime and refresh_token_revoke_unused_in: want no negative number")
	}
	return nil
}

// readTokenRequest reads JSON or a form.
func (c *call) readTokenRequest(s *Server, in *tokenRequest) *refusal {
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return c.read(s, in)
	}
	form, err := url.ParseQuery(string(c.body))
	if err != nil {
		return malformed("The body is not a form")
	}
	texts := map[string]*string{
		"grant_type": &in.GrantType, "username": &in.Username, "name": &in.Name, "password": &in.Password,
		"connection": &in.Connection, "domain": &in.Domain, "auth_domain": &in.AuthDomain,
		"auth_domain_path": &in.AuthDomainPath, "client_id": &in.ClientID, "refresh_token": &in.RefreshToken,
	}
	numbers := map[string]*int{"refresh_token_lifetime": &in.Lifetime, "refresh_token_revoke_unused_in": &in.UnusedIn}
	flags := map[string]*bool{"renew_refresh_token": &in.Renew, "cookies": &in.Cookies}
	for name, values := range form {
		var err error
		switch {
		case texts[name] != nil:
			*texts[name] = values[0]
		case numbers[name] != nil:
			*numbers[name], err = strconv.Atoi(values[0])
		case flags[name] != nil:
			*flags[name], err = strconv.ParseBool(values[0])
		case name == "labels":
			in.Labels = values
		default:
			return invalid(fmt.Sprintf("unknown field %q", name))
		}
		if err != nil {
			return invalid(fmt.Sprintf("%s: %q is not allowed here", name, values[0]))
		}
	}
	return nil
}

// grantUser logs a user in by password or certificate.
func (s *Server) grantUser(c *call, in tokenRequest) (*tokenAnswer, *refusal) {
	var u *user
	var no *refusal
	if in.GrantType == byPassword {
		u, no = s.login(c, in)
	} else {
		u, no = s.loginByCertificate(c)
	}
	if no != nil {
		return nil, no
	}
	d := s.domain(in.Domain)
	if d == nil || !u.mayEnter(d) {
		return nil, unauthorized("Invalid domain")
	}
	u.loggedIn(c.now)
	t, text := s.newRefreshToken(c, u, d, in)
	out := s.answerWith(c, u, d, t.ClientID)
	out.with(t, text, c.now)
	return out, nil
}

// grantRefresh trades a refresh token for a JWT, and maybe for another one.
func (s *Server) grantRefresh(c *call, in tokenRequest) (*tokenAnswer, *refusal) {
	t := s.token(in.RefreshToken)
	if t == nil || t.Revoked || t.over(c.now) {
		return nil, unauthorized("Invalid refresh token")
	}
	u := s.userByID(t.UserID)
	if u == nil || u.locked(s.policyOf(u), c.now) || u.expired(c.now) {
		return nil, unauthorized("Invalid refresh token")
	}
	if in.ClientID != "" && in.ClientID != t.ClientID {
		return nil, unauthorized("Invalid refresh token")
	}
	d := s.domain(t.Domain)
	if want := s.domain(in.Domain); d == nil || in.Domain != "" && want != d {
		t.revoke(c.now)
		c.changed = true
		return nil, unauthorized("The refresh token was issued for another domain and is revoked")
	}
	t.RefreshedAt = c.now
	c.changed = true
	out := s.answerWith(c, u, d, t.ClientID)
	if !in.Renew {
		out.ClientID = ""
		return out, nil
	}
	t.revoke(c.now)
	next, text := *t, newTokenText()
	next.ID, next.Digest, next.CreatedAt, next.Revoked, next.RevokedAt = uuid(), tokenDigest(text), c.now, false, time.Time{}
	s.state.Tokens = append(s.state.Tokens, &next)
	out.with(&next, text, c.now)
	return out, nil
}

// grantClient logs a registered client in by its certificate.
func (s *Server) grantClient(c *call, in tokenRequest) (*tokenAnswer, *refusal) {
	x, d, no := s.clientByCertificate(c, in.ClientID)
	if no != nil {
		return nil, no
	}
	groups := []string{"All Clients"}
	for _, g := range d.Groups {
		if slices.Contains(g.Clients, x.ID) && g.Name != "All Clients" {
			groups = append(groups, g.Name)
		}
	}
	who := caller{userID: clientSubject + x.ID, username: x.Name, clientID: x.ID, groups: groups}
	return &tokenAnswer{JWT: s.newJWT(who, d, c.now), Duration: 300, TokenType: "Bearer", ClientID: x.ID}, nil
}

// clientSubject starts the subject of a JWT that a client has.
const clientSubject = "client|"

// answerWith is a new JWT for the user.
func (s *Server) answerWith(c *call, u *user, d *domain, clientID string) *tokenAnswer {
	who := caller{u.ID, u.Username, clientID, append([]string{"All Clients"}, u.groups(d)...)}
	return &tokenAnswer{JWT: s.newJWT(who, d, c.now), Duration: 300, TokenType: "Bearer", ClientID: clientID}
}

// with adds a refresh token.
func (out *tokenAnswer) with(t *refreshToken, text string, now time.Time) {
	out.RefreshTokenID, out.RefreshToken = t.ID, text
	if end := t.end(); !end.IsZero() {
		out.ExpiresIn = int(end.Sub(now) / time.Second)
	}
}

// A refreshToken is one that was issued, but for its text.
type refreshToken struct {
	ID, Digest       string
	UserID, ClientID string
	Domain           string
	Labels           []string
	CreatedAt        time.Time
	RefreshedAt      time.Time // when it was last used; at first CreatedAt
	ExpiresAt        time.Time // zero is never
	UnusedIn         int       // minutes; 0 is never
	Revoked          bool
	RevokedAt        time.Time
}

// newRefreshToken issues a refresh token as asked, within what the property
// MAXIMUM_REFRESH_TOKEN_LIFETIME allows.
func (s *Server) newRefreshToken(c *call, u *user, d *domain, in tokenRequest) (*refreshToken, string) {
	text := newTokenText()
	t := &refreshToken{
		ID: uuid(), Digest: tokenDigest(text), UserID: u.ID, ClientID: in.ClientID, Domain: d.ID,
		Labels: append([]string{}, in.Labels...), CreatedAt: c.now, RefreshedAt: c.now, UnusedIn: in.UnusedIn,
	}
	if t.ClientID == "" {
		t.ClientID = uuid()
	}
	life := time.Duration(in.Lifetime) * time.Minute
	if most, _ := lifetime(s.property(maxLifetime)); most > 0 && (life == 0 || life > most) {
		life = most
	}
	if life > 0 {
		t.ExpiresAt = c.now.Add(life)
	}
	s.state.Tokens = append(s.state.Tokens, t)
	c.changed = true
	return t, text
}

// end is when the token ends if it is not used again; zero is never.
func (t *refreshToken) end() time.Time {
	idle := t.RefreshedAt.Add(time.Duration(t.UnusedIn) * time.Minute)
	switch {
	case t.UnusedIn == 0:
		return t.ExpiresAt
	case t.ExpiresAt.IsZero() || idle.Before(t.ExpiresAt):
		return idle
	}
	return t.ExpiresAt
}

func (t *refreshToken) over(now time.Time) bool {
	end := t.end()
	return !end.IsZero() && !now.Before(end)
}

func (t *refreshToken) revoke(now time.Time) {
	if !t.Revoked {
		t.Revoked, t.RevokedAt = true, now
	}
}

// token finds a refresh token by its text, or returns nil.
func (s *Server) token(text string) *refreshToken {
	digest := tokenDigest(text)
	for _, t := range s.state.Tokens {
		if t.Digest == digest {
			return t
		}
	}
	return nil
}

const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// newTokenText is 64 characters of the alphabet, each as likely as another.
func newTokenText() string {
	var text strings.Builder
	b := make([]byte, 1)
	for text.Len() < 64 {
		_, _ = rand.Read(b) // never fails
		if int(b[0]) < 4*len(tokenAlphabet) {
			text.WriteByte(tokenAlphabet[int(b[0])%len(tokenAlphabet)])
		}
	}
	return text.String()
}

func tokenDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

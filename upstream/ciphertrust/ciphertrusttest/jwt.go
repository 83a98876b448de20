package ciphertrusttest

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// jwtLife is how long a JWT is good.
const jwtLife = 300 * time.Second

// claims are those of a JWT, in the product's order.
type claims struct {
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	Issuer   string `json:"iss"`
	Account  string `json:"acc"`
	Username string `json:"preferred_username,omitempty"`
	Custom   struct {
		DomainID   string   `json:"domain_id"`
		DomainName string   `json:"domain_name"`
		Groups     []string `json:"groups"`
		SID        string   `json:"sid"`
		ZoneID     string   `json:"zone_id"`
	} `json:"cust"`
	ID      string `json:"jwtid"`
	Issued  int64  `json:"iat"`
	Expires int64  `json:"exp"`
}

// newJWT signs a JWT.
func (s *Server) newJWT(who caller, d *domain, now time.Time) string {
	p := claims{
		Audience: s.state.Audience, Subject: who.userID, Issuer: "kylo", Account: "kylo", Username: who.username,
		ID: uuid(), Issued: now.Unix(), Expires: now.Unix() + int64(jwtLife/time.Second),
	}
	p.Custom.DomainID, p.Custom.DomainName, p.Custom.ZoneID = d.ID, d.Name, rootDomain
	p.Custom.Groups, p.Custom.SID = who.groups, who.clientID
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // text and numbers
	}
	k := &s.state.AuthKey
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+k.algorithm()+`","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(b)
	return signed + "." + base64.RawURLEncoding.EncodeToString(k.sign(signed))
}

// authenticate finds out who calls by the JWT. s.mu is held.
func (s *Server) authenticate(c *call) *refusal {
	values := c.r.Header.Values("Authorization")
	if len(values) == 0 {
		return unauthorized("No token was given")
	}
	token, ok := strings.CutPrefix(values[0], "Bearer ")
	signed, sig, found := cutLast(token, ".")
	mac, err := base64.RawURLEncoding.DecodeString(sig)
	if !ok || !found || len(values) > 1 || err != nil || !s.state.AuthKey.verify(signed, mac) {
		return unauthorized("Invalid token")
	}
	_, payload, _ := strings.Cut(signed, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	var p claims
	if err != nil || json.Unmarshal(b, &p) != nil {
		return unauthorized("Invalid token")
	}
	if c.now.Unix() >= p.Expires {
		return unauthorized("Token is expired")
	}
	d := s.domain(p.Custom.DomainID)
	if d == nil || !s.exists(p.Subject, d) {
		return unauthorized("Invalid token")
	}
	c.dom = d
	c.caller = &caller{p.Subject, p.Username, p.Custom.SID, p.Custom.Groups}
	return nil
}

// exists reports whether the holder of a JWT is still there.
func (s *Server) exists(subject string, d *domain) bool {
	if id, ok := strings.CutPrefix(subject, clientSubject); ok {
		return slices.ContainsFunc(d.Clients, func(x *client) bool { return x.ID == id && x.State == "active" })
	}
	return s.userByID(subject) != nil
}

// cutLast is strings.Cut at the last separator.
func cutLast(text, sep string) (before, after string, found bool) {
	i := strings.LastIndex(text, sep)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(sep):], true
}

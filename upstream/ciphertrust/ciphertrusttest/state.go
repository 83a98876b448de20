package ciphertrusttest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// rootDomain is the id of the domain that is always there.
const rootDomain = "00000000-0000-0000-0000-000000000000"

// accountURI is the account of everything.
const accountURI = "kylo:kylo:admin:accounts:kylo"

// state is all that an appliance remembers.
type state struct {
	AuthKey    authKey
	NextKey    *authKey `json:",omitempty"` // in use after the next start
	Audience   string   // of JWTs
	Users      []*user
	Policies   []*policy // the first is global
	Tokens     []*refreshToken
	Properties map[string]string
	Domains    []*domain // the first is root
}

// A domain has objects of its own; users and their tokens are common to all.
type domain struct {
	ID, Name    string
	CreatedAt   time.Time
	Admins      []string // user ids
	Groups      []*group
	LocalCAs    []*localCA
	ExternalCAs []*externalCA
	Secrets     []*vaultObject
	Keys        []*vaultObject
	Clients     []*client
	RegTokens   []*regToken
	Profiles    []*profile
	TrustedCAs  []string // of the web interface, by id
}

// common is what most records have.
type common struct {
	ID        string    `json:"id"`
	URI       string    `json:"uri"`
	Account   string    `json:"account"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	Name      string    `json:"name"`
}

// newCommon starts a record. Without a name it gets prefix-id.
func newCommon(kind, prefix, name string, now time.Time) common {
	id := uuid()
	if name == "" {
		name = prefix + "-" + id
	}
	return common{id, "kylo:kylo:" + kind + ":" + id, accountURI, now, now, name}
}

// base gives lists and lookups what all records have.
func (m *common) base() *common { return m }

type record interface{ base() *common }

// lookup finds a record by id, name or URI, or by what the query says that ref
// is, or returns nil.
func lookup[T record](c *call, items []T, ref string) (found T, no *refusal) {
	kind := c.query.Get("type")
	switch kind {
	case "", "id", "name", "uri", "alias", "slug":
	default:
		return found, invalid("type: want id, name, uri, alias or slug")
	}
	for _, item := range items {
		m := item.base()
		is := map[string]bool{"id": m.ID == ref, "name": m.Name == ref, "uri": m.URI == ref, "slug": slug(m.Name) == ref}
		if is[kind] || kind == "" && (is["id"] || is["name"] || is["uri"] || is["slug"]) {
			return item, nil
		}
	}
	return found, notFound()
}

// slug is a name as it may stand in a path.
func slug(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
}

// named reports whether one of the records has the name.
func named[T record](items []T, name string) bool {
	return slices.ContainsFunc(items, func(item T) bool { return item.base().Name == name })
}

// remove takes one record out.
func remove[T comparable](items []T, gone T) []T {
	return slices.DeleteFunc(items, func(item T) bool { return item == gone })
}

// domain finds a domain by id or name; "" is root.
func (s *Server) domain(ref string) *domain {
	for _, d := range s.state.Domains {
		if ref == "" || ref == d.ID || ref == d.Name {
			return d
		}
	}
	return nil
}

// install makes the first state. s is not in use yet.
func (s *Server) install(cfg Config) error {
	now := s.Clock.Now().UTC()
	root := &domain{ID: rootDomain, Name: "root", CreatedAt: now}
	for _, name := range systemGroups {
		root.Groups = append(root.Groups, newGroup(name, true, now))
	}
	ca := &localCA{Bootstrap: true, Record: caRecord{common: newCommon("naboo:localca", "localca", "", now), Purpose: &purpose{enabled, enabled}}}
	ca.Record.activate(s.CA.Certificate)
	root.LocalCAs = append(root.LocalCAs, ca)
	root.TrustedCAs = []string{ca.Record.ID}
	key, no := newAuthKey("hmac", "")
	if no != nil {
		return fmt.Errorf("key of JWTs: %s", no.desc)
	}
	s.state = state{
		AuthKey: *key, Audience: uuid(), Domains: []*domain{root}, Properties: map[string]string{},
		Policies: []*policy{globalPolicy()},
	}
	admin := User{Username: "admin", Password: cfg.AdminPassword, Groups: []string{"admin"}, ID: cfg.Setup.AdminID}
	if err := s.addUsers(slices.Concat([]User{admin}, cfg.Setup.Users), now); err != nil {
		return err
	}
	for _, t := range cfg.Setup.RefreshTokens {
		if err := s.addRefreshToken(t, now); err != nil {
			return err
		}
	}
	for _, x := range cfg.Setup.Secrets {
		if err := s.addSecret(x, now); err != nil {
			return err
		}
	}
	return nil
}

// uuid is a random id.
func uuid() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	u := hex.EncodeToString(b)
	return fmt.Sprintf("%s-%s-%s-%s-%s", u[:8], u[8:12], u[12:16], u[16:20], u[20:])
}

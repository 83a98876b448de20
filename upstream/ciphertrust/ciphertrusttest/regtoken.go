package ciphertrusttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// defaultDays is how long a client's certificate lives that nobody said
// anything about.
const defaultDays = 730

// A regToken is a registration token: whoever has it may register clients.
type regToken struct {
	common
	Token      string            `json:"token"`
	CAID       string            `json:"ca_id"`
	Days       int               `json:"cert_duration"`
	ProfileID  string            `json:"client_management_profile_id,omitempty"`
	Label      map[string]string `json:"label,omitempty"`
	Labels     map[string]string `json:"labels"`
	Lifetime   string            `json:"lifetime,omitempty"`
	MaxClients int               `json:"max_clients,omitempty"`
	NamePrefix string            `json:"name_prefix"`
	ValidUntil *time.Time        `json:"valid_until,omitempty"`
	Registered int               `json:"clients_registered"`
}

func (t *regToken) base() *common { return &t.common }

func (t *regToken) good(now time.Time) bool {
	return (t.ValidUntil == nil || now.Before(*t.ValidUntil)) && (t.MaxClients == 0 || t.Registered < t.MaxClients)
}

// regToken finds a registration token in any domain.
func (s *Server) regToken(text string) (*domain, *regToken) {
	for _, d := range s.state.Domains {
		for _, t := range d.RegTokens {
			if t.Token == text {
				return d, t
			}
		}
	}
	return nil, nil
}

// regTokenChange is the body that makes or changes a registration token.
type regTokenChange struct {
	CAID       *string           `json:"ca_id"`
	Days       *int              `json:"cert_duration"`
	ProfileID  *string           `json:"client_management_profile_id"`
	Label      map[string]string `json:"label"`
	Labels     map[string]string `json:"labels"`
	Lifetime   *string           `json:"lifetime"`
	MaxClients *int              `json:"max_clients"`
	NamePrefix *string           `json:"name_prefix"`
}

// apply changes t; a lifetime counts from when the token was made.
func (in regTokenChange) apply(d *domain, t *regToken) *refusal {
	next := *t
	put(&next.CAID, in.CAID)
	put(&next.Days, in.Days)
	put(&next.ProfileID, in.ProfileID)
	put(&next.Lifetime, in.Lifetime)
	put(&next.MaxClients, in.MaxClients)
	put(&next.NamePrefix, in.NamePrefix)
	if in.Label != nil {
		next.Label = maps.Clone(in.Label)
	}
	if in.Labels != nil {
		next.Labels = maps.Clone(in.Labels)
	}
	if name := next.Label["ClientProfile"]; name != "" && next.ProfileID == "" {
		next.ProfileID = name
	}
	if p := d.profile(next.ProfileID); p != nil {
		next.ProfileID = p.ID
		if p.CAID != "" {
			next.CAID = p.CAID
		}
		if p.Days > 0 && in.Days == nil {
			next.Days = p.Days
		}
	} else if next.ProfileID != "" {
		return invalid("client_management_profile_id: not found")
	}
	ca, no := lookup(&call{}, d.LocalCAs, next.CAID)
	if no != nil || ca.Record.State != active {
		return invalid("ca_id: no active CA")
	}
	next.CAID = ca.Record.URI
	life, err := lifetime(next.Lifetime)
	if err != nil || next.Days <= 0 || next.MaxClients < 0 {
		return invalid(fmt.Sprintf("lifetime %q, cert_duration %d, max_clients %d: not allowed", next.Lifetime, next.Days, next.MaxClients))
	}
	next.ValidUntil = nil
	if life > 0 {
		next.ValidUntil = new(next.CreatedAt.Add(life))
	}
	*t = next
	return nil
}

func (s *Server) listRegTokens(c *call) (any, *refusal) {
	return list(c, c.dom.RegTokens, map[string]filter[*regToken]{
		"id":    like(func(t *regToken) string { return t.ID }),
		"token": like(func(t *regToken) string { return t.Token }),
		"label": func(t *regToken, want string) bool { return hasPair(t.Label, want) },
		"labels": func(t *regToken, want string) bool {
			return hasPair(t.Labels, want)
		},
	}, func(t *regToken) any { return t })
}

// hasPair looks for key or key=value.
func hasPair(have map[string]string, want string) bool {
	for k, v := range have {
		if want == k || want == k+"="+v {
			return true
		}
	}
	return false
}

func (s *Server) createRegToken(c *call) (any, *refusal) {
	var in regTokenChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	t := &regToken{
		common: newCommon("client-management:regtokens", "regtoken", "", c.now), Token: newTokenText(),
		Days: defaultDays, NamePrefix: "client", Labels: map[string]string{},
	}
	if no := in.apply(c.dom, t); no != nil {
		return nil, no
	}
	c.dom.RegTokens = append(c.dom.RegTokens, t)
	c.changed = true
	return t, nil
}

func (s *Server) getRegToken(c *call) (any, *refusal) {
	t, no := lookup(c, c.dom.RegTokens, c.args["token"])
	if no != nil {
		return nil, no
	}
	return t, nil
}

func (s *Server) patchRegToken(c *call) (any, *refusal) {
	t, no := lookup(c, c.dom.RegTokens, c.args["token"])
	if no != nil {
		return nil, no
	}
	var in regTokenChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if no := in.apply(c.dom, t); no != nil {
		return nil, no
	}
	t.UpdatedAt = c.now
	c.changed = true
	return t, nil
}

func (s *Server) deleteRegToken(c *call) (any, *refusal) {
	t, no := lookup(c, c.dom.RegTokens, c.args["token"])
	if no != nil {
		return nil, no
	}
	c.dom.RegTokens = remove(c.dom.RegTokens, t)
	c.changed = true
	return nil, nil
}

// A profile says how clients are registered.
type profile struct {
	common
	CAID   string          `json:"ca_id"`
	Days   int             `json:"cert_duration"`
	CSR    json.RawMessage `json:"csr_parameters,omitempty"`
	Groups []string        `json:"groups"`
}

func (p *profile) base() *common { return &p.common }

// profile finds a profile by id or name, or returns nil.
func (d *domain) profile(ref string) *profile {
	for _, p := range d.Profiles {
		if ref != "" && (p.ID == ref || p.Name == ref) {
			return p
		}
	}
	return nil
}

// profileChange is the body that makes or changes a profile.
type profileChange struct {
	Name   *string         `json:"name"`
	CAID   *string         `json:"ca_id"`
	Days   *int            `json:"cert_duration"`
	CSR    json.RawMessage `json:"csr_parameters"`
	Groups *[]string       `json:"groups"`
}

func (in profileChange) apply(c *call, p *profile) *refusal {
	if in.Name != nil && *in.Name != p.Name {
		if *in.Name == "" {
			return invalid("name is required")
		}
		if named(c.dom.Profiles, *in.Name) {
			return conflict("a profile of that name exists already")
		}
	}
	if in.Groups != nil {
		for _, name := range *in.Groups {
			if c.dom.group(name) == nil {
				return invalid(fmt.Sprintf("groups: no group %q", name))
			}
		}
	}
	put(&p.Name, in.Name)
	put(&p.CAID, in.CAID)
	put(&p.Days, in.Days)
	put(&p.Groups, in.Groups)
	if in.CSR != nil {
		p.CSR = in.CSR
	}
	c.changed = true
	return nil
}

func (s *Server) listProfiles(c *call) (any, *refusal) {
	return list(c, c.dom.Profiles, map[string]filter[*profile]{
		"name": like(func(p *profile) string { return p.Name }),
	}, func(p *profile) any { return p })
}

func (s *Server) createProfile(c *call) (any, *refusal) {
	var in profileChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name == nil {
		return nil, invalid("name is required")
	}
	p := &profile{common: newCommon("client-management:profiles", "profile", "", c.now), Groups: []string{}}
	if no := in.apply(c, p); no != nil {
		return nil, no
	}
	c.dom.Profiles = append(c.dom.Profiles, p)
	return p, nil
}

func (s *Server) getProfile(c *call) (any, *refusal) {
	p, no := lookup(c, c.dom.Profiles, c.args["profile"])
	if no != nil {
		return nil, no
	}
	return p, nil
}

func (s *Server) patchProfile(c *call) (any, *refusal) {
	p, no := lookup(c, c.dom.Profiles, c.args["profile"])
	if no != nil {
		return nil, no
	}
	var in profileChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if no := in.apply(c, p); no != nil {
		return nil, no
	}
	p.UpdatedAt = c.now
	return p, nil
}

func (s *Server) deleteProfile(c *call) (any, *refusal) {
	p, no := lookup(c, c.dom.Profiles, c.args["profile"])
	if no != nil {
		return nil, no
	}
	for _, t := range c.dom.RegTokens {
		if t.ProfileID == p.ID {
			return nil, conflict("a registration token uses the profile")
		}
	}
	c.dom.Profiles = remove(c.dom.Profiles, p)
	c.changed = true
	return nil, nil
}

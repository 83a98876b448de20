package ciphertrusttest

import (
	"slices"
	"time"
)

// domainRecord is a domain on the wire.
type domainRecord struct {
	ID        string    `json:"id"`
	URI       string    `json:"uri"`
	Account   string    `json:"account"`
	CreatedAt time.Time `json:"createdAt"`
	Name      string    `json:"name"`
	Admins    []string  `json:"admins,omitempty"`
}

func (d *domain) record() any {
	return domainRecord{d.ID, "kylo:kylo:admin:domains:" + d.ID, accountURI, d.CreatedAt, d.Name, d.Admins}
}

func listDomainsOf(c *call, items []*domain) (any, *refusal) {
	return list(c, items, map[string]filter[*domain]{
		"name": like(func(d *domain) string { return d.Name }),
	}, func(d *domain) any { return d.record() })
}

func (s *Server) listDomains(c *call) (any, *refusal) { return listDomainsOf(c, s.state.Domains) }

// selfDomains is GET /auth/self/domains.
func (s *Server) selfDomains(c *call) (any, *refusal) {
	u := s.userByID(c.caller.userID)
	var items []*domain
	for _, d := range s.state.Domains {
		if u != nil && u.mayEnter(d) {
			items = append(items, d)
		}
	}
	return listDomainsOf(c, items)
}

// createDomain is POST /domains. Its administrators get the group admin there.
func (s *Server) createDomain(c *call) (any, *refusal) {
	var in struct {
		Name   string   `json:"name"`
		Admins []string `json:"admins"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	switch {
	case in.Name == "" || len(in.Admins) == 0:
		return nil, invalid("name and admins are required")
	case s.domain(in.Name) != nil:
		return nil, conflict("a domain of that name exists already")
	}
	d := &domain{ID: uuid(), Name: in.Name, CreatedAt: c.now}
	for _, name := range systemGroups {
		d.Groups = append(d.Groups, newGroup(name, true, c.now))
	}
	var admins []*user
	for _, id := range in.Admins {
		u := s.userByID(id)
		if u == nil {
			return nil, invalid("admins: no such user")
		}
		admins = append(admins, u)
		d.Admins = append(d.Admins, u.ID)
	}
	for _, u := range admins {
		u.setGroups(d, []string{"admin"})
	}
	s.state.Domains = append(s.state.Domains, d)
	c.changed = true
	return d.record(), nil
}

func (s *Server) getDomain(c *call) (any, *refusal) {
	d := s.domain(c.args["domain"])
	if d == nil {
		return nil, notFound()
	}
	return d.record(), nil
}

func (s *Server) deleteDomain(c *call) (any, *refusal) {
	d := s.domain(c.args["domain"])
	switch {
	case d == nil:
		return nil, notFound()
	case d.ID == rootDomain:
		return nil, protected("the root domain cannot be deleted")
	}
	s.state.Domains = remove(s.state.Domains, d)
	s.state.Tokens = slices.DeleteFunc(s.state.Tokens, func(t *refreshToken) bool { return t.Domain == d.ID })
	c.changed = true
	return nil, nil
}

func (s *Server) systemInfo(*call) (any, *refusal) {
	return map[string]string{"name": "ciphertrust-simulator", "version": "2.22.0", "model": "CipherTrust Manager k170v", "type": "VIRTUAL"}, nil
}

// trusted are the CAs that an interface trusts, by URI.
type trusted struct {
	Local    []string `json:"local"`
	External []string `json:"external"`
}

// showInterface is the web interface, the only one there is.
func (d *domain) showInterface() any {
	t := trusted{[]string{}, []string{}}
	for _, x := range d.LocalCAs {
		if slices.Contains(d.TrustedCAs, x.Record.ID) {
			t.Local = append(t.Local, x.Record.URI)
		}
	}
	for _, x := range d.ExternalCAs {
		if slices.Contains(d.TrustedCAs, x.Record.ID) {
			t.External = append(t.External, x.Record.URI)
		}
	}
	return map[string]any{
		"name": "web", "interface_type": "web", "port": 443, "mode": "tls-cert-opt-pw-opt", "cert_user_field": "CN",
		"minimum_tls_version": "tls_1_2", "allow_unregistered": false, "trusted_cas": t, "enabled": true,
	}
}

func (s *Server) listInterfaces(c *call) (any, *refusal) {
	return list(c, []*domain{c.dom}, map[string]filter[*domain]{
		"name": like(func(*domain) string { return "web" }), "type": like(func(*domain) string { return "web" }),
	}, func(d *domain) any { return d.showInterface() })
}

func (s *Server) getInterface(c *call) (any, *refusal) {
	if c.args["interface"] != "web" {
		return nil, notFound()
	}
	return c.dom.showInterface(), nil
}

// patchInterface changes what the web interface trusts.
func (s *Server) patchInterface(c *call) (any, *refusal) {
	if c.args["interface"] != "web" {
		return nil, notFound()
	}
	var in struct {
		Trusted *trusted `json:"trusted_cas"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Trusted == nil {
		return c.dom.showInterface(), nil
	}
	var ids []string
	for _, ref := range in.Trusted.Local {
		x, no := lookup(&call{}, c.dom.LocalCAs, ref)
		if no != nil || x.Record.State != active {
			return nil, invalid("trusted_cas: no active local CA")
		}
		ids = append(ids, x.Record.ID)
	}
	for _, ref := range in.Trusted.External {
		x, no := lookup(&call{}, c.dom.ExternalCAs, ref)
		if no != nil {
			return nil, invalid("trusted_cas: no external CA")
		}
		ids = append(ids, x.Record.ID)
	}
	c.dom.TrustedCAs = ids
	c.changed = true
	return c.dom.showInterface(), nil
}

package ciphertrusttest

import (
	"slices"
	"strings"
	"time"
)

// systemGroups are there at first and cannot be deleted.
var systemGroups = []string{"admin", "All Clients", "Key Users", "Key Admins", "CA Admins", "User Admins", "Client Admins"}

// A group is a set of users and clients.
type group struct {
	Name        string
	Description string
	System      bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Clients     []string // ids
	UserMeta    map[string]any
	AppMeta     map[string]any
	ClientMeta  map[string]any
}

func newGroup(name string, system bool, now time.Time) *group {
	g := &group{
		Name: name, System: system, CreatedAt: now, UpdatedAt: now,
		UserMeta: map[string]any{}, AppMeta: map[string]any{}, ClientMeta: map[string]any{},
	}
	if system {
		g.AppMeta["system"] = true
	}
	return g
}

type groupRecord struct {
	Name        string         `json:"name"`
	CreatedAt   time.Time      `json:"created_at"`
	UpdatedAt   time.Time      `json:"updated_at"`
	Description string         `json:"description"`
	UsersCount  int            `json:"users_count"`
	UserMeta    map[string]any `json:"user_metadata"`
	AppMeta     map[string]any `json:"app_metadata"`
	ClientMeta  map[string]any `json:"client_metadata"`
}

func (s *Server) groupRecord(d *domain, g *group) groupRecord {
	return groupRecord{g.Name, g.CreatedAt, g.UpdatedAt, g.Description, len(s.members(d, g)), g.UserMeta, g.AppMeta, g.ClientMeta}
}

// members are the ids of a group's users.
func (s *Server) members(d *domain, g *group) []string {
	var ids []string
	for _, u := range s.state.Users {
		if slices.Contains(u.groups(d), g.Name) {
			ids = append(ids, u.ID)
		}
	}
	return ids
}

func (d *domain) group(name string) *group {
	for _, g := range d.Groups {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// listGroups is GET /usermgmt/groups/.
func (s *Server) listGroups(c *call) (any, *refusal) {
	// A list of members; nil stands for none, and a leading - negates.
	holds := func(have []string, want string) bool {
		want, not := strings.CutPrefix(want, "-")
		if want == "nil" {
			return (len(have) == 0) != not
		}
		found := false
		for id := range strings.SplitSeq(want, ",") {
			if bare, ok := strings.CutPrefix(id, "local_account|"); ok {
				id = "local|" + bare
			}
			found = found || slices.Contains(have, id)
		}
		return found != not
	}
	return list(c, c.dom.Groups, map[string]filter[*group]{
		"name":       like(func(g *group) string { return g.Name }),
		"users":      func(g *group, want string) bool { return holds(s.members(c.dom, g), want) },
		"clients":    func(g *group, want string) bool { return holds(g.Clients, want) },
		"connection": func(_ *group, want string) bool { return want == "local_account" || want == "local" },
	}, func(g *group) any { return s.groupRecord(c.dom, g) })
}

// groupChange is the body that makes or changes a group.
type groupChange struct {
	Name        *string        `json:"name"`
	Description *string        `json:"description"`
	AppMeta     map[string]any `json:"app_metadata"`
	ClientMeta  map[string]any `json:"client_metadata"`
	UserMeta    map[string]any `json:"user_metadata"`
}

func (in groupChange) apply(g *group) {
	put(&g.Description, in.Description)
	for _, x := range []struct {
		to    *map[string]any
		value map[string]any
	}{{&g.AppMeta, in.AppMeta}, {&g.ClientMeta, in.ClientMeta}, {&g.UserMeta, in.UserMeta}} {
		if x.value != nil {
			*x.to = x.value
		}
	}
	if g.System {
		g.AppMeta["system"] = true
	}
}

func (s *Server) createGroup(c *call) (any, *refusal) {
	var in groupChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name == nil || *in.Name == "" {
		return nil, invalid("name is required")
	}
	if c.dom.group(*in.Name) != nil {
		return nil, conflict("a group of that name exists already")
	}
	g := newGroup(*in.Name, false, c.now)
	in.apply(g)
	c.dom.Groups = append(c.dom.Groups, g)
	c.changed = true
	return s.groupRecord(c.dom, g), nil
}

func (s *Server) getGroup(c *call) (any, *refusal) {
	g := c.dom.group(c.args["group"])
	if g == nil {
		return nil, notFound()
	}
	return s.groupRecord(c.dom, g), nil
}

func (s *Server) patchGroup(c *call) (any, *refusal) {
	g := c.dom.group(c.args["group"])
	if g == nil {
		return nil, notFound()
	}
	var in groupChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name != nil && *in.Name != g.Name {
		switch {
		case g.System:
			return nil, protected("a system group cannot be renamed")
		case *in.Name == "":
			return nil, invalid("name: cannot be empty")
		case c.dom.group(*in.Name) != nil:
			return nil, conflict("a group of that name exists already")
		}
		for _, u := range s.state.Users {
			if groups := u.groups(c.dom); slices.Contains(groups, g.Name) {
				u.setGroups(c.dom, append(remove(groups, g.Name), *in.Name))
			}
		}
		g.Name = *in.Name
	}
	in.apply(g)
	g.UpdatedAt = c.now
	c.changed = true
	return s.groupRecord(c.dom, g), nil
}

// setGroups sets the user's groups in a domain.
func (u *user) setGroups(d *domain, groups []string) {
	slices.Sort(groups)
	u.Groups[d.ID] = slices.Compact(groups)
}

func (s *Server) deleteGroup(c *call) (any, *refusal) {
	g := c.dom.group(c.args["group"])
	if g == nil {
		return nil, notFound()
	}
	var in struct {
		Force bool `json:"force"`
	}
	if no := c.readAny(s, &in); no != nil {
		return nil, no
	}
	switch {
	case g.System:
		return nil, protected("a system group cannot be deleted")
	case !in.Force && !c.flag("force") && (len(s.members(c.dom, g)) > 0 || len(g.Clients) > 0):
		return nil, conflict("the group is in use; it can be deleted with force")
	}
	for _, u := range s.state.Users {
		if groups := u.groups(c.dom); slices.Contains(groups, g.Name) {
			u.setGroups(c.dom, remove(groups, g.Name))
		}
	}
	c.dom.Groups = remove(c.dom.Groups, g)
	c.changed = true
	return nil, nil
}

// groupUser finds the group and the user that the path names.
func (s *Server) groupUser(c *call) (*group, *user, *refusal) {
	g := c.dom.group(c.args["group"])
	if g == nil {
		return nil, nil, notFound()
	}
	if g.Name == "admin" && !c.in() {
		return nil, nil, forbidden() // or whoever administers users could become an administrator
	}
	u, no := s.pathUser(c)
	return g, u, no
}

func (s *Server) addMember(c *call) (any, *refusal) {
	g, u, no := s.groupUser(c)
	if no != nil {
		return nil, no
	}
	u.setGroups(c.dom, append(slices.Clone(u.groups(c.dom)), g.Name))
	c.changed = true
	return s.groupRecord(c.dom, g), nil
}

func (s *Server) removeMember(c *call) (any, *refusal) {
	g, u, no := s.groupUser(c)
	switch {
	case no != nil:
		return nil, no
	case !slices.Contains(u.groups(c.dom), g.Name):
		return nil, notFound()
	case g.Name == "admin" && u.Username == "admin":
		return nil, protected("the user admin stays in the group admin")
	}
	u.setGroups(c.dom, remove(slices.Clone(u.groups(c.dom)), g.Name))
	c.changed = true
	return nil, nil
}

func (s *Server) addClientMember(c *call) (any, *refusal) {
	g := c.dom.group(c.args["group"])
	if g == nil {
		return nil, notFound()
	}
	x, no := lookup(c, c.dom.Clients, c.args["client"])
	if no != nil {
		return nil, no
	}
	if !slices.Contains(g.Clients, x.ID) {
		g.Clients = append(g.Clients, x.ID)
	}
	c.changed = true
	return s.groupRecord(c.dom, g), nil
}

func (s *Server) removeClientMember(c *call) (any, *refusal) {
	g := c.dom.group(c.args["group"])
	if g == nil {
		return nil, notFound()
	}
	x, no := lookup(c, c.dom.Clients, c.args["client"])
	if no != nil {
		return nil, no
	}
	g.Clients = remove(g.Clients, x.ID)
	c.changed = true
	return nil, nil
}

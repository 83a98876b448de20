package ciphertrust

import (
	"context"
	"encoding/json"
	"iter"
	"net/url"
	"time"
)

// A Group is a set of users and clients with the permissions that they have by
// it.
type Group struct {
	Raw
	Name                string          `json:"name"`
	CreatedAt           time.Time       `json:"created_at"`
	UpdatedAt           time.Time       `json:"updated_at"`
	Description         string          `json:"description"`
	UsersCount          int             `json:"users_count"`
	UserMetadata        json.RawMessage `json:"user_metadata"`
	ApplicationMetadata json.RawMessage `json:"app_metadata"`
	ClientMetadata      json.RawMessage `json:"client_metadata"`
}

// System reports whether the group is one of the server's own, which cannot be
// deleted.
func (g *Group) System() bool {
	var m struct {
		System bool `json:"system"`
	}
	return json.Unmarshal(g.ApplicationMetadata, &m) == nil && m.System
}

// GroupFilters are the filters of Groups. A users of "nil" is groups without
// any.
var GroupFilters = []string{"name", "users", "connection", "clients"}

// Groups lists groups.
func (c *Client) Groups(ctx context.Context, f Filter) iter.Seq2[*Group, error] {
	return list[Group](ctx, c, read("list groups", "", "/usermgmt/groups/"), GroupFilters, f)
}

// GroupSettings are what can be set of a group; what is nil stays.
type GroupSettings struct {
	Name                string          `json:"name,omitempty"` // of an existing group: its new name
	Description         *string         `json:"description,omitempty"`
	UserMetadata        json.RawMessage `json:"user_metadata,omitempty"`
	ApplicationMetadata json.RawMessage `json:"app_metadata,omitempty"`
	ClientMetadata      json.RawMessage `json:"client_metadata,omitempty"`
}

// CreateGroup makes a group.
func (c *Client) CreateGroup(ctx context.Context, s GroupSettings) (*Group, error) {
	return one[Group](ctx, c, post("create group", s.Name, "/usermgmt/groups/", s))
}

// UpdateGroup changes a group.
func (c *Client) UpdateGroup(ctx context.Context, name string, s GroupSettings) (*Group, error) {
	k := change("update group", name, "/usermgmt/groups/"+segment(name), s)
	k.again = s.Name == "" // a renamed group is not there any more
	return one[Group](ctx, c, k, name)
}

// DeleteGroup deletes a group; with force even one that is referred to.
func (c *Client) DeleteGroup(ctx context.Context, name string, force bool) error {
	k := remove("delete group", name, "/usermgmt/groups/"+segment(name))
	if force {
		k.query = url.Values{"force": {"true"}}
	}
	return c.on(ctx, k, nil, name)
}

// AddUser makes a user a member of a group. Doing so twice is harmless.
func (c *Client) AddUser(ctx context.Context, group, userID string) (*Group, error) {
	return c.join(ctx, group, "users", userID)
}

// RemoveUser ends the membership of a user.
func (c *Client) RemoveUser(ctx context.Context, group, userID string) error {
	return c.leave(ctx, group, "users", userID)
}

// AddClient makes a registered client a member of a group.
func (c *Client) AddClient(ctx context.Context, group, clientID string) (*Group, error) {
	return c.join(ctx, group, "clients", clientID)
}

// RemoveClient ends the membership of a registered client.
func (c *Client) RemoveClient(ctx context.Context, group, clientID string) error {
	return c.leave(ctx, group, "clients", clientID)
}

func (c *Client) join(ctx context.Context, group, kind, id string) (*Group, error) {
	k := post("add to group", group, memberPath(group, kind, id), nil)
	k.again = true
	return one[Group](ctx, c, k, group, id)
}

func (c *Client) leave(ctx context.Context, group, kind, id string) error {
	return c.on(ctx, remove("remove from group", group, memberPath(group, kind, id)), nil, group, id)
}

func memberPath(group, kind, id string) string {
	return "/usermgmt/groups/" + segment(group) + "/" + kind + "/" + segment(id)
}

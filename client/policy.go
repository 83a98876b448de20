package client

import (
	"context"
	"net/url"
)

// A Question is what the policy is asked about a caller.
type Question struct {
	// UID is a user's number, with the groups that the host gives it; Unit is
	// a systemd unit. One of them is needed.
	UID, Unit string
	// Name is of the item or the upstream.
	Name string
	// Kind is secret, certificate, key, token, proxy or admin; "" is each.
	Kind string
	// Op is what to do with a key (sign, read) or a proxy's HTTP method, and
	// Path the path at the upstream.
	Op, Path string
}

// A Decision is what the policy answers, and why.
type Decision struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Allowed bool   `json:"allowed"`
	Rule    int    `json:"rule"` // its place in the configuration, from 0; -1 if none
	By      string `json:"by,omitempty"`
	Text    string `json:"text"`
}

// ExplainPolicy says which rule decides what a caller may do. It is for
// administrators.
func (c *Client) ExplainPolicy(ctx context.Context, q Question) ([]Decision, error) {
	v := url.Values{}
	for key, value := range map[string]string{"uid": q.UID, "unit": q.Unit, "name": q.Name, "kind": q.Kind, "op": q.Op, "path": q.Path} {
		if value != "" {
			v.Set(key, value)
		}
	}
	var answer struct {
		Decisions []Decision `json:"decisions"`
	}
	err := c.get(ctx, "policy", "/v1/policy/explain?"+v.Encode(), &answer)
	return answer.Decisions, err
}

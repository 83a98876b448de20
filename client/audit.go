package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// An Audit is what the agent knows of its audit and nobody else can change: with
// it, what lies on the disk is verified.
type Audit struct {
	File string `json:"file"` // path of the file
	Head string `json:"head"` // hash of the last line that was written to it
	Keys []*Key `json:"keys"` // all that have signed it, by generation
}

// Audit is for those who may see the key that signs the audit, administrators
// among them.
func (c *Client) Audit(ctx context.Context) (*Audit, error) {
	a := new(Audit)
	if err := c.get(ctx, "audit", "/v1/audit", a); err != nil {
		return nil, err
	}
	return a, nil
}

// An AuditRange says which lines of an audit are meant. The zero range is all.
type AuditRange struct {
	// Last is how many of the last lines of the newest file; 0 is all lines of all
	// files, oldest first.
	Last int
	// After leaves out files that come before the line of that hash.
	After string
}

// AuditLines are lines of the agent's audit, for administrators. They are read while
// they come, until ctx is done; who has read them closes them.
func (c *Client) AuditLines(ctx context.Context, r AuditRange) (io.ReadCloser, error) {
	k := call{method: http.MethodGet, path: "/v1/audit/lines", what: "audit", query: url.Values{}}
	if r.Last > 0 {
		k.query.Set("last", strconv.Itoa(r.Last))
	}
	if r.After != "" {
		k.query.Set("after", r.After)
	}
	resp, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

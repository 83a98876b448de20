package client

import "context"

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

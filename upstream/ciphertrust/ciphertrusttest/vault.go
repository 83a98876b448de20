package ciphertrusttest

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// The states of vault objects.
const (
	preActive   = "Pre-Active"
	stateActive = "Active"
	deactivated = "Deactivated"
	destroyed   = "Destroyed"
	compromised = "Compromised"
)

// meta says whose a vault object is and who else may do what with it.
type meta struct {
	OwnerID     string              `json:"ownerId"`
	Permissions map[string][]string `json:"permissions,omitempty"` // groups by what they may do
}

// dates are the moments in the life of a vault object.
type dates struct {
	Activation   *time.Time `json:"activationDate,omitempty"`
	Deactivation *time.Time `json:"deactivationDate,omitempty"`
	Archive      *time.Time `json:"archiveDate,omitempty"`
	ProcessStart *time.Time `json:"processStartDate,omitempty"`
	ProtectStop  *time.Time `json:"protectStopDate,omitempty"`
	Rotation     *time.Time `json:"rotationDate,omitempty"`
	Destroy      *time.Time `json:"destroyDate,omitempty"`
	RotationDays string     `json:"rotationFrequencyDays,omitempty"`
}

// alias is another name of a vault object.
type alias struct {
	Alias string `json:"alias"`
	Type  string `json:"type"`
	Index int    `json:"index"`
}

// vaultRecord is one version of a secret or a key on the wire.
type vaultRecord struct {
	common
	Version    int    `json:"version"`
	DataType   string `json:"dataType,omitempty"` // of a secret
	ObjectType string `json:"objectType"`
	State      string `json:"state"`
	dates
	Meta         meta              `json:"meta"`
	Undeletable  bool              `json:"undeletable"`
	Unexportable bool              `json:"unexportable"`
	SHA1         string            `json:"sha1Fingerprint"`
	SHA256       string            `json:"sha256Fingerprint"`
	Labels       map[string]string `json:"labels"`
	Aliases      []alias           `json:"aliases,omitempty"`
	Material     string            `json:"material,omitempty"`
	keyFields
}

// A vaultObject is one version of a secret or a key. Versions share the name.
type vaultObject struct {
	Record      vaultRecord // without State
	Material    string      // as the API shows it
	Private     []byte      // PKCS #8, of a key pair
	Destroyed   bool
	Compromised bool
}

func (x *vaultObject) base() *common { return &x.Record.common }

// state is where the version is in its life.
func (x *vaultObject) state(now time.Time) string {
	switch {
	case x.Destroyed && x.Compromised:
		return "Destroyed Compromised"
	case x.Destroyed:
		return destroyed
	case x.Compromised:
		return compromised
	case x.Record.Deactivation != nil && !now.Before(*x.Record.Deactivation):
		return deactivated
	case x.Record.Activation == nil || now.Before(*x.Record.Activation):
		return preActive
	}
	return stateActive
}

// show is the version as it is now.
func (x *vaultObject) show(now time.Time, material bool) vaultRecord {
	r := x.Record
	r.State = x.state(now)
	if material {
		r.Material = x.Material
	}
	return r
}

// may reports whether the caller may do that with an object.
func (c *call) may(m meta, what string) bool {
	if c.in("Key Admins") || m.OwnerID == c.caller.userID {
		return true
	}
	return slices.ContainsFunc(c.caller.groups, func(g string) bool { return slices.Contains(m.Permissions[what], g) })
}

// objects are the keys or the secrets, whichever the path is about.
func (c *call) objects() *[]*vaultObject {
	if strings.HasPrefix(c.r.URL.Path, base+"/vault/secrets") {
		return &c.dom.Secrets
	}
	return &c.dom.Keys
}

// pathObject finds the version of a secret or key that the path and the query name, if
// the caller may do that with it.
func (s *Server) pathObject(c *call, what string) (*vaultObject, *refusal) {
	kind, ref := c.query.Get("type"), c.args["object"]
	version := -1
	if text := c.query.Get("version"); text != "" {
		var err error
		if version, err = strconv.Atoi(text); err != nil || version < -1 {
			return nil, invalid("version: want -1 or a number that is not negative")
		}
	}
	if _, no := lookup[*vaultObject](c, nil, ref); no.status != 404 {
		return nil, no
	}
	var found *vaultObject
	for _, x := range *c.objects() {
		byID := (kind == "" || kind == "id") && x.Record.ID == ref || (kind == "" || kind == "uri") && x.Record.URI == ref
		byName := (kind == "" || kind == "name" || kind == "slug") && x.Record.Name == ref ||
			(kind == "" || kind == "alias") && slices.ContainsFunc(x.Record.Aliases, func(a alias) bool { return a.Alias == ref })
		if byID || byName && (x.Record.Version == version || version == -1) {
			if found == nil || x.Record.Version > found.Record.Version {
				found = x
			}
		}
	}
	switch {
	case found == nil:
		return nil, notFound()
	case !c.may(found.Record.Meta, what):
		return nil, forbidden()
	}
	return found, nil
}

// vaultChange are the fields that making and changing an object share.
type vaultChange struct {
	Meta         *meta             `json:"meta"`
	Labels       map[string]string `json:"labels"`
	Aliases      *[]alias          `json:"aliases"`
	Undeletable  *bool             `json:"undeletable"`
	Unexportable *bool             `json:"unexportable"`
	Activation   *string           `json:"activationDate"`
	Deactivation *string           `json:"deactivationDate"`
	Archive      *string           `json:"archiveDate"`
	ProcessStart *string           `json:"processStartDate"`
	ProtectStop  *string           `json:"protectStopDate"`
	Rotation     *string           `json:"rotationDate"`
	RotationDays *string           `json:"rotationFrequencyDays"`
}

func (in vaultChange) apply(r *vaultRecord) *refusal {
	d := r.dates
	for _, x := range []struct {
		name string
		to   **time.Time
		text *string
	}{
		{"activationDate", &d.Activation, in.Activation}, {"deactivationDate", &d.Deactivation, in.Deactivation},
		{"archiveDate", &d.Archive, in.Archive}, {"processStartDate", &d.ProcessStart, in.ProcessStart},
		{"protectStopDate", &d.ProtectStop, in.ProtectStop}, {"rotationDate", &d.Rotation, in.Rotation},
	} {
		if x.text == nil {
			continue
		}
		at, no := optionalTime(x.name, *x.text)
		if no != nil {
			return no
		}
		*x.to = at
	}
	if in.RotationDays != nil {
		if n, err := strconv.Atoi(*in.RotationDays); *in.RotationDays != "" && (err != nil || n < 0) {
			return invalid("rotationFrequencyDays: want a number of days, as text")
		}
		d.RotationDays = *in.RotationDays
	}
	if d.Activation != nil && d.Deactivation != nil && d.Deactivation.Before(*d.Activation) {
		return invalid("deactivationDate: is before activationDate")
	}
	r.dates = d
	if in.Meta != nil {
		owner := r.Meta.OwnerID
		r.Meta = *in.Meta
		if r.Meta.OwnerID == "" {
			r.Meta.OwnerID = owner
		}
	}
	if in.Labels != nil {
		r.Labels = in.Labels
	}
	put(&r.Aliases, in.Aliases)
	put(&r.Undeletable, in.Undeletable)
	put(&r.Unexportable, in.Unexportable)
	return nil
}

func (s *Server) getObject(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ReadKey")
	if no != nil {
		return nil, no
	}
	return x.show(c.now, false), nil
}

func (s *Server) patchObject(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	var in vaultChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if x.Record.Unexportable && in.Unexportable != nil && !*in.Unexportable {
		return nil, protected("an object that is unexportable stays so")
	}
	if no := in.apply(&x.Record); no != nil {
		return nil, no
	}
	x.Record.UpdatedAt = c.now
	c.changed = true
	return x.show(c.now, false), nil
}

func (s *Server) deleteObject(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "DeleteKey")
	if no != nil {
		return nil, no
	}
	if x.Record.Undeletable {
		return nil, protected("the object is undeletable")
	}
	objects := c.objects()
	*objects = remove(*objects, x)
	c.changed = true
	return nil, nil
}

func (s *Server) destroyObject(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "DeleteKey")
	if no != nil {
		return nil, no
	}
	switch {
	case x.Record.Undeletable:
		return nil, protected("the object is undeletable")
	case x.Destroyed:
		return nil, conflict("the object is destroyed already")
	}
	x.Destroyed, x.Material, x.Private = true, "", nil
	x.Record.Destroy, x.Record.UpdatedAt = &c.now, c.now
	c.changed = true
	return x.show(c.now, false), nil
}

// listVersions is GET /vault/secrets/{id}/versions, oldest first.
func (s *Server) listVersions(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ReadKey")
	if no != nil {
		return nil, no
	}
	var items []*vaultObject
	for _, y := range *c.objects() {
		if y.Record.Name == x.Record.Name {
			items = append(items, y)
		}
	}
	return list(c, items, map[string]filter[*vaultObject]{
		"state":  like(func(y *vaultObject) string { return y.state(c.now) }),
		"fields": nil, "linkType": nil, "type": nil, "version": nil,
	}, func(y *vaultObject) any { return y.show(c.now, false) })
}

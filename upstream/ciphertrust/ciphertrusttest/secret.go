package ciphertrusttest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The states of vault objects.
const (
	preActive   = "Pre-Active"
	stateActive = "Active"
	deactivated = "Deactivated"
	destroyed   = "Destroyed"
)

// The kinds of secrets.
const (
	blob         = "blob"
	passwordType = "password"
	seed         = "seed"
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

// secretRecord is one version of a secret on the wire.
type secretRecord struct {
	common
	Version    int    `json:"version"`
	DataType   string `json:"dataType"`
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
}

// A secret is one version of a secret. Versions share the name.
type secret struct {
	Record    secretRecord // without State
	Material  string       // as the API shows it
	Destroyed bool
}

func (x *secret) base() *common { return &x.Record.common }

// state is where the version is in its life.
func (x *secret) state(now time.Time) string {
	switch {
	case x.Destroyed:
		return destroyed
	case x.Record.Deactivation != nil && !now.Before(*x.Record.Deactivation):
		return deactivated
	case x.Record.Activation == nil || now.Before(*x.Record.Activation):
		return preActive
	}
	return stateActive
}

// show is the version as it is now.
func (x *secret) show(now time.Time, material bool) secretRecord {
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

// pathSecret finds the version of a secret that the path and the query name, if
// the caller may do that with it.
func (s *Server) pathSecret(c *call, what string) (*secret, *refusal) {
	kind, ref := c.query.Get("type"), c.args["secret"]
	version := -1
	if text := c.query.Get("version"); text != "" {
		var err error
		if version, err = strconv.Atoi(text); err != nil || version < -1 {
			return nil, invalid("version: want -1 or a number that is not negative")
		}
	}
	if _, no := lookup[*secret](c, nil, ref); no.status != 404 {
		return nil, no
	}
	var found *secret
	for _, x := range c.dom.Secrets {
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

// secretChange are the fields that making and changing a secret share.
type secretChange struct {
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

func (in secretChange) apply(r *secretRecord) *refusal {
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

// createSecret is POST /vault/secrets.
func (s *Server) createSecret(c *call) (any, *refusal) {
	var in struct {
		secretChange
		Name     string  `json:"name"`
		DataType string  `json:"dataType"`
		Material *string `json:"material"`
		IDSize   int     `json:"idSize"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name == "" {
		in.Name = "secret-" + uuid()
	}
	for _, x := range slices.Backward(c.dom.Secrets) {
		if x.Record.Name != in.Name {
			continue
		}
		if c.flag("returnExisting") && c.may(x.Record.Meta, "ReadKey") {
			return x.show(c.now, false), nil
		}
		return nil, keyExists()
	}
	if in.DataType == "" {
		in.DataType = blob
	}
	x := newSecret(in.Name, in.DataType, 0, c.now)
	x.Record.Meta.OwnerID = c.caller.userID
	if no := x.setMaterial(in.Material); no != nil {
		return nil, no
	}
	if no := in.apply(&x.Record); no != nil {
		return nil, no
	}
	c.dom.Secrets = append(c.dom.Secrets, x)
	c.changed = true
	return x.show(c.now, c.flag("includeMaterial")), nil
}

// newSecret is a version that is active from now on.
func newSecret(name, dataType string, version int, now time.Time) *secret {
	r := secretRecord{
		common: newCommon("vault:secrets", "", name, now), Version: version, DataType: dataType, ObjectType: "Secret Data",
		dates: dates{Activation: &now}, Labels: map[string]string{},
	}
	if dataType == blob {
		r.ObjectType = "Opaque Object"
	}
	r.URI = fmt.Sprintf("kylo:kylo:vault:secrets:%s-v%d", slug(name), version)
	return &secret{Record: r}
}

// setMaterial sets the value; nil has one made up, where that is possible.
func (x *secret) setMaterial(text *string) *refusal {
	var raw []byte
	var err error
	switch {
	case x.Record.DataType != passwordType && x.Record.DataType != seed && x.Record.DataType != blob:
		return invalid("dataType: want blob, password or seed")
	case x.Record.DataType == passwordType && text == nil:
		raw = []byte(newTokenText()[:24])
		text = new(string(raw))
	case x.Record.DataType == seed && text == nil:
		raw = make([]byte, 32)
		_, _ = rand.Read(raw) // never fails
		text = new(hex.EncodeToString(raw))
	case text == nil || *text == "":
		return invalid("material is required")
	case x.Record.DataType == passwordType:
		raw = []byte(*text)
		if !utf8.Valid(raw) {
			return invalid("material: want UTF-8")
		}
	case x.Record.DataType == seed:
		if raw, err = hex.DecodeString(*text); err != nil {
			return invalid("material: want hex")
		}
	default:
		if raw, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(*text, "=")); err != nil {
			return invalid("material: want base64url")
		}
	}
	f := fingerprintsOf(raw)
	x.Material, x.Record.SHA1, x.Record.SHA256 = *text, f.SHA1, f.SHA256
	return nil
}

// listSecrets is GET /vault/secrets: every version that the caller may read.
func (s *Server) listSecrets(c *call) (any, *refusal) {
	latest := map[string]int{}
	var items []*secret
	for _, x := range c.dom.Secrets {
		latest[x.Record.Name] = max(latest[x.Record.Name], x.Record.Version)
		if c.may(x.Record.Meta, "ReadKey") {
			items = append(items, x)
		}
	}
	return list(c, items, map[string]filter[*secret]{
		"name":       like(func(x *secret) string { return x.Record.Name }),
		"objectType": like(func(x *secret) string { return x.Record.ObjectType }),
		"version": func(x *secret, want string) bool {
			n, err := strconv.Atoi(want)
			return err == nil && (n == x.Record.Version || n == -1 && x.Record.Version == latest[x.Record.Name])
		},
		"sha1Fingerprint":   like(func(x *secret) string { return x.Record.SHA1 }),
		"sha256Fingerprint": like(func(x *secret) string { return x.Record.SHA256 }),
	}, func(x *secret) any { return x.show(c.now, false) })
}

func (s *Server) getSecret(c *call) (any, *refusal) {
	x, no := s.pathSecret(c, "ReadKey")
	if no != nil {
		return nil, no
	}
	return x.show(c.now, false), nil
}

// exportSecret is POST /vault/secrets/{id}/export: the only way to a value.
func (s *Server) exportSecret(c *call) (any, *refusal) {
	x, no := s.pathSecret(c, "ExportKey")
	if no != nil {
		return nil, no
	}
	if no := c.readAny(s, &struct{}{}); no != nil {
		return nil, no
	}
	switch {
	case x.Record.Unexportable:
		return nil, protected("the secret is unexportable")
	case x.Destroyed:
		return nil, conflict("the secret is destroyed")
	}
	return x.show(c.now, true), nil
}

func (s *Server) patchSecret(c *call) (any, *refusal) {
	x, no := s.pathSecret(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	var in secretChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if x.Record.Unexportable && in.Unexportable != nil && !*in.Unexportable {
		return nil, protected("a secret that is unexportable stays so")
	}
	if no := in.apply(&x.Record); no != nil {
		return nil, no
	}
	x.Record.UpdatedAt = c.now
	c.changed = true
	return x.show(c.now, false), nil
}

func (s *Server) deleteSecret(c *call) (any, *refusal) {
	x, no := s.pathSecret(c, "DeleteKey")
	if no != nil {
		return nil, no
	}
	if x.Record.Undeletable {
		return nil, protected("the secret is undeletable")
	}
	c.dom.Secrets = remove(c.dom.Secrets, x)
	c.changed = true
	return nil, nil
}

func (s *Server) destroySecret(c *call) (any, *refusal) {
	x, no := s.pathSecret(c, "DeleteKey")
	if no != nil {
		return nil, no
	}
	switch {
	case x.Record.Undeletable:
		return nil, protected("the secret is undeletable")
	case x.Destroyed:
		return nil, conflict("the secret is destroyed already")
	}
	x.Destroyed, x.Material = true, ""
	x.Record.Destroy, x.Record.UpdatedAt = &c.now, c.now
	c.changed = true
	return x.show(c.now, false), nil
}

// addVersion is POST /vault/secrets/{id}/versions.
func (s *Server) addVersion(c *call) (any, *refusal) {
	x, no := s.pathSecret(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	var in struct {
		Material *string `json:"material"`
		IDSize   int     `json:"idSize"`
	}
	if no := c.readAny(s, &in); no != nil {
		return nil, no
	}
	next, no := x.rotate(c.dom, in.Material, c.now)
	if no != nil {
		return nil, no
	}
	c.changed = true
	return next.show(c.now, c.flag("includeMaterial")), nil
}

// rotate adds a version after the latest of the same name.
func (x *secret) rotate(d *domain, material *string, now time.Time) (*secret, *refusal) {
	latest := x
	for _, y := range d.Secrets {
		if y.Record.Name == x.Record.Name && y.Record.Version > latest.Record.Version {
			latest = y
		}
	}
	next := newSecret(x.Record.Name, x.Record.DataType, latest.Record.Version+1, now)
	next.Record.Meta, next.Record.Labels, next.Record.Aliases = latest.Record.Meta, latest.Record.Labels, latest.Record.Aliases
	next.Record.Undeletable, next.Record.Unexportable = latest.Record.Undeletable, latest.Record.Unexportable
	next.Record.RotationDays = latest.Record.RotationDays
	if days, _ := strconv.Atoi(next.Record.RotationDays); days > 0 {
		next.Record.Rotation = new(now.AddDate(0, 0, days))
	}
	if no := next.setMaterial(material); no != nil {
		return nil, no
	}
	d.Secrets = append(d.Secrets, next)
	return next, nil
}

// listVersions is GET /vault/secrets/{id}/versions, oldest first.
func (s *Server) listVersions(c *call) (any, *refusal) {
	x, no := s.pathSecret(c, "ReadKey")
	if no != nil {
		return nil, no
	}
	var items []*secret
	for _, y := range c.dom.Secrets {
		if y.Record.Name == x.Record.Name {
			items = append(items, y)
		}
	}
	return list(c, items, map[string]filter[*secret]{
		"state":  like(func(y *secret) string { return y.state(c.now) }),
		"fields": nil, "linkType": nil, "type": nil, "version": nil,
	}, func(y *secret) any { return y.show(c.now, false) })
}

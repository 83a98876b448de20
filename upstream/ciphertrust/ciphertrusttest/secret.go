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

// The kinds of secrets.
const (
	blob         = "blob"
	passwordType = "password"
	seed         = "seed"
)

// createSecret is POST /vault/secrets.
func (s *Server) createSecret(c *call) (any, *refusal) {
	var in struct {
		vaultChange
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
func newSecret(name, dataType string, version int, now time.Time) *vaultObject {
	r := vaultRecord{
		common: newCommon("vault:secrets", "", name, now), Version: version, DataType: dataType, ObjectType: "Secret Data",
		dates: dates{Activation: &now}, Labels: map[string]string{},
	}
	if dataType == blob {
		r.ObjectType = "Opaque Object"
	}
	r.URI = fmt.Sprintf("kylo:kylo:vault:secrets:%s-v%d", slug(name), version)
	return &vaultObject{Record: r}
}

// setMaterial sets the value; nil has one made up, where that is possible.
func (x *vaultObject) setMaterial(text *string) *refusal {
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
	var items []*vaultObject
	for _, x := range c.dom.Secrets {
		latest[x.Record.Name] = max(latest[x.Record.Name], x.Record.Version)
		if c.may(x.Record.Meta, "ReadKey") {
			items = append(items, x)
		}
	}
	return list(c, items, map[string]filter[*vaultObject]{
		"name":       like(func(x *vaultObject) string { return x.Record.Name }),
		"objectType": like(func(x *vaultObject) string { return x.Record.ObjectType }),
		"version": func(x *vaultObject, want string) bool {
			n, err := strconv.Atoi(want)
			return err == nil && (n == x.Record.Version || n == -1 && x.Record.Version == latest[x.Record.Name])
		},
		"sha1Fingerprint":   like(func(x *vaultObject) string { return x.Record.SHA1 }),
		"sha256Fingerprint": like(func(x *vaultObject) string { return x.Record.SHA256 }),
	}, func(x *vaultObject) any { return x.show(c.now, false) })
}

// exportSecret is POST /vault/secrets/{id}/export: the only way to a value.
func (s *Server) exportSecret(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ExportKey")
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

// addVersion is POST /vault/secrets/{id}/versions.
func (s *Server) addVersion(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ModifyKey")
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
func (x *vaultObject) rotate(d *domain, material *string, now time.Time) (*vaultObject, *refusal) {
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

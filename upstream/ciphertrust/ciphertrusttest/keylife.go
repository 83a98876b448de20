package ciphertrusttest

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
)

// rotateKey is POST /vault/keys2/{id}/versions: a new version of the same kind.
func (s *Server) rotateKey(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	var in struct {
		Material string            `json:"material"`
		Labels   map[string]string `json:"labels"`
		IDSize   int               `json:"idSize"`
	}
	if no := c.readAny(s, &in); no != nil {
		return nil, no
	}
	latest := x
	for _, y := range c.dom.Keys {
		if y.Record.Name == x.Record.Name && y.Record.Version > latest.Record.Version {
			latest = y
		}
	}
	k := latest.Record.keyFields
	next := c.newKey(x.Record.Name, latest.Record.Version+1, keyFields{Algorithm: k.Algorithm, Size: k.Size, CurveID: k.CurveID})
	if no := next.generate(in.Material); no != nil {
		return nil, no
	}
	next.Record.UsageMask, next.Record.Meta, next.Record.Labels = k.UsageMask, latest.Record.Meta, latest.Record.Labels
	next.Record.Undeletable, next.Record.Unexportable = latest.Record.Undeletable, latest.Record.Unexportable
	next.Record.RotationDays = latest.Record.RotationDays
	if days, _ := strconv.Atoi(next.Record.RotationDays); days > 0 {
		next.Record.Rotation = new(c.now.AddDate(0, 0, days))
	}
	if in.Labels != nil {
		next.Record.Labels = in.Labels
	}
	c.dom.Keys = append(c.dom.Keys, next)
	c.changed = true
	return next.show(c.now, c.flag("includeMaterial")), nil
}

// keyRevocations are the reasons to revoke a key; they are spelt otherwise than
// those for certificates.
var keyRevocations = []string{
	"Unspecified", "KeyCompromise", "CACompromise", "AffiliationChanged", "Superseded", "CessationOfOperation", "PrivilegeWithdrawn",
}

// revokeKey is POST /vault/keys2/{id}/revoke.
func (s *Server) revokeKey(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	var in struct {
		Reason   string `json:"reason"`
		Message  string `json:"message"`
		Occurred string `json:"compromiseOccurrenceDate"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if !slices.Contains(keyRevocations, in.Reason) {
		return nil, invalid(fmt.Sprintf("reason: %q is not known", in.Reason))
	}
	if _, no := optionalTime("compromiseOccurrenceDate", in.Occurred); no != nil {
		return nil, no
	}
	if x.Destroyed {
		return nil, conflict("the key is destroyed")
	}
	x.Compromised = in.Reason == "KeyCompromise" || in.Reason == "CACompromise"
	x.Record.RevocationReason, x.Record.RevocationMessage = in.Reason, in.Message
	x.Record.Deactivation, x.Record.UpdatedAt = &c.now, c.now
	c.changed = true
	return x.show(c.now, false), nil
}

// reactivateKey is POST /vault/keys2/{id}/reactivate.
func (s *Server) reactivateKey(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	var in struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Reason != "DeactivatedToActive" {
		return nil, invalid(fmt.Sprintf("reason: %q is not possible here", in.Reason))
	}
	if x.state(c.now) != deactivated {
		return nil, conflict("the key is not deactivated")
	}
	x.Record.Deactivation, x.Record.UpdatedAt = nil, c.now
	c.changed = true
	return x.show(c.now, false), nil
}

// archiveKey is POST /vault/keys2/{id}/archive.
func (s *Server) archiveKey(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	if x.Record.Archive != nil {
		return nil, conflict("the key is archived already")
	}
	x.Record.Archive, x.Record.UpdatedAt = &c.now, c.now
	c.changed = true
	return x.show(c.now, false), nil
}

// recoverKey is POST /vault/keys2/{id}/recover.
func (s *Server) recoverKey(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ModifyKey")
	if no != nil {
		return nil, no
	}
	if x.Record.Archive == nil {
		return nil, conflict("the key is not archived")
	}
	x.Record.Archive, x.Record.UpdatedAt = nil, c.now
	c.changed = true
	return x.show(c.now, false), nil
}

// cloneKey is POST /vault/keys2/{id}/clone.
func (s *Server) cloneKey(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ReadKey")
	if no != nil {
		return nil, no
	}
	var in struct {
		Name   string `json:"newKeyName"`
		Meta   *meta  `json:"meta"`
		IDSize int    `json:"idSize"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	switch {
	case in.Name == "":
		return nil, invalid("newKeyName is required")
	case named(c.dom.Keys, in.Name):
		return nil, keyExists()
	case x.Destroyed:
		return nil, conflict("the key is destroyed")
	}
	y := c.newKey(in.Name, 0, x.Record.keyFields)
	y.Record.ObjectType, y.Record.Labels, y.Record.SHA1, y.Record.SHA256 = x.Record.ObjectType, x.Record.Labels, x.Record.SHA1, x.Record.SHA256
	y.Record.Unexportable, y.Material, y.Private = x.Record.Unexportable, x.Material, x.Private
	y.Record.Meta.OwnerID = c.caller.userID
	if in.Meta != nil {
		y.Record.Meta.Permissions = in.Meta.Permissions
	}
	c.dom.Keys = append(c.dom.Keys, y)
	c.changed = true
	return y.show(c.now, c.flag("includeMaterial")), nil
}

// vaultCSR is POST /vault/csr: a CSR of a key that stays in the vault.
func (s *Server) vaultCSR(c *call) (any, *refusal) {
	var in struct {
		Params struct {
			subjectFields
			KeyUsage    []string `json:"keyUsage"`
			ExtKeyUsage []string `json:"extendedKeyUsage"`
			IsCA        bool     `json:"isCA"`
			MaxPathLen  int      `json:"maxPathLen"`
			Signature   string   `json:"signatureAlgorithm"`
			KeyIDHash   string   `json:"subjectKeyIdentifierHash"`
		} `json:"csrParams"`
		Generate *struct {
			Algorithm string `json:"algorithm"`
			CurveID   string `json:"curveid"`
			Name      string `json:"keyName"`
			Size      int    `json:"size"`
		} `json:"keyGenParams"`
		KeyID      string `json:"keyID"`
		KeyIDType  string `json:"keyIDType"`
		KeyVersion *int   `json:"keyVersion"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if (in.Generate == nil) == (in.KeyID == "") {
		return nil, invalid("want one of keyGenParams and keyID")
	}
	var x *vaultObject
	if in.Generate != nil {
		g := in.Generate
		algorithm := map[string]string{"RSA": "rsa", "EC": "ec"}[g.Algorithm]
		switch {
		case algorithm == "":
			return nil, invalid("keyGenParams.algorithm: want RSA or EC")
		case g.Name == "":
			g.Name = "key-" + uuid()
		case named(c.dom.Keys, g.Name):
			return nil, keyExists()
		}
		x = c.newKey(g.Name, 0, keyFields{Algorithm: algorithm, Size: g.Size, CurveID: g.CurveID})
		x.Record.Meta.OwnerID = c.caller.userID
		if no := x.generatePair(); no != nil {
			return nil, no
		}
	} else {
		c.args["object"] = in.KeyID
		c.query.Set("type", in.KeyIDType)
		if in.KeyVersion != nil {
			c.query.Set("version", strconv.Itoa(*in.KeyVersion))
		}
		var no *refusal
		if x, no = s.pathObject(c, "SignWithKey"); no != nil {
			return nil, no
		}
	}
	key, err := x509.ParsePKCS8PrivateKey(x.Private)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, invalid("keyID: cannot sign")
	}
	made, no := newCSR(in.Params.subjectFields, "", 0, signer)
	if no != nil {
		return nil, no
	}
	if in.Generate != nil {
		c.dom.Keys = append(c.dom.Keys, x)
		c.changed = true
	}
	return map[string]string{"csr": made.CSR}, nil
}

package ciphertrusttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// keyFields are what a key has and a secret has not; a secret leaves them out.
type keyFields struct {
	Algorithm         string `json:"algorithm,omitempty"`
	Size              int    `json:"size,omitempty"`
	CurveID           string `json:"curveid,omitempty"`
	Format            string `json:"format,omitempty"`
	UsageMask         int    `json:"usageMask,omitempty"`
	PublicKey         string `json:"publickey,omitempty"`
	NeverExported     *bool  `json:"neverExported,omitempty"`
	NeverExportable   *bool  `json:"neverExportable,omitempty"`
	EmptyMaterial     *bool  `json:"emptyMaterial,omitempty"`
	UUID              string `json:"uuid,omitempty"`
	RevocationReason  string `json:"revocationReason,omitempty"`
	RevocationMessage string `json:"revocationMessage,omitempty"`
}

// symmetric are the sizes of symmetric keys in bits; the first is what there is
// without one.
var symmetric = map[string][]int{
	"aes": {256, 128, 192}, "aria": {256, 128, 192}, "tdes": {192},
	"hmac-sha1": {160}, "hmac-sha256": {256}, "hmac-sha384": {384}, "hmac-sha512": {512},
}

var curves = map[string]elliptic.Curve{
	"": elliptic.P256(), "prime256v1": elliptic.P256(), "secp384r1": elliptic.P384(), "secp521r1": elliptic.P521(),
}

// createKey is POST /vault/keys2.
func (s *Server) createKey(c *call) (any, *refusal) {
	var in struct {
		vaultChange
		Name      string `json:"name"`
		Algorithm string `json:"algorithm"`
		Size      int    `json:"size"`
		CurveID   string `json:"curveid"`
		UsageMask *int   `json:"usageMask"`
		Material  string `json:"material"`
		Encoding  string `json:"encoding"`
		Format    string `json:"format"`
		IDSize    int    `json:"idSize"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name == "" {
		in.Name = "key-" + uuid()
	}
	for _, x := range slices.Backward(c.dom.Keys) {
		if x.Record.Name != in.Name {
			continue
		}
		if c.flag("returnExisting") && c.may(x.Record.Meta, "ReadKey") {
			return x.show(c.now, false), nil
		}
		return nil, keyExists()
	}
	x := c.newKey(in.Name, 0, keyFields{Algorithm: strings.ToLower(in.Algorithm), Size: in.Size, CurveID: in.CurveID})
	x.Record.Meta.OwnerID = c.caller.userID
	if no := x.generate(in.Material); no != nil {
		return nil, no
	}
	put(&x.Record.UsageMask, in.UsageMask)
	if no := in.apply(&x.Record); no != nil {
		return nil, no
	}
	x.Record.NeverExportable = new(x.Record.Unexportable)
	c.dom.Keys = append(c.dom.Keys, x)
	c.changed = true
	return x.show(c.now, c.flag("includeMaterial")), nil
}

// newKey is a version of a key that is active from now on, without material.
func (c *call) newKey(name string, version int, f keyFields) *vaultObject {
	f.NeverExported, f.NeverExportable, f.EmptyMaterial, f.UUID = new(true), new(false), new(false), uuid()
	r := vaultRecord{
		common: newCommon("vault:keys", "", name, c.now), Version: version, ObjectType: "Symmetric Key",
		dates: dates{Activation: &c.now}, Labels: map[string]string{}, keyFields: f,
	}
	r.URI = fmt.Sprintf("kylo:kylo:vault:keys:%s-v%d", slug(name), version)
	return &vaultObject{Record: r}
}

// generate makes the material, or takes what was given in hex.
func (x *vaultObject) generate(material string) *refusal {
	k := &x.Record.keyFields
	if k.Algorithm == "" {
		k.Algorithm = "aes"
	}
	var raw []byte
	switch sizes, ok := symmetric[k.Algorithm]; {
	case ok:
		if k.Size == 0 {
			k.Size = sizes[0]
		}
		raw = make([]byte, k.Size/8)
		_, _ = rand.Read(raw) // never fails
		if material != "" {
			var err error
			if raw, err = hex.DecodeString(material); err != nil {
				return invalid("material: want hex")
			}
			k.Size = len(raw) * 8
		}
		if !slices.Contains(sizes, k.Size) {
			return invalid(fmt.Sprintf("size: %s has %v bits", k.Algorithm, sizes))
		}
		k.UsageMask, k.Format, x.Material = 12, "raw", hex.EncodeToString(raw)
	case k.Algorithm == "rsa" || k.Algorithm == "ec":
		if material != "" {
			return invalid("material: the simulator makes key pairs itself")
		}
		return x.generatePair()
	default:
		return invalid(fmt.Sprintf("algorithm: %q is not known", k.Algorithm))
	}
	f := fingerprintsOf(raw)
	x.Record.SHA1, x.Record.SHA256 = f.SHA1, f.SHA256
	return nil
}

// generatePair makes a key pair.
func (x *vaultObject) generatePair() *refusal {
	k := &x.Record.keyFields
	var key crypto.Signer
	var no *refusal
	if k.Algorithm == "rsa" {
		if key, no = newSigner("RSA", k.Size); no != nil {
			return no
		}
	} else {
		curve, ok := curves[k.CurveID]
		if !ok {
			return invalid(fmt.Sprintf("curveid: %q is not known", k.CurveID))
		}
		pair, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			return internal()
		}
		key = pair
	}
	return x.setPair(key)
}

// setPair makes the object the one of that key pair.
func (x *vaultObject) setPair(key crypto.Signer) *refusal {
	k := &x.Record.keyFields
	der, no := marshalKey(key)
	if no != nil {
		return no
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return internal()
	}
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		k.Size = pub.N.BitLen()
	case *ecdsa.PublicKey:
		k.Size, k.CurveID = pub.Params().BitSize, map[int]string{256: "prime256v1", 384: "secp384r1", 521: "secp521r1"}[pub.Params().BitSize]
	}
	k.UsageMask, k.Format, x.Private, x.Record.ObjectType = 3, "pkcs8", der, "Private Key"
	k.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	x.Material = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f := fingerprintsOf(public)
	x.Record.SHA1, x.Record.SHA256 = f.SHA1, f.SHA256
	return nil
}

// listKeys is GET /vault/keys2.
func (s *Server) listKeys(c *call) (any, *refusal) {
	latest := map[string]int{}
	var items []*vaultObject
	for _, x := range c.dom.Keys {
		latest[x.Record.Name] = max(latest[x.Record.Name], x.Record.Version)
		if c.may(x.Record.Meta, "ReadKey") {
			items = append(items, x)
		}
	}
	number := func(of func(*vaultObject) int) filter[*vaultObject] {
		return func(x *vaultObject, want string) bool { return strconv.Itoa(of(x)) == want }
	}
	return list(c, items, map[string]filter[*vaultObject]{
		"name":       like(func(x *vaultObject) string { return x.Record.Name }),
		"id":         like(func(x *vaultObject) string { return x.Record.ID }),
		"uuid":       like(func(x *vaultObject) string { return x.Record.UUID }),
		"state":      like(func(x *vaultObject) string { return x.state(c.now) }),
		"objectType": like(func(x *vaultObject) string { return x.Record.ObjectType }),
		"algorithm":  func(x *vaultObject, want string) bool { return wildcard(strings.ToLower(want), x.Record.Algorithm) },
		"size":       number(func(x *vaultObject) int { return x.Record.Size }),
		"usageMask":  number(func(x *vaultObject) int { return x.Record.UsageMask }),
		"alias": func(x *vaultObject, want string) bool {
			return slices.ContainsFunc(x.Record.Aliases, func(a alias) bool { return wildcard(want, a.Alias) })
		},
		"version": func(x *vaultObject, want string) bool {
			n, err := strconv.Atoi(want)
			return err == nil && (n == x.Record.Version || n == -1 && x.Record.Version == latest[x.Record.Name])
		},
		"sha1Fingerprint":   like(func(x *vaultObject) string { return x.Record.SHA1 }),
		"sha256Fingerprint": like(func(x *vaultObject) string { return x.Record.SHA256 }),
		"labels":            func(x *vaultObject, want string) bool { return hasPair(x.Record.Labels, want) },
		"fields":            nil,
	}, func(x *vaultObject) any { return x.show(c.now, false) })
}

// exportKey is POST /vault/keys2/{id}/export, of plain material alone.
func (s *Server) exportKey(c *call) (any, *refusal) {
	x, no := s.pathObject(c, "ExportKey")
	if no != nil {
		return nil, no
	}
	var in struct {
		Format   string `json:"format"`
		Encoding string `json:"encoding"`
	}
	if no := c.readAny(s, &in); no != nil {
		return nil, no
	}
	switch {
	case x.Record.Unexportable:
		return nil, protected("the key is unexportable")
	case x.Destroyed:
		return nil, conflict("the key is destroyed")
	}
	r := x.show(c.now, true)
	switch {
	case in.Format == "pkcs1" && x.Record.Algorithm == "rsa":
		key, err := x509.ParsePKCS8PrivateKey(x.Private)
		pair, ok := key.(*rsa.PrivateKey)
		if err != nil || !ok {
			return nil, internal()
		}
		r.Material = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(pair)}))
	case in.Format != "" && (in.Format != "pkcs8" || x.Private == nil):
		return nil, invalid(fmt.Sprintf("format: %q is not for this key", in.Format))
	case in.Encoding == "base64" && x.Private == nil:
		raw, err := hex.DecodeString(x.Material)
		if err != nil {
			return nil, internal()
		}
		r.Material = base64.StdEncoding.EncodeToString(raw)
	case in.Encoding != "" && in.Encoding != "hex":
		return nil, invalid(fmt.Sprintf("encoding: %q is not for this key", in.Encoding))
	}
	x.Record.NeverExported = new(false)
	c.changed = true
	return r, nil
}

package worker

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// An object is one object of the token with the attributes that tell which.
type object struct {
	handle    pkcs11.ObjectHandle
	class     uint
	id, label []byte
	err       error // its attributes could not be read
}

var classes = map[uint]string{
	pkcs11.CKO_PRIVATE_KEY: "private key", pkcs11.CKO_PUBLIC_KEY: "public key",
	pkcs11.CKO_SECRET_KEY: "secret key", pkcs11.CKO_CERTIFICATE: "certificate",
	pkcs11.CKO_DATA: "data", pkcs11.CKO_DOMAIN_PARAMETERS: "domain parameters",
}

func className(class uint) string {
	if name, ok := classes[class]; ok {
		return name
	}
	return fmt.Sprintf("object of class 0x%x", class)
}

// identify reads what tells objects apart. An object that cannot be read is
// returned with its error.
func (m *module) identify(h pkcs11.ObjectHandle) object {
	o := object{handle: h, class: unavailable}
	types := []uint{pkcs11.CKA_ID, pkcs11.CKA_LABEL, pkcs11.CKA_CLASS}
	values, err := m.attributes(h, types...)
	if isCKR(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) { // such as data, which has no ID
		values, err = make([][]byte, len(types)), nil
		for i, typ := range types {
			if values[i], err = m.attribute(h, typ); isCKR(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
				err = nil
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		o.err = err
		return o
	}
	o.id, o.label = values[0], values[1]
	if len(values[2]) > 0 {
		o.class = ulong(values[2])
	}
	return o
}

// list reads the whole token: one search, and one read for each object, joined by
// CKA_ID.
func (m *module) list() (*wire.Listed, error) {
	handles, err := m.search()
	if err != nil {
		return nil, wireError("list objects", err)
	}
	byID := map[string][]object{}
	var order []string
	out := &wire.Listed{}
	for _, h := range handles {
		o := m.identify(h)
		if err := beyond(o.err); err != nil {
			return nil, wireError("list objects", err)
		}
		id := hex.EncodeToString(o.id)
		if id == "" {
			out.Loose = append(out.Loose, m.loose(o))
			continue
		}
		if byID[id] == nil {
			order = append(order, id)
		}
		byID[id] = append(byID[id], o)
	}
	for _, id := range order {
		out.Found = append(out.Found, *count(id, byID[id]))
	}
	return out, nil
}

// families are the objects that the keys we make consist of: what their types in
// package wire begin with, and the attributes that such an object has once it is
// whole.
var families = []struct {
	name     string
	class    uint
	keyType  uint
	material []uint
}{
	{"rsa", pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_RSA, []uint{pkcs11.CKA_MODULUS}},
	{"rsa", pkcs11.CKO_PUBLIC_KEY, pkcs11.CKK_RSA, []uint{pkcs11.CKA_MODULUS}},
	{"ecdsa", pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_EC, []uint{pkcs11.CKA_EC_PARAMS}},
	{"ecdsa", pkcs11.CKO_PUBLIC_KEY, pkcs11.CKK_EC, []uint{pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT}},
	{"ed25519", pkcs11.CKO_PRIVATE_KEY, ckkECEdwards, []uint{pkcs11.CKA_EC_PARAMS}},
	{"ed25519", pkcs11.CKO_PUBLIC_KEY, ckkECEdwards, []uint{pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT}},
	{"aes", pkcs11.CKO_SECRET_KEY, pkcs11.CKK_AES, []uint{pkcs11.CKA_VALUE_LEN}},
}

// loose describes an object without an ID.
func (m *module) loose(o object) wire.Loose {
	l := wire.Loose{Handle: uint64(o.handle), Class: className(o.class), Label: string(o.label)}
	if o.err != nil {
		l.Class = "unreadable object"
	}
	l.Remains = m.remainsOf(o)
	return l
}

// remainsOf says of which families of ours an object can be what an interrupted
// generation has left: a key without ID and label, that the module does not call
// generated, and that has none of the material that such a key has. They are none
// for everything else, and for what is not known for certain.
func (m *module) remainsOf(o object) []string {
	if isCKR(o.err, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID) {
		return m.typeless(o.handle)
	}
	if o.err != nil || len(o.id) > 0 || len(o.label) > 0 {
		return nil
	}
	typ, err := m.attribute(o.handle, pkcs11.CKA_KEY_TYPE)
	if err != nil || len(typ) == 0 {
		return nil
	}
	for _, f := range families {
		if f.class != o.class || f.keyType != ulong(typ) {
			continue
		}
		if how, read := m.optional(o.handle, pkcs11.CKA_KEY_GEN_MECHANISM); !read || len(how) > 0 && ulong(how) != unavailable {
			return nil
		}
		for _, a := range f.material {
			if v, read := m.optional(o.handle, a); !read || !zero(v) {
				return nil
			}
		}
		return []string{f.name}
	}
	return nil
}

// Above all classes and key types of the standard.
const (
	standardClasses  = 0x10
	standardKeyTypes = 0x50
)

// typeless is remainsOf for what SoftHSM has left without class or without key
// type. It answers every question about such an object by
// CKR_ATTRIBUTE_VALUE_INVALID, so searches have to tell. Whatever anybody has made
// or brought there is found by both.
func (m *module) typeless(h pkcs11.ObjectHandle) []string {
	class, err := m.value(h, pkcs11.CKA_CLASS, standardClasses)
	if err != nil {
		return nil
	}
	typ, err := m.value(h, pkcs11.CKA_KEY_TYPE, standardKeyTypes)
	if err != nil || class != unavailable && typ != unavailable {
		return nil
	}
	var names []string
	for _, f := range families {
		if (class == f.class || class == unavailable) && (typ == f.keyType || typ == unavailable) && !slices.Contains(names, f.name) {
			names = append(names, f.name)
		}
	}
	return names
}

// value is the value below limit by which a search finds an object, or unavailable.
func (m *module) value(h pkcs11.ObjectHandle, typ, limit uint) (uint, error) {
	for v := range limit {
		found, err := m.search(pkcs11.NewAttribute(typ, v))
		if err != nil || slices.Contains(found, h) {
			return v, err
		}
	}
	return unavailable, nil
}

// optional reads an attribute that the object may not have. read is false if it is
// not known whether it has.
func (m *module) optional(h pkcs11.ObjectHandle, typ uint) (value []byte, read bool) {
	value, err := m.attribute(h, typ)
	if isCKR(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
		return nil, true
	}
	return value, err == nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

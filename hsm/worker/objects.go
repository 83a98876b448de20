package worker

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// What miekg/pkcs11 has no names for.
const (
	ckkECEdwards       = 0x40
	ckmECEdwardsKeyGen = 0x1055
	ckmEdDSA           = 0x1057
	unavailable        = ^uint(0) // CK_UNAVAILABLE_INFORMATION
	findBatch          = 512
)

// An entry is what signing with a key takes. Object handles hold for the life
// of the process only.
type entry struct {
	private pkcs11.ObjectHandle
	secret  pkcs11.ObjectHandle
	kind    kind
	several bool // there is more than one with its ID: none is used
}

// An index finds entries by CKA_ID, without asking the token.
type index struct {
	mu sync.RWMutex
	m  map[string]*entry
}

func (x *index) get(id []byte) *entry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.m[string(id)]
}

func (x *index) put(id []byte, e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		x.m = map[string]*entry{}
	}
	if e == nil {
		delete(x.m, string(id))
		return
	}
	x.m[string(id)] = e
}

// use is what the key with an ID is used by.
func (m *module) use(id []byte, text string) (*entry, error) {
	e := m.index.get(id)
	switch {
	case e == nil:
		return nil, &wire.Error{Name: wire.KeyMissing, Text: text + " with key " + hex.EncodeToString(id)}
	case e.several:
		return nil, &wire.Error{Name: wire.KeyAmbiguous, Text: text + " with key " + hex.EncodeToString(id)}
	}
	return e, nil
}

// learn remembers how to sign with a key, or with nil that it is not there.
func (m *module) learn(id []byte, e *entry) {
	m.index.put(id, e)
	m.gate.changed()
}

// search returns the handles of all objects that match. One that fails halfway may
// stay active, and costs the session.
func (m *module) search(template ...*pkcs11.Attribute) (all []pkcs11.ObjectHandle, err error) {
	if err := m.ctx.FindObjectsInit(m.admin, template); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.renewAdmin()
		}
	}()
	for {
		hs, _, err := m.ctx.FindObjects(m.admin, findBatch)
		if err != nil {
			return nil, err
		}
		if len(hs) == 0 {
			return all, m.ctx.FindObjectsFinal(m.admin)
		}
		all = append(all, hs...)
	}
}

// find looks for what carries an ID and, unless that is only to be shown, remembers
// how to sign with it.
func (m *module) find(req wire.Find) (*wire.Found, error) {
	raw, err := hex.DecodeString(req.ID)
	if err != nil || len(raw) == 0 {
		return nil, &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("find %q: not an id", req.ID)}
	}
	if !req.Fresh {
		objects, err := m.known(raw, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PUBLIC_KEY)
		if err != nil {
			return nil, wireError("find key", err)
		}
		f := count(req.ID, objects)
		e, err := m.detail(f, objects)
		if err != nil {
			return nil, wireError("find key", err)
		}
		if f.Type != "" {
			m.learn(raw, e)
			return f, nil
		}
	}
	objects, err := m.carrying(raw)
	if err != nil {
		return nil, wireError("find key", err)
	}
	f := count(req.ID, objects)
	e, err := m.detail(f, objects)
	if err != nil {
		return nil, wireError("find key", err)
	}
	if !req.Show {
		m.learn(raw, e)
	}
	return f, nil
}

// count makes one answer of the objects with one ID. The label is that of the key
// rather than of what others have put beside it.
func count(id string, objects []object) *wire.Found {
	f := &wire.Found{ID: id}
	for _, o := range objects {
		switch {
		case o.err != nil:
			f.Unreadable++
			continue
		case o.class == pkcs11.CKO_PRIVATE_KEY:
			f.Private++
		case o.class == pkcs11.CKO_PUBLIC_KEY:
			f.Public++
		case o.class == pkcs11.CKO_SECRET_KEY:
			f.Secret++
		case o.class == pkcs11.CKO_CERTIFICATE:
			f.Certificates++
		default:
			f.Others++
		}
		if f.Label == "" || len(o.label) > 0 && (o.class == pkcs11.CKO_PRIVATE_KEY || o.class == pkcs11.CKO_SECRET_KEY) {
			f.Label = string(o.label)
		}
	}
	return f
}

// detail reads the public key and the certificate. It returns how to sign with the
// key if it is whole.
func (m *module) detail(f *wire.Found, objects []object) (*entry, error) {
	var e entry
	var err error
	for _, o := range objects {
		switch {
		case o.err != nil:
		case o.class == pkcs11.CKO_PRIVATE_KEY:
			e.private = o.handle
		case o.class == pkcs11.CKO_PUBLIC_KEY:
			if f.Type, f.SPKI, err = m.publicKey(o.handle); err != nil {
				return nil, err
			}
		case o.class == pkcs11.CKO_SECRET_KEY:
			e.secret = o.handle
		}
	}
	f.Certificate = m.certificate(objects, f.SPKI)
	if f.Secret == 1 && f.Private == 0 {
		if f.Type, err = m.secretKey(e.secret); err != nil {
			return nil, err
		}
	}
	e.kind, e.several = kinds[f.Type], f.Private+f.Secret > 1
	if !e.several && (f.Type == "" || f.Private+f.Secret == 0) {
		return nil, nil
	}
	return &e, nil
}

// certificate reads the certificate that is for a public key, of the objects with its
// ID; nil if there is none.
func (m *module) certificate(objects []object, spki []byte) []byte {
	for _, o := range objects {
		if o.err != nil || o.class != pkcs11.CKO_CERTIFICATE {
			continue
		}
		if v, err := m.attribute(o.handle, pkcs11.CKA_VALUE); err == nil && certifies(v, spki) {
			return v
		}
	}
	return nil
}

func (m *module) attribute(h pkcs11.ObjectHandle, typ uint) ([]byte, error) {
	values, err := m.attributes(h, typ)
	if err != nil {
		return nil, err
	}
	return values[0], nil
}

// attributes reads attributes, those of usual length in one call.
func (m *module) attributes(h pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	values, rv := m.c.attributes(m.admin, h, types...)
	switch rv {
	case pkcs11.CKR_OK:
		return values, nil
	case pkcs11.CKR_BUFFER_TOO_SMALL:
	default:
		return nil, pkcs11.Error(rv)
	}
	var template []*pkcs11.Attribute
	for _, t := range types {
		template = append(template, pkcs11.NewAttribute(t, nil))
	}
	attrs, err := m.ctx.GetAttributeValue(m.admin, h, template)
	if err != nil {
		return nil, err
	}
	values = nil
	for _, a := range attrs {
		values = append(values, a.Value)
	}
	return values, nil
}

// secretKey reads what a secret key is. The type is empty if it is none of ours.
func (m *module) secretKey(h pkcs11.ObjectHandle) (typ string, err error) {
	values, err := m.attributes(h, pkcs11.CKA_KEY_TYPE, pkcs11.CKA_VALUE_LEN)
	if err == nil && ulong(values[0]) == pkcs11.CKK_AES && ulong(values[1]) == 32 {
		return wire.TypeAES256, nil
	}
	return "", beyond(err)
}

// publicKey reads a public key. The type is empty if it is none of ours.
func (m *module) publicKey(h pkcs11.ObjectHandle) (typ string, spki []byte, err error) {
	kind, err := m.attribute(h, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return "", nil, beyond(err)
	}
	material, parse := []uint{pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT}, ecKey
	switch ulong(kind) {
	case pkcs11.CKK_RSA:
		material, parse = []uint{pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT}, rsaKey
	case pkcs11.CKK_EC:
	case ckkECEdwards:
		parse = edKey
	default:
		return "", nil, nil
	}
	values, err := m.attributes(h, material...)
	if err != nil {
		return "", nil, beyond(err)
	}
	pub, typ := parse(values[0], values[1])
	if typ == "" {
		return "", nil, nil
	}
	if spki, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return "", nil, nil
	}
	return typ, spki, nil
}

func rsaKey(modulus, exponent []byte) (pub any, typ string) {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
		return nil, ""
	}
	switch n.BitLen() {
	case 2048, 3072, 4096:
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, fmt.Sprintf("rsa-%d", n.BitLen())
	}
	return nil, ""
}

// A curve has the DER of its name.
type curve struct {
	typ    string
	curve  elliptic.Curve
	params []byte
}

// size is that of a coordinate in bytes.
func (c curve) size() int { return (c.curve.Params().BitSize + 7) / 8 }

// curves are the ones we use.
var curves = []curve{
	{wire.TypeP256, elliptic.P256(), []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}},
	{wire.TypeP384, elliptic.P384(), []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}},
	{wire.TypeP521, elliptic.P521(), []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}},
}

func ecKey(params, point []byte) (pub any, typ string) {
	for _, c := range curves {
		if string(c.params) != string(params) {
			continue
		}
		key, err := ecdsa.ParseUncompressedPublicKey(c.curve, bare(point, 1+2*c.size()))
		if err != nil {
			return nil, ""
		}
		return key, c.typ
	}
	return nil, ""
}

func edKey(_, point []byte) (pub any, typ string) {
	if point = bare(point, ed25519.PublicKeySize); point == nil {
		return nil, ""
	}
	return ed25519.PublicKey(point), wire.TypeEd25519
}

// bare is a point of that many bytes. The standard wants it in an OCTET STRING;
// some modules leave that away, and that of TPMs writes a length of more than
// 127 in one byte, as DER does not. It is nil for anything else.
func bare(point []byte, size int) []byte {
	var inner []byte
	if len(point) == size {
		return point
	}
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 && len(inner) == size {
		return inner
	}
	if len(point) == size+2 && point[0] == asn1.TagOctetString && int(point[1]) == size {
		return point[2:]
	}
	return nil
}

// ulong reads a CK_ULONG; it is 0 for what is none.
func ulong(b []byte) uint {
	if len(b) != 8 {
		return 0
	}
	return uint(binary.NativeEndian.Uint64(b))
}

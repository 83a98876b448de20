package worker

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// stated are the attributes that say whether a key can leave the token, whether it
// was made there, and what it can be used for.
var stated = []struct {
	typ  uint
	name string
}{
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE"},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE"},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE"},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE"},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL"},
	{pkcs11.CKA_KEY_GEN_MECHANISM, "CKA_KEY_GEN_MECHANISM"},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE"},
	{pkcs11.CKA_TOKEN, "CKA_TOKEN"},
	{pkcs11.CKA_SIGN, "CKA_SIGN"},
	{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER"},
	{pkcs11.CKA_VERIFY, "CKA_VERIFY"},
	{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT"},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT"},
	{pkcs11.CKA_WRAP, "CKA_WRAP"},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP"},
	{pkcs11.CKA_DERIVE, "CKA_DERIVE"},
}

// audit states what the module says of a key, and tries to get it out. What it
// says is no proof: some modules let flags be rewritten. What it does is. A key that
// is not in use yet is looked for, and not put to use by that.
func (m *module) audit(req wire.Find) (*wire.Audited, error) {
	key, err := m.audited(req)
	if err != nil {
		return nil, err
	}
	out := &wire.Audited{Attributes: map[string]any{}}
	for _, a := range stated {
		v, err := m.attribute(key, a.typ)
		switch {
		case isCKR(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) || err == nil && len(v) == 0:
			out.Attributes[a.name] = nil
		case err != nil:
			return nil, wireError("audit key", err)
		case a.typ == pkcs11.CKA_KEY_GEN_MECHANISM && ulong(v) == unavailable:
			out.Attributes[a.name] = nil
		case a.typ == pkcs11.CKA_KEY_GEN_MECHANISM:
			out.Attributes[a.name] = ulong(v)
		default:
			out.Attributes[a.name] = v[0] != 0
		}
	}
	if out.Read, out.ReadBy, err = m.tryRead(key); err != nil {
		return nil, wireError("audit key", err)
	}
	if out.Wrap, out.WrapBy, err = m.tryWrap(key); err != nil {
		return nil, wireError("audit key", err)
	}
	return out, nil
}

// audited finds the private or secret key with an ID.
func (m *module) audited(req wire.Find) (pkcs11.ObjectHandle, error) {
	id, err := hex.DecodeString(req.ID)
	if err != nil || len(id) == 0 {
		return 0, &wire.Error{Name: wire.BadRequest, Text: "audit key " + req.ID}
	}
	if e := m.index.get(id); e != nil && !e.several {
		return max(e.private, e.secret), nil // one of them is 0
	}
	objects, err := m.carrying(id)
	if err != nil {
		return 0, wireError("audit key", err)
	}
	var keys []pkcs11.ObjectHandle
	for _, o := range objects {
		if o.err == nil && (o.class == pkcs11.CKO_PRIVATE_KEY || o.class == pkcs11.CKO_SECRET_KEY) {
			keys = append(keys, o.handle)
		}
	}
	switch len(keys) {
	case 0:
		return 0, &wire.Error{Name: wire.KeyMissing, Text: "audit key " + req.ID}
	case 1:
		return keys[0], nil
	}
	return 0, &wire.Error{Name: wire.KeyAmbiguous, Text: "audit key " + req.ID}
}

// What modules say when they do not give a key away. Every other error says that
// something went wrong, and nothing about the key.
var (
	readRefusals = []uint{pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID}
	wrapRefusals = []uint{pkcs11.CKR_KEY_UNEXTRACTABLE, pkcs11.CKR_KEY_NOT_WRAPPABLE, pkcs11.CKR_ATTRIBUTE_SENSITIVE}
)

// What they say when they have no such mechanism, and when they make no key for it.
var (
	mechanismLacks = []uint{pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED}
	wrapperLacks   = []uint{pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_TEMPLATE_INCONSISTENT,
		pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID}
)

// tryRead asks for the private value.
func (m *module) tryRead(key pkcs11.ObjectHandle) (outcome, by string, err error) {
	typ, by := uint(pkcs11.CKA_VALUE), "CKA_VALUE"
	if kind, err := m.attribute(key, pkcs11.CKA_KEY_TYPE); err != nil {
		return "", "", err
	} else if ulong(kind) == pkcs11.CKK_RSA {
		typ, by = pkcs11.CKA_PRIVATE_EXPONENT, "CKA_PRIVATE_EXPONENT"
	}
	v, err := m.attribute(key, typ)
	switch {
	case err == nil && len(v) > 0:
		clear(v)
		return wire.Allowed, by, nil
	case err == nil || isCKR(err, readRefusals...):
		return wire.Refused, by, nil
	}
	return wire.Unclear, by + ": " + wireError("", err).Name, broken(err)
}

// tryWrap asks for the key wrapped by another, which is made for this in the
// session of all that is not signing, and destroyed again.
func (m *module) tryWrap(key pkcs11.ObjectHandle) (outcome, by string, err error) {
	wrapper, err := m.ctx.GenerateKey(m.admin, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
	})
	if err != nil {
		outcome = wire.Unclear
		if isCKR(err, wrapperLacks...) {
			outcome = wire.Untested
		}
		return outcome, "no wrapping key: " + wireError("", err).Name, broken(err)
	}
	outcome, by, err = m.wrapBy(wrapper, key)
	if left := m.ctx.DestroyObject(m.admin, wrapper); left != nil && err == nil {
		e := wireError("destroy the wrapping key of the audit", left)
		e.Fatal = true // it goes with the session, and that with the process
		err = e
	}
	return outcome, by, err
}

// wrapBy asks for a key wrapped in each of the usual ways.
func (m *module) wrapBy(wrapper, key pkcs11.ObjectHandle) (outcome, by string, err error) {
	outcome, by = wire.Untested, "the token wraps by none of the usual mechanisms"
	for _, mech := range []struct {
		typ  uint
		name string
	}{{pkcs11.CKM_AES_KEY_WRAP_PAD, "AES-KEY-WRAP-PAD"}, {pkcs11.CKM_AES_KEY_WRAP, "AES-KEY-WRAP"}, {pkcs11.CKM_AES_CBC_PAD, "AES-CBC-PAD"}} {
		var par any
		if mech.typ == pkcs11.CKM_AES_CBC_PAD {
			par = make([]byte, 16)
		}
		out, err := m.ctx.WrapKey(m.admin, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech.typ, par)}, wrapper, key)
		switch {
		case err == nil:
			clear(out)
			return wire.Allowed, mech.name, nil
		case isCKR(err, mechanismLacks...):
			continue
		case broken(err) != nil:
			return "", "", err
		case !isCKR(err, wrapRefusals...):
			outcome, by = wire.Unclear, mech.name+": "+wireError("", err).Name
		case outcome == wire.Untested:
			outcome, by = wire.Refused, mech.name+": "+wireError("", err).Name
		}
	}
	return outcome, by, nil
}

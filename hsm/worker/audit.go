package worker

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// audited are the attributes that say whether a key can leave the token, and
// whether it was made there.
var audited = []struct {
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
}

// audit states what the module says of a key, and tries to get it out. What it
// says is no proof: some modules let flags be rewritten. What it does is.
func (m *module) audit(req wire.Find) (*wire.Audited, error) {
	id, err := hex.DecodeString(req.ID)
	if err != nil {
		return nil, &wire.Error{Name: wire.BadRequest, Text: "audit key " + req.ID}
	}
	e := m.index.get(id)
	if e == nil {
		return nil, &wire.Error{Name: wire.KeyMissing, Text: "audit key " + req.ID}
	}
	key := e.private
	if e.secret != 0 {
		key = e.secret
	}
	out := &wire.Audited{Attributes: map[string]any{}}
	for _, a := range audited {
		v, err := m.attribute(key, a.typ)
		switch {
		case err != nil || len(v) == 0:
			out.Attributes[a.name] = nil
		case a.typ == pkcs11.CKA_KEY_GEN_MECHANISM && ulong(v) == unavailable:
			out.Attributes[a.name] = nil
		case a.typ == pkcs11.CKA_KEY_GEN_MECHANISM:
			out.Attributes[a.name] = ulong(v)
		default:
			out.Attributes[a.name] = v[0] != 0
		}
	}
	out.Read = m.tryRead(key, e)
	out.Wrap, out.WrapBy = m.tryWrap(key)
	return out, nil
}

// tryRead asks for the private value.
func (m *module) tryRead(key pkcs11.ObjectHandle, e *entry) string {
	typ := uint(pkcs11.CKA_VALUE)
	if e.kind.keyType == pkcs11.CKK_RSA && e.private != 0 {
		typ = pkcs11.CKA_PRIVATE_EXPONENT
	}
	if v, err := m.attribute(key, typ); err == nil && len(v) > 0 {
		clear(v)
		return wire.Allowed
	}
	return wire.Refused
}

// tryWrap asks for the key wrapped by another, which is made for this and lives
// only as long as its session.
func (m *module) tryWrap(key pkcs11.ObjectHandle) (outcome, by string) {
	session, err := m.session()
	if err != nil {
		return wire.Untested, "no session: " + wireError("", err).Name
	}
	defer m.ctx.CloseSession(session) //nolint:errcheck // the session object goes with it, and nothing else is in it
	wrapper, err := m.ctx.GenerateKey(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
	})
	if err != nil {
		return wire.Untested, "no wrapping key: " + wireError("", err).Name
	}
	defer m.ctx.DestroyObject(session, wrapper) //nolint:errcheck // it goes with the session anyway
	for _, mech := range []struct {
		typ  uint
		name string
	}{{pkcs11.CKM_AES_KEY_WRAP_PAD, "AES-KEY-WRAP-PAD"}, {pkcs11.CKM_AES_KEY_WRAP, "AES-KEY-WRAP"}, {pkcs11.CKM_AES_CBC_PAD, "AES-CBC-PAD"}} {
		var par any
		if mech.typ == pkcs11.CKM_AES_CBC_PAD {
			par = make([]byte, 16)
		}
		out, err := m.ctx.WrapKey(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech.typ, par)}, wrapper, key)
		if err == nil {
			clear(out)
			return wire.Allowed, mech.name
		}
		if !isCKR(err, pkcs11.CKR_MECHANISM_INVALID) {
			by = mech.name + ": " + wireError("", err).Name
		}
	}
	if by == "" {
		return wire.Untested, "the token wraps by none of the usual mechanisms"
	}
	return wire.Refused, by
}

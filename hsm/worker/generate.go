package worker

import (
	"crypto/elliptic"
	"encoding/hex"
	"fmt"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// generate makes a key that cannot leave the token. The ID is known to the
// daemon's ledger before this is called.
func (m *module) generate(req wire.Generate) (*wire.Found, error) {
	id, err := hex.DecodeString(req.ID)
	if err != nil || len(id) == 0 || req.Label == "" {
		return nil, &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("generate key %q", req.ID)}
	}
	public, private := templates(id, req)
	switch req.Type {
	case wire.TypeRSA2048, wire.TypeRSA2048KE:
		_, err = m.c11.GenerateRSAKeyPairWithAttributes(public, private, 2048)
	case wire.TypeRSA3072:
		_, err = m.c11.GenerateRSAKeyPairWithAttributes(public, private, 3072)
	case wire.TypeRSA4096:
		_, err = m.c11.GenerateRSAKeyPairWithAttributes(public, private, 4096)
	case wire.TypeP256:
		_, err = m.c11.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P256())
	case wire.TypeP384:
		_, err = m.c11.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P384())
	case wire.TypeP521:
		_, err = m.c11.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P521())
	case wire.TypeEd25519:
		err = m.generateEd25519(public, private)
	case wire.TypeAES256:
		_, err = m.c11.GenerateSecretKeyWithAttributes(private, 256, crypto11.CipherAES)
	default:
		return nil, &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("generate key of type %q", req.Type)}
	}
	if err != nil {
		return nil, wireError("generate key", err)
	}
	return m.find(req.ID)
}

// templates are the attributes of both halves. They are sets, because modules
// differ in which of two equal attributes they take.
func templates(id []byte, req wire.Generate) (public, private crypto11.AttributeSet) {
	public, private = crypto11.NewAttributeSet(), crypto11.NewAttributeSet()
	set := func(s crypto11.AttributeSet, typ uint, v any) { _ = s.Set(typ, v) } // fails on types of v not used here
	for _, s := range []crypto11.AttributeSet{public, private} {
		set(s, pkcs11.CKA_TOKEN, true)
		set(s, pkcs11.CKA_ID, id)
		set(s, pkcs11.CKA_LABEL, req.Label)
	}
	seal := req.Type == wire.TypeAES256 || req.Type == wire.TypeRSA2048KE
	set(private, pkcs11.CKA_PRIVATE, true)
	set(private, pkcs11.CKA_SENSITIVE, true)
	set(private, pkcs11.CKA_EXTRACTABLE, false)
	set(private, pkcs11.CKA_SIGN, !seal)
	set(private, pkcs11.CKA_DECRYPT, seal)
	set(public, pkcs11.CKA_VERIFY, !seal)
	set(public, pkcs11.CKA_ENCRYPT, seal)
	if req.Type == wire.TypeAES256 {
		set(private, pkcs11.CKA_ENCRYPT, true)
	}
	return public, private
}

// generateEd25519 does what crypto11 cannot.
func (m *module) generateEd25519(public, private crypto11.AttributeSet) error {
	set := func(s crypto11.AttributeSet, typ uint, v any) { _ = s.Set(typ, v) }
	set(public, pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY)
	set(private, pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)
	set(public, pkcs11.CKA_KEY_TYPE, ckkECEdwards)
	set(private, pkcs11.CKA_KEY_TYPE, ckkECEdwards)
	set(public, pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x03, 0x2b, 0x65, 0x70}) // 1.3.101.112
	_, _, err := m.ctx.GenerateKeyPair(m.admin, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmECEdwardsKeyGen, nil)},
		public.ToSlice(), private.ToSlice())
	return err
}

// destroy removes everything with an ID, the private half last: should it be
// cut short, what remains still says whose it is.
func (m *module) destroy(req wire.Destroy) error {
	for _, h := range req.Loose {
		// Handles are good for the life of the process, but look again: only
		// what is still without name and material may go by handle.
		o := m.identify(pkcs11.ObjectHandle(h), unavailable)
		if o.err != nil || len(o.id) > 0 || !m.loose(o).Incomplete {
			continue
		}
		if err := m.ctx.DestroyObject(m.admin, o.handle); err != nil {
			return wireError("destroy remains", err)
		}
	}
	if req.ID == "" {
		return nil
	}
	id, err := hex.DecodeString(req.ID)
	if err != nil || len(id) == 0 {
		return &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("destroy key %q", req.ID)}
	}
	m.index.put(id, nil)
	handles, err := m.search(pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return wireError("destroy key", err)
	}
	var last []pkcs11.ObjectHandle
	for _, h := range handles {
		if o := m.identify(h, unavailable); o.err == nil && o.class == pkcs11.CKO_PRIVATE_KEY {
			last = append(last, h)
			continue
		}
		if err := m.ctx.DestroyObject(m.admin, h); err != nil {
			return wireError("destroy key", err)
		}
	}
	for _, h := range last {
		if err := m.ctx.DestroyObject(m.admin, h); err != nil {
			return wireError("destroy key", err)
		}
	}
	return nil
}

// storeCertificate puts a certificate beside its key. One stored before goes
// only after the new one is there.
func (m *module) storeCertificate(req wire.Certificate) error {
	id, err := hex.DecodeString(req.ID)
	if err != nil || len(id) == 0 || len(req.DER) == 0 {
		return &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("store certificate of key %q", req.ID)}
	}
	attrs, err := certificateAttributes(id, req)
	if err != nil {
		return &wire.Error{Name: wire.BadRequest, Text: "store certificate: " + err.Error()}
	}
	old, err := m.search(pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return wireError("store certificate", err)
	}
	for _, h := range old {
		if v, err := m.attribute(h, pkcs11.CKA_VALUE); err == nil && string(v) == string(req.DER) && len(old) == 1 {
			return nil
		}
	}
	if _, err := m.ctx.CreateObject(m.admin, attrs); err != nil {
		return wireError("store certificate", err)
	}
	for _, h := range old {
		if err := m.ctx.DestroyObject(m.admin, h); err != nil {
			return wireError("remove the old certificate", err)
		}
	}
	return nil
}

package worker

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// cipher looks up the key and the mechanism of a request to seal. The caller
// frees the parameters after use.
func (m *module) cipher(req wire.Cipher, text string) (*entry, []*pkcs11.Mechanism, func(), error) {
	id, err := hex.DecodeString(req.ID)
	if err != nil {
		return nil, nil, nil, &wire.Error{Name: wire.BadRequest, Text: text}
	}
	e := m.index.get(id)
	if e == nil {
		return nil, nil, nil, &wire.Error{Name: wire.KeyMissing, Text: text + " with key " + req.ID}
	}
	switch {
	case req.Mechanism == wire.CipherGCM && e.secret != 0 && len(req.IV) == 12:
		p := pkcs11.NewGCMParams(req.IV, req.AAD, 128)
		return e, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, p.Free, nil
	case req.Mechanism == wire.CipherOAEP256 && e.private != 0:
		p := pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil)
		return e, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, p)}, func() {}, nil
	case req.Mechanism == wire.CipherOAEP1 && e.private != 0:
		p := pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil)
		return e, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, p)}, func() {}, nil
	}
	return nil, nil, nil, &wire.Error{Name: wire.BadRequest, Text: text + " by " + req.Mechanism}
}

// encrypt seals with a secret key. To a public key, the daemon seals itself.
func (m *module) encrypt(req wire.Cipher) (*wire.Ciphered, error) {
	e, mech, free, err := m.cipher(req, "seal")
	if err != nil {
		return nil, err
	}
	defer free()
	if err := m.ctx.EncryptInit(m.admin, mech, e.secret); err != nil {
		return nil, wireError("seal", err)
	}
	out, err := m.ctx.Encrypt(m.admin, req.Data)
	if err != nil {
		m.renewAdmin()
		return nil, wireError("seal", err)
	}
	return &wire.Ciphered{Data: out}, nil
}

// decrypt opens what was sealed. A blob that was tampered with and a token that
// is broken give the same return value on some modules, CKR_GENERAL_ERROR on
// SoftHSM: if the token is well otherwise, it was the blob.
func (m *module) decrypt(req wire.Cipher) (*wire.Ciphered, error) {
	e, mech, free, err := m.cipher(req, "unseal")
	if err != nil {
		return nil, err
	}
	defer free()
	key := e.secret
	if req.Mechanism != wire.CipherGCM {
		key = e.private
	}
	if err := m.ctx.DecryptInit(m.admin, mech, key); err != nil {
		return nil, wireError("unseal", err)
	}
	out, err := m.ctx.Decrypt(m.admin, req.Data)
	if err == nil {
		return &wire.Ciphered{Data: out}, nil
	}
	m.renewAdmin()
	werr := wireError("unseal", err)
	if m.health(wire.Health{Serial: m.info.SerialNumber, ID: req.ID}) == nil &&
		(werr.CKR == pkcs11.CKR_GENERAL_ERROR || !werr.Fatal) {
		return nil, &wire.Error{CKR: werr.CKR, Name: wire.SealBroken, Text: "unseal: " + werr.Name}
	}
	return nil, werr
}

// renewAdmin replaces a session in which an operation may have stayed active.
// Should that fail, the next use of the session tells.
func (m *module) renewAdmin() {
	_ = m.ctx.CloseSession(m.admin)
	if s, err := m.session(); err == nil {
		m.admin = s
	}
}

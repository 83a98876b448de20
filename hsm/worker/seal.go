package worker

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// how looks up the key and the mechanism of a request to seal.
func (m *module) how(req wire.Cipher, text string) (*entry, cipher, error) {
	id, err := hex.DecodeString(req.ID)
	if err != nil {
		return nil, cipher{}, &wire.Error{Name: wire.BadRequest, Text: text}
	}
	e, err := m.use(id, text)
	if err != nil {
		return nil, cipher{}, err
	}
	switch {
	case req.Mechanism == wire.CipherGCM && e.secret != 0 && len(req.IV) == 12:
		return e, cipher{mech: pkcs11.CKM_AES_GCM, iv: req.IV, aad: req.AAD}, nil
	case req.Mechanism == wire.CipherOAEP256 && e.private != 0:
		return e, cipher{mech: pkcs11.CKM_RSA_PKCS_OAEP, par: oaepParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256)}, nil
	case req.Mechanism == wire.CipherOAEP1 && e.private != 0:
		return e, cipher{mech: pkcs11.CKM_RSA_PKCS_OAEP, par: oaepParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1)}, nil
	}
	return nil, cipher{}, &wire.Error{Name: wire.BadRequest, Text: text + " by " + req.Mechanism}
}

// encrypt seals with a secret key. To a public key, the daemon seals itself.
func (m *module) encrypt(req wire.Cipher) (*wire.Ciphered, error) {
	e, how, err := m.how(req, "seal")
	if err != nil {
		return nil, err
	}
	out, begun, rv := m.c.crypt(false, m.admin, how, e.secret, req.Data)
	if rv == pkcs11.CKR_OK {
		return &wire.Ciphered{Data: out}, nil
	}
	if begun {
		m.renewAdmin()
	}
	return nil, ckr("seal", rv)
}

// decrypt opens what was sealed. A blob that was tampered with and a token that
// is broken give the same return value on some modules, CKR_GENERAL_ERROR on
// SoftHSM: if the token is well otherwise, it was the blob.
func (m *module) decrypt(req wire.Cipher) (*wire.Ciphered, error) {
	e, how, err := m.how(req, "unseal")
	if err != nil {
		return nil, err
	}
	key := e.secret
	if req.Mechanism != wire.CipherGCM {
		key = e.private
	}
	out, begun, rv := m.c.crypt(true, m.admin, how, key, req.Data)
	if rv == pkcs11.CKR_OK {
		return &wire.Ciphered{Data: out}, nil
	}
	werr := ckr("unseal", rv)
	if !begun {
		return nil, werr
	}
	m.renewAdmin()
	if m.health(wire.Health{Serial: m.info.SerialNumber, ID: req.ID}) == nil &&
		(rv == pkcs11.CKR_GENERAL_ERROR || !werr.Fatal) {
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

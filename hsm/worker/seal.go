package worker

import (
	"encoding/hex"
	"slices"

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
	return nil, stale("seal", rv)
}

// What modules say of a blob that does not open. It was changed, or sealed in
// another way than it says.
var (
	blobRefusals = []uint{pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, ckrAEADDecryptFailed,
		pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE}
	wayRefusals = []uint{pkcs11.CKR_ARGUMENTS_BAD, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID}
)

// ckrAEADDecryptFailed is of PKCS#11 3.0.
const ckrAEADDecryptFailed = 0x42

// decrypt opens what was sealed. A blob that was tampered with and a token that
// is broken give the same return value on some modules, CKR_GENERAL_ERROR on
// SoftHSM: this worker ends, and what the next one says of the blob decides.
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
	werr := stale("unseal", rv)
	blob := slices.Contains(wayRefusals, rv) && req.Mechanism != wire.CipherGCM
	if begun {
		m.renewAdmin()
		blob = slices.Contains(blobRefusals, rv)
	}
	if blob {
		return nil, &wire.Error{CKR: werr.CKR, Name: wire.SealBroken, Text: "unseal: " + werr.Name}
	}
	return nil, werr
}

// stale is the error of something that was done with a key whose handle was good
// when the token was opened. If it is not, then the key is gone, or the login is, or
// the token: all that only shows after a new start.
func stale(text string, rv uint) *wire.Error {
	err := ckr(text, rv)
	if rv == pkcs11.CKR_OBJECT_HANDLE_INVALID || rv == pkcs11.CKR_KEY_HANDLE_INVALID {
		err.Fatal = true
	}
	return err
}

// renewAdmin replaces a session in which an operation may have stayed active. The
// login ends with the last session: where crypto11 does not hold one, the new one
// is opened first, and there is room for it. Should that fail, the next use of the
// session tells.
func (m *module) renewAdmin() {
	old := m.admin
	if m.c11 != nil {
		_ = m.ctx.CloseSession(old)
	}
	if s, err := m.session(); err == nil {
		m.admin = s
	}
	if m.c11 == nil {
		_ = m.ctx.CloseSession(old)
	}
}

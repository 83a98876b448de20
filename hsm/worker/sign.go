package worker

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// maxSignature is the length of the longest: RSA-4096.
const maxSignature = 512

// A mechanism is how a scheme is asked for.
type mechanism struct {
	typ uint
	par mechParams
}

// mechanisms are built once: they are the same for every signature.
var mechanisms = [...]mechanism{
	wire.SchemePKCS1:   {pkcs11.CKM_RSA_PKCS, nil},
	wire.SchemePSS256:  {pkcs11.CKM_RSA_PKCS_PSS, pssParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 32)},
	wire.SchemePSS384:  {pkcs11.CKM_RSA_PKCS_PSS, pssParams(pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, 48)},
	wire.SchemePSS512:  {pkcs11.CKM_RSA_PKCS_PSS, pssParams(pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, 64)},
	wire.SchemeECDSA:   {pkcs11.CKM_ECDSA, nil},
	wire.SchemeEd25519: {ckmEdDSA, nil},
}

// A signer signs with a session of its own. It is owned by one goroutine.
type signer struct {
	m       *module
	session pkcs11.SessionHandle
	open    bool
	out     [maxSignature]byte
}

// sign makes one signature. The result is valid until the next one.
func (s *signer) sign(req wire.Sign) ([]byte, error) {
	if int(req.Scheme) >= len(mechanisms) || req.Scheme == 0 || len(req.Data) == 0 {
		return nil, &wire.Error{Name: wire.BadRequest, Text: "sign"}
	}
	if !s.m.busy.Load() { // which is cheaper than to store for each signature
		s.m.busy.Store(true)
	}
	s.m.alone.RLock()
	defer s.m.alone.RUnlock()
	e := s.m.index.get(req.ID)
	if e == nil || e.private == 0 || e.kind.sigLen == 0 {
		return nil, &wire.Error{Name: wire.KeyMissing, Text: "sign with key " + hex.EncodeToString(req.ID)}
	}
	if !s.open {
		h, err := s.m.session()
		if err != nil {
			return nil, wireError("open session", err)
		}
		s.session, s.open = h, true
	}
	mech := mechanisms[req.Scheme]
	n, begun, rv := s.m.c.sign(s.session, mech.typ, mech.par, e.private, req.Data, s.out[:e.kind.sigLen])
	if rv == pkcs11.CKR_OK && n <= e.kind.sigLen {
		return s.out[:n], nil
	}
	if begun || rv == pkcs11.CKR_OPERATION_ACTIVE {
		// An operation that may have stayed active would block the session.
		_ = s.m.ctx.CloseSession(s.session)
		s.open = false
	}
	err := ckr("sign", rv)
	if rv == pkcs11.CKR_OBJECT_HANDLE_INVALID || rv == pkcs11.CKR_KEY_HANDLE_INVALID {
		// The key was there when the token was opened. It is gone, or the
		// login is, or the token: all that only shows after a new start.
		err.Fatal = true
	}
	return nil, err
}

package worker

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// maxSignature is the length of the longest: RSA-4096.
const maxSignature = 512

// A signer signs with a session of its own. It is owned by one goroutine.
type signer struct {
	m       *module
	session pkcs11.SessionHandle
	open    bool
	out     [maxSignature]byte
	job     job // what was last signed with
}

// sign makes one signature. The result is valid until the next one.
func (s *signer) sign(req wire.Sign) ([]byte, error) {
	if req.Scheme >= wire.Schemes || req.Scheme == 0 || len(req.Data) == 0 {
		return nil, &wire.Error{Name: wire.BadRequest, Text: "sign"}
	}
	s.m.gate.busy().Store(1)
	epoch := s.m.gate.epoch().Load()
	e, err := s.m.use(req.ID, "sign")
	if err != nil {
		return nil, err
	}
	if e.private == 0 || e.kind.sigLen == 0 {
		return nil, &wire.Error{Name: wire.KeyMissing, Text: "sign with key " + hex.EncodeToString(req.ID)}
	}
	if !s.open {
		h, err := s.m.session()
		if err != nil {
			return nil, wireError("open session", err)
		}
		s.session, s.open = h, true
	}
	n, begun, rv := s.m.c.sign(s.session, &mechanisms[req.Scheme], e.private, req.Data, s.out[:e.kind.sigLen])
	if rv != pkcs11.CKR_OK || n > e.kind.sigLen {
		return nil, s.failed(begun, rv)
	}
	s.prepare(req.ID, e, epoch)
	return s.out[:n], nil
}

// failed is the error of a signature that was not made.
func (s *signer) failed(begun bool, rv uint) error {
	if begun {
		// An operation that may have stayed active would block the session.
		_ = s.m.ctx.CloseSession(s.session)
		s.open = false
	}
	return stale("sign", rv)
}

package worker

/*
#cgo noescape signet_stay
#cgo nocallback signet_stay
#include <stdlib.h>
#include "lane.h"
*/
import "C"

import (
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// mechanisms are how the schemes are asked for, in memory of C's: they are built
// once, and are the same for every signature.
var mechanisms = func() *[wire.Schemes]C.ck_mechanism {
	all := (*[wire.Schemes]C.ck_mechanism)(C.calloc(wire.Schemes, C.sizeof_ck_mechanism))
	for scheme, how := range map[wire.Scheme]struct {
		typ uint
		par mechParams
	}{
		wire.SchemePKCS1:   {pkcs11.CKM_RSA_PKCS, nil},
		wire.SchemePSS256:  {pkcs11.CKM_RSA_PKCS_PSS, pssParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 32)},
		wire.SchemePSS384:  {pkcs11.CKM_RSA_PKCS_PSS, pssParams(pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, 48)},
		wire.SchemePSS512:  {pkcs11.CKM_RSA_PKCS_PSS, pssParams(pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, 64)},
		wire.SchemeECDSA:   {pkcs11.CKM_ECDSA, nil},
		wire.SchemeEd25519: {ckmEdDSA, nil},
	} {
		m := &all[scheme]
		m.mechanism = C.ck_ulong(how.typ)
		if n := len(how.par) * C.sizeof_ck_ulong; n > 0 {
			m.parameter, m.parameter_len = C.CBytes(unsafe.Slice((*byte)(unsafe.Pointer(&how.par[0])), n)), C.ck_ulong(n)
		}
	}
	return all
}()

// A gate says to the lanes that sign in C when to look their keys up again. What must
// run alone in the module needs no lock here: the daemon sends it when nothing else
// is with the worker.
type gate struct {
	c *C.signet_gate // in memory of C's
}

func newGate() gate { return gate{(*C.signet_gate)(C.calloc(1, C.sizeof_signet_gate))} }

func (g gate) epoch() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&g.c.epoch)) }

// busy says that something was asked for since the last look at the token's
// health.
func (g gate) busy() *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&g.c.busy)) }

// changed has all lanes look their keys up again.
func (g gate) changed() { g.epoch().Add(1) }

// stay goes on with the signatures that are asked for on a lane, by the key of
// the one before, without coming back from C for each: neither Go's scheduler nor
// its timers have any part in those. It returns when something else is asked for,
// which the lane then has, when the lane has ended, or with the error of a signature
// that failed.
func (s *signer) stay(lane *wire.Lane, p pipes) (ended bool, failed error) {
	have, rv, begun := C.int(0), C.ck_ulong(0), C.int(0)
	buf := lane.Buffer()
	switch C.signet_stay(&s.job, C.int(p.in.Fd()), C.int(p.out.Fd()), (*C.uchar)(unsafe.SliceData(buf)), C.int(len(buf)), &have, &rv, &begun) {
	case C.STAY_END:
		return true, nil
	case C.STAY_FAILED:
		return false, s.failed(begun != 0, uint(rv))
	}
	lane.Have(int(have))
	return false, nil
}

// A job is what a lane signs with in C.
type job = C.signet_job

// prepare makes the job of what was just signed with. The epoch is that of before
// the key was looked up.
func (s *signer) prepare(id []byte, e *entry, epoch uint64) {
	s.job = job{
		f: s.m.c.f, gate: s.m.gate.c, epoch: C.uint64_t(epoch), mechanisms: &mechanisms[0], schemes: wire.Schemes,
		session: C.ck_ulong(s.session), key: C.ck_ulong(e.private), siglen: C.ck_ulong(e.kind.sigLen), op: C.int(wire.OpSign), idlen: C.int(len(id)),
	}
	copy(unsafe.Slice((*byte)(&s.job.id[0]), len(s.job.id)), id)
}

// pipes are a lane's two ends here.
type pipes struct{ in, out *os.File }

func (p pipes) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.out.Write(b) }

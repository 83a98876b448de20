package worker

/*
#cgo LDFLAGS: -ldl
#cgo noescape signet_sign
#cgo nocallback signet_sign
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include "cryptoki.h"

static ck_functions *signet_load(const char *path, const char **why) {
	ck_ulong (*get)(ck_functions **);
	ck_functions *f = NULL;
	void *h = dlopen(path, RTLD_NOW);
	if (h == NULL || (get = (ck_ulong (*)(ck_functions **))dlsym(h, "C_GetFunctionList")) == NULL) {
		*why = dlerror();
		return NULL;
	}
	if (get(&f) != 0 || f == NULL) {
		*why = "C_GetFunctionList gave no functions";
		return NULL;
	}
	return f;
}

static ck_ulong signet_login(ck_functions *f, ck_ulong session, unsigned char *pin, ck_ulong len) {
	ck_ulong (*login)(ck_ulong, ck_ulong, unsigned char *, ck_ulong) = f->fn[FN_LOGIN];
	return login(session, 1, pin, len);
}

typedef struct {
	ck_ulong type;
	void *value;
	ck_ulong len;
} ck_attribute;

// signet_get reads n attributes at once, each into its part of buf. lens are
// their lengths.
static ck_ulong signet_get(ck_functions *f, ck_ulong session, ck_ulong object, ck_ulong *types, int n,
                           unsigned char *buf, ck_ulong room, ck_ulong *lens) {
	ck_ulong (*get)(ck_ulong, ck_ulong, ck_attribute *, ck_ulong) = f->fn[FN_GET_ATTRIBUTES];
	ck_attribute a[MAX_ATTRIBUTES];
	for (int i = 0; i < n; i++) a[i] = (ck_attribute){types[i], buf + i * room, room};
	ck_ulong rv = get(session, object, a, n);
	for (int i = 0; i < n; i++) lens[i] = a[i].len;
	return rv;
}

typedef struct {
	unsigned char *iv;
	ck_ulong iv_len, iv_bits;
	unsigned char *aad;
	ck_ulong aad_len, tag_bits;
} ck_gcm;

// signet_crypt encrypts or decrypts a few bytes in one go. The room in out is
// ample, so that the module is not asked for the length: that of NSS says too
// little for GCM. With an iv, the mechanism is given GCM parameters, else par.
static ck_ulong signet_crypt(ck_functions *f, int decrypt, ck_ulong session, ck_ulong mech, void *par, ck_ulong parlen, ck_ulong key,
                             unsigned char *iv, ck_ulong ivlen, unsigned char *aad, ck_ulong aadlen,
                             unsigned char *in, ck_ulong inlen, unsigned char *out, ck_ulong *outlen, int *begun) {
	ck_ulong (*init)(ck_ulong, ck_mechanism *, ck_ulong) = f->fn[decrypt ? FN_DECRYPT_INIT : FN_ENCRYPT_INIT];
	ck_ulong (*crypt)(ck_ulong, unsigned char *, ck_ulong, unsigned char *, ck_ulong *) = f->fn[decrypt ? FN_DECRYPT : FN_ENCRYPT];
	ck_gcm gcm = {iv, ivlen, 8 * ivlen, aad, aadlen, 128};
	ck_mechanism m = {mech, par, parlen};
	if (ivlen > 0) {
		m.parameter = &gcm;
		m.parameter_len = sizeof gcm;
	}
	ck_ulong rv = init(session, &m, key);
	if (rv != 0) return rv;
	*begun = 1;
	return crypt(session, in, inlen, out, outlen);
}
*/
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// A capi calls the few functions of a module that are better called without
// miekg/pkcs11 between: C_Login, so that the PIN is never a Go string that
// cannot be erased; C_SignInit with C_Sign, which it makes three crossings, two C
// allocations and a query for the length of; C_GetAttributeValue, for which it asks
// for the lengths first; and encryption, for which some modules tell it too little.
//
// The module is one per process: loading a library that is loaded already gives
// the same instance, with the sessions that others have opened.
type capi struct{ f *C.ck_functions }

// loadCAPI loads the library. It does not initialise it.
func loadCAPI(path string) (capi, *wire.Error) {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	var why *C.char
	f := C.signet_load(p, &why)
	if f == nil {
		return capi{}, &wire.Error{Name: wire.NotAModule, Text: "load " + path + ": " + C.GoString(why)}
	}
	return capi{f}, nil
}

// login logs the user in, once.
func (c capi) login(s pkcs11.SessionHandle, pin []byte) uint {
	var p *C.uchar
	if len(pin) > 0 {
		p = (*C.uchar)(unsafe.Pointer(&pin[0]))
	}
	return uint(C.signet_login(c.f, C.ck_ulong(s), p, C.ck_ulong(len(pin))))
}

// sign signs in into out and returns the number of bytes. If begun, and rv is
// not 0, then an operation may still be active in the session.
func (c capi) sign(s pkcs11.SessionHandle, mech *C.ck_mechanism, key pkcs11.ObjectHandle, in, out []byte) (n int, begun bool, rv uint) {
	size, flag := C.ck_ulong(len(out)), C.int(0)
	r := C.signet_sign(c.f, C.ck_ulong(s), mech, C.ck_ulong(key),
		(*C.uchar)(unsafe.SliceData(in)), C.ck_ulong(len(in)), (*C.uchar)(unsafe.SliceData(out)), &size, &flag)
	return int(size), flag != 0, uint(r)
}

// attributeRoom is how long an attribute may be to be read in one call.
const attributeRoom = 1024

// attributes reads up to four attributes in one call, where miekg/pkcs11 asks
// for their lengths first. CKR_BUFFER_TOO_SMALL is for it then.
func (c capi) attributes(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, types ...uint) ([][]byte, uint) {
	var kinds, lens [C.MAX_ATTRIBUTES]C.ck_ulong
	for i, t := range types {
		kinds[i] = C.ck_ulong(t)
	}
	buf := make([]byte, len(types)*attributeRoom)
	rv := C.signet_get(c.f, C.ck_ulong(s), C.ck_ulong(o), &kinds[0], C.int(len(types)), (*C.uchar)(unsafe.SliceData(buf)), attributeRoom, &lens[0])
	if rv != 0 {
		return nil, uint(rv)
	}
	values := make([][]byte, len(types))
	for i := range types {
		if lens[i] > attributeRoom {
			return nil, pkcs11.CKR_BUFFER_TOO_SMALL
		}
		values[i] = buf[i*attributeRoom : i*attributeRoom+int(lens[i])]
	}
	return values, 0
}

// cryptRoom is how much longer a result may be than what goes in.
const cryptRoom = 512

// A cipher is how a few bytes are encrypted or decrypted.
type cipher struct {
	mech    uint
	par     mechParams // of OAEP
	iv, aad []byte     // of GCM
}

// crypt encrypts or decrypts. If begun, and rv is not 0, then an operation may
// still be active in the session.
func (c capi) crypt(decrypt bool, s pkcs11.SessionHandle, how cipher, key pkcs11.ObjectHandle, in []byte) (out []byte, begun bool, rv uint) {
	out = make([]byte, len(in)+cryptRoom)
	var pp unsafe.Pointer
	if len(how.par) > 0 {
		pp = unsafe.Pointer(&how.par[0])
	}
	size, flag, dec := C.ck_ulong(len(out)), C.int(0), C.int(0)
	if decrypt {
		dec = 1
	}
	bytes := func(b []byte) (*C.uchar, C.ck_ulong) {
		return (*C.uchar)(unsafe.SliceData(b)), C.ck_ulong(len(b))
	}
	iv, ivLen := bytes(how.iv)
	aad, aadLen := bytes(how.aad)
	from, fromLen := bytes(in)
	r := C.signet_crypt(c.f, dec, C.ck_ulong(s), C.ck_ulong(how.mech), pp, C.ck_ulong(len(how.par)*C.sizeof_ck_ulong), C.ck_ulong(key),
		iv, ivLen, aad, aadLen, from, fromLen, (*C.uchar)(unsafe.SliceData(out)), &size, &flag)
	if r != 0 || int(size) > len(out) {
		return nil, flag != 0, uint(r)
	}
	return out[:size], flag != 0, 0
}

// oaepParams are CK_RSA_PKCS_OAEP_PARAMS: hash, mask generation, that there is a
// label, and that it is empty.
func oaepParams(hash, mgf uint) []C.ck_ulong {
	return []C.ck_ulong{C.ck_ulong(hash), C.ck_ulong(mgf), C.ck_ulong(pkcs11.CKZ_DATA_SPECIFIED), 0, 0}
}

// reserved is a text for C_Initialize in memory of C's, which the library may
// keep looking at: it stays for the life of the process.
type reserved struct{ text *C.char }

// newReserved is nil for an empty text.
func newReserved(text string) *reserved {
	if text == "" {
		return nil
	}
	return &reserved{C.CString(text)}
}

func (r *reserved) pointer() unsafe.Pointer { return unsafe.Pointer(r.text) }

// pssParams are CK_RSA_PKCS_PSS_PARAMS: hash, mask generation, length of salt.
func pssParams(hash, mgf, salt uint) []C.ck_ulong {
	return []C.ck_ulong{C.ck_ulong(hash), C.ck_ulong(mgf), C.ck_ulong(salt)}
}

// mechParams are the parameters of a mechanism, as words.
type mechParams = []C.ck_ulong

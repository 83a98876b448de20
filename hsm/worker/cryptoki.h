// What of PKCS#11 is called without miekg/pkcs11 between.
#ifndef SIGNET_CRYPTOKI_H
#define SIGNET_CRYPTOKI_H

typedef unsigned long ck_ulong;

typedef struct {
	ck_ulong mechanism;
	void *parameter;
	ck_ulong parameter_len;
} ck_mechanism;

// CK_FUNCTION_LIST: a version, then pointers in the order of the standard.
typedef struct {
	unsigned char version[2];
	void *fn[68];
} ck_functions;

enum {
	FN_LOGIN = 18, FN_GET_ATTRIBUTES = 24, FN_ENCRYPT_INIT = 29, FN_ENCRYPT = 30, FN_DECRYPT_INIT = 33, FN_DECRYPT = 34,
	FN_SIGN_INIT = 42, FN_SIGN = 43, MAX_ATTRIBUTES = 4,
};

// signet_sign makes one signature. *outlen is the room in out, then the length.
// *begun tells whether the session has to be given up.
static inline ck_ulong signet_sign(ck_functions *f, ck_ulong session, ck_mechanism *m, ck_ulong key, unsigned char *in,
                                   ck_ulong inlen, unsigned char *out, ck_ulong *outlen, int *begun) {
	ck_ulong (*init)(ck_ulong, ck_mechanism *, ck_ulong) = f->fn[FN_SIGN_INIT];
	ck_ulong (*sign)(ck_ulong, unsigned char *, ck_ulong, unsigned char *, ck_ulong *) = f->fn[FN_SIGN];
	ck_ulong rv = init(session, m, key);
	if (rv != 0) return rv;
	*begun = 1;
	return sign(session, in, inlen, out, outlen);
}

#endif

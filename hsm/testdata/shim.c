/*
 * A PKCS#11 module that misbehaves on demand. It forwards to another module,
 * $SHIM_MODULE, and does as the directory $SHIM_DIR says:
 *
 *   rules     lines "FUNCTION NTH ACTION [once]". NTH counts the calls of that
 *             function in this process from 1; 0 means every call. ACTION is
 *             hang, crash, orphan (crash, and leave a child process), sleepMS,
 *             or the return value, as 0x30. With "once", a rule takes effect in
 *             one process only. C_Login/after is when the token has answered, and
 *             so is /after any function that begins an operation;
 *             CKA_0x180 is each reading of that attribute alone, of any NTH;
 *             C_OpenSession/writing is any that opens a session which may write.
 *   lockout   if it exists, three wrong PINs lock the token, for good; the count
 *             is kept in the file.
 *   flags     if it exists, its number is added to the flags of every token.
 *   sessions  if it exists, its number is how many sessions every token states
 *             that it can have, and has.
 *   serial    if it exists, it is the serial number of every token.
 *   escape    if it exists, C_Initialize tries to open a TCP socket and to run a
 *             program, to reach into other processes and the kernel, and whether
 *             the process can be dumped, and appends what came of it: "allowed"
 *             or "refused".
 *   calls     if it exists, C_Finalize writes into it how often some functions
 *             were called, "threads": whether C_Initialize was told of them,
 *             "sessions": how many were open at once, and "overlaps": how often
 *             a call that changes the token and another were under way together.
 *   logins    one line is appended for each C_Login, with what came of it.
 *
 * Build: cc -shared -fPIC -o shim.so shim.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef unsigned long ck;

typedef struct {
	unsigned char version[2];
	void *fn[68];
} functions;

/* The places of functions in the list, in the order of the standard. */
enum {
	INITIALIZE = 0, FINALIZE = 1, GETFUNCTIONLIST = 3, GETTOKENINFO = 6, GETMECHANISMINFO = 8, OPENSESSION = 12, CLOSESESSION = 13,
	LOGIN = 18, DESTROYOBJECT = 22, GETATTRIBUTEVALUE = 24, FINDOBJECTSINIT = 26, FINDOBJECTS = 27, FINDOBJECTSFINAL = 28,
	ENCRYPTINIT = 29, ENCRYPT = 30, DECRYPTINIT = 33, DECRYPT = 34, SIGNINIT = 42, SIGN = 43, GENERATEKEY = 58, GENERATEKEYPAIR = 59, WRAPKEY = 60,
};

enum { CKR_PIN_INCORRECT = 0xa0, CKR_PIN_LOCKED = 0xa4, CKR_SESSION_COUNT = 0xb1 };
enum { FLAG_LOW = 0x10000, FLAG_FINAL = 0x20000, FLAG_LOCKED = 0x40000 };
enum { SERIAL_OFFSET = 80, FLAGS_OFFSET = 96, MAX_SESSIONS_OFFSET = 104, MAX_WRITING_OFFSET = 120 }; /* in CK_TOKEN_INFO */
enum { INIT_FLAGS = 4, CKF_OS_LOCKING_OK = 2, CKF_RW_SESSION = 2 }; /* of CK_C_INITIALIZE_ARGS, after four pointers */

static functions *real, mine;
static int calls[68];
static int opened, peak; /* sessions, now and at most */
static int threads; /* whether C_Initialize was told that there are several */

static void in_dir(char *path, size_t size, const char *name) {
	snprintf(path, size, "%s/%s", getenv("SHIM_DIR"), name);
}

/* number is what a file holds, or without it, otherwise. */
static int number(const char *name, int otherwise) {
	char path[512];
	int n = 0;
	in_dir(path, sizeof path, name);
	FILE *f = fopen(path, "r");
	if (f == NULL) return otherwise;
	if (fscanf(f, "%i", &n) != 1) n = 0;
	fclose(f);
	return n;
}

/* first reports whether no process has taken this rule before. */
static int first(const char *function, int nth) {
	char name[128], path[512];
	snprintf(name, sizeof name, "fired-%s-%d", function, nth);
	for (char *slash = name; (slash = strchr(slash, '/')) != NULL;) *slash = '-';
	in_dir(path, sizeof path, name);
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0) return 0;
	close(fd);
	return 1;
}

/* obey does what the rules say of the nth call; 0 is to forward it. */
static ck obey(const char *function, int n) {
	char path[512], line[256];
	in_dir(path, sizeof path, "rules");
	FILE *f = fopen(path, "r");
	if (f == NULL) return 0;
	ck rv = 0;
	while (rv == 0 && fgets(line, sizeof line, f) != NULL) {
		char name[64], action[32], once[16] = "";
		int nth;
		if (sscanf(line, "%63s %d %31s %15s", name, &nth, action, once) < 3) continue;
		if (strcmp(name, function) != 0 || (nth != 0 && nth != n)) continue;
		if (strcmp(once, "once") == 0 && !first(function, nth)) continue;
		if (strcmp(action, "hang") == 0) for (;;) pause();
		if (strcmp(action, "orphan") == 0 && fork() == 0) {
			sleep(20);
			_exit(0);
		}
		if (strcmp(action, "crash") == 0 || strcmp(action, "orphan") == 0) *(volatile int *)0 = 0;
		int ms;
		if (sscanf(action, "sleep%d", &ms) == 1) {
			usleep(1000 * ms);
			continue;
		}
		rv = strtoul(action, NULL, 0);
	}
	fclose(f);
	return rv;
}

static ck misbehave(int index, const char *function) { return obey(function, __sync_add_and_fetch(&calls[index], 1)); }

static int inside, inside_alone, overlaps; /* calls now, those of them that must be alone, and how many were not */

/* entered counts a call that goes on until left. */
static int entered(int index) {
	int alone = index == DESTROYOBJECT || index == GENERATEKEY || index == GENERATEKEYPAIR || index == WRAPKEY;
	int others = __sync_fetch_and_add(&inside, 1), lonely = alone ? __sync_fetch_and_add(&inside_alone, 1) : inside_alone;
	if (lonely > 0 || (alone && others > 0)) __sync_fetch_and_add(&overlaps, 1);
	return alone;
}

static ck left(int alone, ck rv) {
	if (alone) __sync_fetch_and_sub(&inside_alone, 1);
	__sync_fetch_and_sub(&inside, 1);
	return rv;
}

#define FORWARD(index, name, params, args)                   \
	static ck my_##name params {                             \
		int alone = entered(index);                          \
		ck rv = misbehave(index, "C_" #name);                \
		if (rv != 0) return left(alone, rv);                 \
		return left(alone, ((ck(*) params)real->fn[index]) args); \
	}

/* BEGIN is FORWARD for what begins an operation: a rule for NAME/after fails it when
 * the operation has begun. */
#define BEGIN(index, name, params, args)                     \
	static ck my_##name params {                             \
		int alone = entered(index), n = __sync_add_and_fetch(&calls[index], 1); \
		ck rv = obey("C_" #name, n);                         \
		if (rv == 0) rv = ((ck(*) params)real->fn[index]) args; \
		if (rv == 0) rv = obey("C_" #name "/after", n);      \
		return left(alone, rv);                              \
	}

/* escape tries what a sandbox should refuse. */
static void escape(void) {
	char path[512], *const argv[] = {"/nonexistent", NULL};
	in_dir(path, sizeof path, "escape");
	if (access(path, F_OK) != 0) return;
	FILE *f = fopen(path, "a");
	if (f == NULL) return;
	int s = socket(AF_INET, SOCK_STREAM, 0);
	fprintf(f, "network %s\n", s >= 0 ? "allowed" : "refused");
	if (s >= 0) close(s);
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	fprintf(f, "local %s\n", s >= 0 ? "allowed" : "refused");
	if (s >= 0) close(s);
	execv(argv[0], argv);
	fprintf(f, "program %s\n", errno == EPERM ? "refused" : "allowed");
	int reached = syscall(SYS_pidfd_getfd, -1, 0, 0) == -1 && errno == EPERM;
	fprintf(f, "files %s\n", reached ? "refused" : "allowed");
	/* Flags that do not go together are EINVAL, unless they are refused before. */
	long in = syscall(SYS_clone, CLONE_NEWUSER | CLONE_THREAD, 0, 0, 0, 0);
	fprintf(f, "namespace %s\n", in == -1 && errno == EPERM ? "refused" : "allowed");
	fprintf(f, "dump %s\n", prctl(PR_GET_DUMPABLE) == 0 ? "refused" : "allowed");
	int mounts = syscall(SYS_fsopen, "none", 0) == -1 && errno == EPERM, kexec = syscall(SYS_kexec_file_load, -1, -1, 0, 0, 0) == -1 && errno == EPERM;
	fprintf(f, "kernel %s\n", mounts && kexec ? "refused" : "allowed");
	fclose(f);
}

static ck my_Initialize(void *a) {
	ck rv = misbehave(INITIALIZE, "C_Initialize");
	if (rv != 0) return rv;
	escape();
	threads = a != NULL && (((ck *)a)[INIT_FLAGS] & CKF_OS_LOCKING_OK) != 0;
	return ((ck(*)(void *))real->fn[INITIALIZE])(a);
}

static ck my_Finalize(void *a) {
	char path[512];
	in_dir(path, sizeof path, "calls");
	FILE *f = access(path, F_OK) == 0 ? fopen(path, "w") : NULL;
	if (f != NULL) {
		fprintf(f, "C_Initialize=%d\nC_GetTokenInfo=%d\nC_FindObjectsInit=%d\nC_FindObjects=%d\nC_GetAttributeValue=%d\n"
			"C_OpenSession=%d\nC_CloseSession=%d\nthreads=%d\nsessions=%d\noverlaps=%d\n",
			calls[INITIALIZE], calls[GETTOKENINFO], calls[FINDOBJECTSINIT], calls[FINDOBJECTS], calls[GETATTRIBUTEVALUE],
			calls[OPENSESSION], calls[CLOSESESSION], threads, peak, overlaps);
		fclose(f);
	}
	return ((ck(*)(void *))real->fn[FINALIZE])(a);
}

static ck my_OpenSession(ck slot, ck flags, void *data, void *notify, ck *session) {
	ck rv = misbehave(OPENSESSION, "C_OpenSession");
	if (rv == 0 && (flags & CKF_RW_SESSION) != 0) rv = obey("C_OpenSession/writing", 0);
	if (rv != 0) return rv;
	int most = number("sessions", -1), now = __sync_add_and_fetch(&opened, 1);
	rv = most >= 0 && now > most ? CKR_SESSION_COUNT : ((ck(*)(ck, ck, void *, void *, ck *))real->fn[OPENSESSION])(slot, flags, data, notify, session);
	if (rv != 0) {
		__sync_sub_and_fetch(&opened, 1);
		return rv;
	}
	for (int before = peak; now > before; before = peak)
		if (__sync_bool_compare_and_swap(&peak, before, now)) break;
	return 0;
}

static ck my_CloseSession(ck session) {
	ck rv = misbehave(CLOSESESSION, "C_CloseSession");
	if (rv == 0) rv = ((ck(*)(ck))real->fn[CLOSESESSION])(session);
	if (rv == 0) __sync_sub_and_fetch(&opened, 1);
	return rv;
}

FORWARD(GETMECHANISMINFO, GetMechanismInfo, (ck a, ck b, void *c), (a, b, c))
FORWARD(DESTROYOBJECT, DestroyObject, (ck a, ck b), (a, b))

/* my_GetAttributeValue heeds rules for one attribute, too. */
static ck my_GetAttributeValue(ck session, ck object, ck *template, ck n) {
	char name[32];
	ck rv = misbehave(GETATTRIBUTEVALUE, "C_GetAttributeValue");
	if (rv == 0 && n == 1) {
		snprintf(name, sizeof name, "CKA_0x%lx", template[0]);
		rv = obey(name, 0);
	}
	if (rv != 0) return rv;
	return ((ck(*)(ck, ck, void *, ck))real->fn[GETATTRIBUTEVALUE])(session, object, template, n);
}

BEGIN(FINDOBJECTSINIT, FindObjectsInit, (ck a, void *b, ck c), (a, b, c))
FORWARD(FINDOBJECTS, FindObjects, (ck a, ck *b, ck c, ck *d), (a, b, c, d))
FORWARD(FINDOBJECTSFINAL, FindObjectsFinal, (ck a), (a))
BEGIN(ENCRYPTINIT, EncryptInit, (ck a, void *b, ck c), (a, b, c))
FORWARD(ENCRYPT, Encrypt, (ck a, void *b, ck c, void *d, ck *e), (a, b, c, d, e))
BEGIN(DECRYPTINIT, DecryptInit, (ck a, void *b, ck c), (a, b, c))
FORWARD(DECRYPT, Decrypt, (ck a, void *b, ck c, void *d, ck *e), (a, b, c, d, e))
BEGIN(SIGNINIT, SignInit, (ck a, void *b, ck c), (a, b, c))
FORWARD(SIGN, Sign, (ck a, void *b, ck c, void *d, ck *e), (a, b, c, d, e))
FORWARD(GENERATEKEY, GenerateKey, (ck a, void *b, void *c, ck d, ck *e), (a, b, c, d, e))
FORWARD(GENERATEKEYPAIR, GenerateKeyPair, (ck a, void *b, void *c, ck d, void *e, ck f, ck *g, ck *h), (a, b, c, d, e, f, g, h))
FORWARD(WRAPKEY, WrapKey, (ck a, void *b, ck c, ck d, void *e, ck *f), (a, b, c, d, e, f))

/* wrong_pins is how many were counted, -1 if they are not. */
static int wrong_pins(void) { return number("lockout", -1); }

static void set_wrong_pins(int n) {
	char path[512];
	in_dir(path, sizeof path, "lockout");
	FILE *f = fopen(path, "w");
	if (f == NULL) return;
	fprintf(f, "%d\n", n);
	fclose(f);
}

static ck my_Login(ck session, ck user, void *pin, ck len) {
	char path[512];
	ck rv = misbehave(LOGIN, "C_Login");
	int wrong = wrong_pins();
	if (rv == 0 && wrong >= 3) rv = CKR_PIN_LOCKED;
	if (rv == 0) {
		rv = ((ck(*)(ck, ck, void *, ck))real->fn[LOGIN])(session, user, pin, len);
		if (wrong >= 0 && rv == CKR_PIN_INCORRECT) set_wrong_pins(wrong + 1);
		if (wrong >= 0 && rv == 0) set_wrong_pins(0);
	}
	int done = rv == 0 || rv == CKR_PIN_INCORRECT;
	in_dir(path, sizeof path, "logins");
	FILE *f = fopen(path, "a");
	if (f != NULL) {
		fprintf(f, "0x%lx\n", rv);
		fclose(f);
	}
	if (done) misbehave(LOGIN, "C_Login/after");
	return rv;
}

static ck my_GetTokenInfo(ck slot, unsigned char *info) {
	ck rv = misbehave(GETTOKENINFO, "C_GetTokenInfo");
	if (rv == 0) rv = ((ck(*)(ck, void *))real->fn[GETTOKENINFO])(slot, info);
	if (rv != 0) return rv;
	ck *flags = (ck *)(info + FLAGS_OFFSET);
	int wrong = wrong_pins();
	if (wrong == 1) *flags |= FLAG_LOW;
	if (wrong == 2) *flags |= FLAG_LOW | FLAG_FINAL;
	if (wrong >= 3) *flags |= FLAG_LOCKED;
	*flags |= number("flags", 0);
	char path[512];
	in_dir(path, sizeof path, "serial");
	FILE *f = fopen(path, "r");
	if (f != NULL) {
		if (fread(info + SERIAL_OFFSET, 1, 16, f) != 16) info[SERIAL_OFFSET] = '?';
		fclose(f);
	}
	int most = number("sessions", -1);
	if (most >= 0) *(ck *)(info + MAX_SESSIONS_OFFSET) = *(ck *)(info + MAX_WRITING_OFFSET) = most;
	return 0;
}

ck C_GetFunctionList(functions **list) {
	if (real == NULL) {
		void *h = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
		if (h == NULL) return 0x30;
		ck (*get)(functions **) = (ck(*)(functions **))dlsym(h, "C_GetFunctionList");
		ck rv = get(&real);
		if (rv != 0) return rv;
		mine = *real;
		mine.fn[GETFUNCTIONLIST] = C_GetFunctionList;
		mine.fn[INITIALIZE] = my_Initialize;
		mine.fn[FINALIZE] = my_Finalize;
		mine.fn[GETTOKENINFO] = my_GetTokenInfo;
		mine.fn[GETMECHANISMINFO] = my_GetMechanismInfo;
		mine.fn[OPENSESSION] = my_OpenSession;
		mine.fn[CLOSESESSION] = my_CloseSession;
		mine.fn[LOGIN] = my_Login;
		mine.fn[DESTROYOBJECT] = my_DestroyObject;
		mine.fn[GETATTRIBUTEVALUE] = my_GetAttributeValue;
		mine.fn[FINDOBJECTSINIT] = my_FindObjectsInit;
		mine.fn[FINDOBJECTS] = my_FindObjects;
		mine.fn[FINDOBJECTSFINAL] = my_FindObjectsFinal;
		mine.fn[ENCRYPTINIT] = my_EncryptInit;
		mine.fn[ENCRYPT] = my_Encrypt;
		mine.fn[DECRYPTINIT] = my_DecryptInit;
		mine.fn[DECRYPT] = my_Decrypt;
		mine.fn[SIGNINIT] = my_SignInit;
		mine.fn[SIGN] = my_Sign;
		mine.fn[GENERATEKEY] = my_GenerateKey;
		mine.fn[GENERATEKEYPAIR] = my_GenerateKeyPair;
		mine.fn[WRAPKEY] = my_WrapKey;
	}
	*list = &mine;
	return 0;
}

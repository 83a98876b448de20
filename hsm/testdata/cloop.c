/*
 * How fast a PKCS#11 module signs when it is called straight from C: the
 * reference for what the worker costs.
 *
 *   cloop MODULE LABEL PIN ID rsa|ec THREADS SECONDS
 *
 * It signs with the key of that CKA_ID (hex), one session a thread, and prints
 * signatures per second and microseconds of CPU per signature.
 *
 * Build: cc -O2 -o cloop cloop.c -ldl -lpthread
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

typedef unsigned long ck;
typedef struct { ck type; void *value; ck len; } attribute;
typedef struct { ck mechanism; void *parameter; ck len; } mechanism;
typedef struct { unsigned char version[2]; void *fn[68]; } functions;

/* The places of functions in the list, in the order of the standard. */
enum {
	INITIALIZE = 0, GETSLOTLIST = 4, GETTOKENINFO = 6, OPENSESSION = 12, LOGIN = 18,
	FINDOBJECTSINIT = 26, FINDOBJECTS = 27, FINDOBJECTSFINAL = 28, SIGNINIT = 42, SIGN = 43,
};

#define CALL(index, types, args) ok(((ck(*) types)F->fn[index]) args, #index)

static functions *F;
static ck slot, key;
static mechanism how;
static unsigned char in[51] = {0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20};
static ck in_len;
static atomic_int stop;
static atomic_long signatures;

static void ok(ck rv, const char *what) {
	if (rv == 0) return;
	fprintf(stderr, "%s: CKR 0x%lx\n", what, rv);
	exit(1);
}

static ck session(void) {
	ck s;
	CALL(OPENSESSION, (ck, ck, void *, void *, ck *), (slot, 6, NULL, NULL, &s));
	return s;
}

static void find_slot(const char *label) {
	ck slots[64], n = 64;
	unsigned char info[512];
	CALL(GETSLOTLIST, (unsigned char, ck *, ck *), (1, slots, &n));
	for (ck i = 0; i < n; i++) {
		CALL(GETTOKENINFO, (ck, void *), (slots[i], info));
		if (strncmp((char *)info, label, strlen(label)) != 0 || info[strlen(label)] != ' ') continue;
		slot = slots[i];
		return;
	}
	ok(0xe0, "find token");
}

static void find_key(ck s, const char *hex) {
	unsigned char id[64];
	ck class = 3, n = 0, found = 0;
	for (; hex[2 * n] != 0; n++) sscanf(hex + 2 * n, "%2hhx", &id[n]);
	attribute want[] = {{0, &class, sizeof class}, {0x102, id, n}};
	CALL(FINDOBJECTSINIT, (ck, void *, ck), (s, want, 2));
	CALL(FINDOBJECTS, (ck, ck *, ck, ck *), (s, &key, 1, &found));
	CALL(FINDOBJECTSFINAL, (ck), (s));
	if (found != 1) ok(0x82, "find key");
}

static void *loop(void *unused) {
	ck s = session();
	unsigned char out[512];
	long n = 0;
	(void)unused;
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		ck len = sizeof out;
		CALL(SIGNINIT, (ck, mechanism *, ck), (s, &how, key));
		CALL(SIGN, (ck, void *, ck, void *, ck *), (s, in, in_len, out, &len));
		n++;
	}
	atomic_fetch_add(&signatures, n);
	return NULL;
}

static double cpu(void) {
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
	if (argc != 8) return 2;
	void *h = dlopen(argv[1], RTLD_NOW);
	if (h == NULL) return 2;
	ok(((ck(*)(functions **))dlsym(h, "C_GetFunctionList"))(&F), "functions");
	ck flags[6] = {0, 0, 0, 0, 2, 0}; /* CKF_OS_LOCKING_OK */
	CALL(INITIALIZE, (void *), (flags));
	find_slot(argv[2]);
	ck s = session();
	CALL(LOGIN, (ck, ck, void *, ck), (s, 1, argv[3], strlen(argv[3])));
	find_key(s, argv[4]);
	how.mechanism = strcmp(argv[5], "rsa") == 0 ? 0x1 : 0x1041;
	in_len = strcmp(argv[5], "rsa") == 0 ? 51 : 32;
	int threads = atoi(argv[6]);
	double seconds = atof(argv[7]), wall = now(), used = cpu();
	pthread_t t[64];
	for (int i = 0; i < threads; i++) pthread_create(&t[i], NULL, loop, NULL);
	struct timespec d = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
	nanosleep(&d, NULL);
	atomic_store(&stop, 1);
	for (int i = 0; i < threads; i++) pthread_join(t[i], NULL);
	wall = now() - wall;
	used = cpu() - used;
	printf("%.1f %.2f\n", signatures / wall, used / signatures * 1e6);
	return 0;
}

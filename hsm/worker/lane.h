// A thread that signs without leaving C.
#ifndef SIGNET_LANE_H
#define SIGNET_LANE_H

#include <stdint.h>

#include "cryptoki.h"

// signet_gate is what all lanes of a process heed. epoch is another one whenever a
// key may have another handle; busy is set by each signature.
typedef struct {
	uint64_t epoch;
	uint32_t busy;
} signet_gate;

// signet_job is what a lane does again and again: signatures with one key.
typedef struct {
	ck_functions *f;
	signet_gate *gate;
	uint64_t epoch; // when session and key were looked up
	ck_mechanism *mechanisms;
	int schemes; // number of mechanisms, the first of which is none
	ck_ulong session, key, siglen;
	int op; // of a request for a signature, and of its answer
	int idlen;
	unsigned char id[255];
} signet_job;

// Why signet_stay has come back.
enum {
	STAY_OTHER,  // what is in buf is for somebody else to read on from
	STAY_FAILED, // the request that is in buf: with rv, and begun
	STAY_END,    // the other side has closed
};

int signet_stay(const signet_job *job, int in, int to, unsigned char *buf, int room, int *have, ck_ulong *rv, int *begun);

#endif

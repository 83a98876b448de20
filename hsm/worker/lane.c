#include "lane.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

// See package wire: length of what follows, operation; and of a signature:
// length of the id, id, scheme, data.
enum { HEAD = 5, MAX_SIGNATURE = 512 };

// receive reads until buf holds a whole frame, and returns its end. 0 is for a
// frame that does not fit or is none, -1 for the end.
static int receive(int fd, unsigned char *buf, int room, int *have) {
	for (*have = 0;;) {
		if (*have >= HEAD) {
			uint32_t n = (uint32_t)buf[0] << 24 | (uint32_t)buf[1] << 16 | (uint32_t)buf[2] << 8 | buf[3];
			if (n < 1 || n > (uint32_t)(room - 4) || *have > (int)n + 4) return 0;
			if (*have == (int)n + 4) return (int)n + 4;
		}
		ssize_t n = read(fd, buf + *have, (size_t)(room - *have));
		if (n < 0 && errno == EINTR) continue;
		if (n <= 0) return -1;
		*have += (int)n;
	}
}

static int send_all(int fd, const unsigned char *buf, int n) {
	while (n > 0) {
		ssize_t done = write(fd, buf, (size_t)n);
		if (done < 0 && errno == EINTR) continue;
		if (done <= 0) return -1;
		buf += done;
		n -= (int)done;
	}
	return 0;
}

// current reports whether the key is still the one that was looked up.
static int current(const signet_job *job) { return __atomic_load_n(&job->gate->epoch, __ATOMIC_SEQ_CST) == job->epoch; }

static void busy(const signet_job *job) {
	if (!__atomic_load_n(&job->gate->busy, __ATOMIC_RELAXED)) __atomic_store_n(&job->gate->busy, 1, __ATOMIC_RELAXED);
}

// signet_stay makes the signatures that are asked for, as long as they are by the
// key of the job and that is the same.
int signet_stay(const signet_job *job, int in, int to, unsigned char *buf, int room, int *have, ck_ulong *rv, int *begun) {
	unsigned char out[HEAD + MAX_SIGNATURE];
	for (;;) {
		int end = receive(in, buf, room, have);
		if (end < 0) return STAY_END;
		int scheme = HEAD + 1 + job->idlen, data = scheme + 1;
		if (end <= data || buf[4] != job->op || buf[HEAD] != job->idlen || memcmp(buf + HEAD + 1, job->id, (size_t)job->idlen) != 0 ||
		    buf[scheme] == 0 || buf[scheme] >= job->schemes || !current(job)) {
			return STAY_OTHER;
		}
		ck_ulong n = job->siglen;
		*begun = 0;
		*rv = signet_sign(job->f, job->session, &job->mechanisms[buf[scheme]], job->key, buf + data, (ck_ulong)(end - data), out + HEAD, &n, begun);
		busy(job);
		if (*rv != 0 || n > job->siglen) return STAY_FAILED;
		uint32_t len = (uint32_t)n + 1;
		out[0] = (unsigned char)(len >> 24);
		out[1] = (unsigned char)(len >> 16);
		out[2] = (unsigned char)(len >> 8);
		out[3] = (unsigned char)len;
		out[4] = (unsigned char)job->op;
		if (send_all(to, out, HEAD + (int)n) != 0) return STAY_END;
	}
}

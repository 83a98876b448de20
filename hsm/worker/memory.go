package worker

/*
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

// unmap takes from memory the pages of the program and its libraries that are as
// in their files: of mappings that are not writable and have no page, in memory
// or swapped out, that was changed. Some modules change their own code. Where it
// cannot tell, it takes nothing. It returns 1, which ends dl_iterate_phdr: that
// is called for the lock of the loader, under which no library comes or goes.
static int unmap(struct dl_phdr_info *none, size_t size, void *nothing) {
	FILE *maps = fopen("/proc/self/smaps", "re");
	if (maps == NULL) return 1;
	char line[PATH_MAX + 128], mode[5];
	unsigned long a, b, kB, from = 0, to = 0, anonymous = 0;
	int whole = 0; // the mapping that the lines are about may be unmapped
	Dl_info object;
	while (fgets(line, sizeof line, maps) != NULL) {
		if (sscanf(line, "%lx-%lx %4s", &a, &b, mode) == 3) {
			from = a, to = b, anonymous = 1;
			whole = strchr(line, '/') != NULL && dladdr((void *)a, &object) != 0 &&
				(strcmp(mode, "r-xp") == 0 || strcmp(mode, "r--p") == 0);
		} else if (sscanf(line, "Anonymous: %lu kB", &kB) == 1) {
			anonymous = kB;
		} else if (sscanf(line, "Swap: %lu kB", &kB) == 1 && whole && anonymous + kB == 0) {
			madvise((void *)from, to - from, MADV_DONTNEED);
		}
	}
	fclose(maps);
	return 1;
}

static void signet_trim(void) {
#ifdef __GLIBC__
	malloc_trim(0);
#endif
	dl_iterate_phdr(unmap, NULL);
}
*/
import "C"

import "runtime/debug"

// garbagePercent is how much garbage there may be, in percent of a heap of at
// least 4 MiB. Signing makes none, so a small heap costs nothing.
const garbagePercent = 25

// settle gives back what an idle worker does not need: garbage, and the pages of
// this program and its libraries, of which starting and linking them took more
// than half. What is used again is mapped again, without reading it from disk.
func settle() {
	debug.FreeOSMemory()
	C.signet_trim()
}

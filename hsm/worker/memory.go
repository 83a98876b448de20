package worker

/*
#define _GNU_SOURCE
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

// relocated reports whether an object has relocations in what it does not write
// to: its pages are not those of the file then.
static int relocated(const struct dl_phdr_info *o) {
	for (int i = 0; i < o->dlpi_phnum; i++) {
		if (o->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
		const ElfW(Dyn) *d = (const ElfW(Dyn) *)(o->dlpi_addr + o->dlpi_phdr[i].p_vaddr);
		for (; d->d_tag != DT_NULL; d++) {
			if (d->d_tag == DT_TEXTREL || (d->d_tag == DT_FLAGS && (d->d_un.d_val & DF_TEXTREL))) return 1;
		}
	}
	return 0;
}

// unmap takes the pages of an object from memory that are as in its file.
static int unmap(struct dl_phdr_info *o, size_t size, void *none) {
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	if (relocated(o)) return 0;
	for (int i = 0; i < o->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->dlpi_phdr[i];
		if (p->p_type != PT_LOAD || (p->p_flags & PF_W)) continue;
		uintptr_t from = (o->dlpi_addr + p->p_vaddr + page - 1) & ~(page - 1);
		uintptr_t to = (o->dlpi_addr + p->p_vaddr + p->p_filesz) & ~(page - 1);
		if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
	}
	return 0;
}

// The loader holds its lock meanwhile: nothing is loaded or unloaded.
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

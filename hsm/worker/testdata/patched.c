/*
 * A module that changes a page of its own that is not writable when it is loaded,
 * as those do that patch their code for the processor they find. C_Initialize
 * fails if the page is as in the file again.
 */
#include <sys/mman.h>

static const char page[4096] __attribute__((aligned(4096))) = {'f'};

__attribute__((constructor)) static void patch(void) {
	mprotect((void *)page, sizeof page, PROT_READ | PROT_WRITE);
	*(volatile char *)page = 'p';
	mprotect((void *)page, sizeof page, PROT_READ);
}

static unsigned long initialize(void *args) {
	return *(const volatile char *)page == 'p' ? 0 : 5; /* CKR_GENERAL_ERROR */
}

static struct {
	unsigned char version[2];
	void *fn[68];
} functions = {{2, 40}, {initialize}};

unsigned long C_GetFunctionList(void *list) {
	*(void **)list = &functions;
	return 0;
}

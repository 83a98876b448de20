package worker

/*
#include <signal.h>

static void signet_crash_plainly(void) {
	int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++) signal(signals[i], SIG_DFL);
}
*/
import "C"

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// harden keeps the PIN and whatever the module holds of keys out of reach of
// others: no debugger, no core dump, no connection to the daemon for what the
// module may run. What else is taken from the process depends on the module, see
// confine.
//
// A library that crashes ends the process without a word: what the runtime would
// print of our goroutines says nothing of the library, and the length of the PIN.
func harden() error {
	C.signet_crash_plainly()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid dumps of this process: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, f := range open {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd >= socketFD {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

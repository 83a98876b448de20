package worker

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps the PIN and whatever the module holds of keys out of reach of
// others: no debugger, no core dump. What else is taken from the process depends
// on the module, see confine.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid dumps of this process: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return nil
}

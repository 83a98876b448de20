package worker

import (
	"syscall"
	"testing"
)

// TestUnconfinedIsTold holds that a worker which is to be confined and is not does
// not go on.
func TestUnconfinedIsTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		thread  uintptr
		errno   syscall.Errno
		sandbox bool
		good    bool
	}{
		{0, 0, true, true},
		{0, 0, false, true},
		{4711, 0, true, false}, // a thread that did not take the filter
		{4711, 0, false, false},
		{^uintptr(0), syscall.ENOSYS, true, false},
		{^uintptr(0), syscall.EINVAL, true, false},
		{^uintptr(0), syscall.EACCES, false, false},
		{^uintptr(0), syscall.ENOSYS, false, true},
	} {
		if err := confined(tt.thread, tt.errno, tt.sandbox); (err == nil) != tt.good {
			t.Errorf("thread %d, %v, sandbox %v: %v", tt.thread, tt.errno, tt.sandbox, err)
		}
	}
}

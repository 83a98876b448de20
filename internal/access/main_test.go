package access

import (
	"os"
	"runtime"
	"testing"
)

// TestMain keeps the process's first thread to itself: a test that becomes
// another user on the thread that it runs on must not do so on the one whose
// owner /proc shows for the whole process.
func TestMain(m *testing.M) {
	runtime.LockOSThread()
	os.Exit(m.Run())
}

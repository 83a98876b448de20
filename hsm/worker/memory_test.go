package worker

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestSettleGivesPagesBack holds that an idle worker takes up less memory, and
// goes on as before: this test runs on what it has given back.
func TestSettleGivesPagesBack(t *testing.T) {
	before := filePages(t)
	settle()
	if after := filePages(t); after >= before {
		t.Errorf("%d kB of files were in memory, now %d", before, after)
	}
	if _, err := pinDigest([]byte("1234"), []byte("salt")); err != nil {
		t.Error(err)
	}
}

// filePages is how much of files this process has in memory, in kB.
func filePages(t *testing.T) (kB int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssFile:")
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatal(err)
	}
	return kB
}

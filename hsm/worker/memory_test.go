package worker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
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

// TestSettleKeepsWhatAModuleHasChanged holds that a module which changes its own
// code when it is loaded, as some do, finds it so afterwards.
func TestSettleKeepsWhatAModuleHasChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "patched.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", path, "testdata/patched.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	module := pkcs11.New(path)
	if module == nil {
		t.Fatal("the module cannot be loaded")
	}
	settle()
	if err := module.Initialize(); err != nil {
		t.Errorf("what it has changed is gone: %v", err)
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

package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The digest of a PIN that was accepted after all is on no page of the database,
// nor in its log: a PIN is short enough to be guessed from it.
func TestAForgottenPINLeavesNoDigest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	digest := bytes.Repeat([]byte{'d'}, 33)
	written := []byte("646464646464") // as it is written
	there := func() (found []string) {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		for _, name := range files {
			b, err := os.ReadFile(name)
			must(t, err)
			if bytes.Contains(b, written) {
				found = append(found, filepath.Base(name))
			}
		}
		return found
	}
	must(t, s.Guard().SetRefused("hsm", digest, "TRYING"))
	if len(there()) == 0 {
		t.Fatal("the test looks for something that is never written")
	}
	must(t, s.Guard().Clear("hsm"))
	if found := there(); len(found) > 0 {
		t.Errorf("the digest is still in %v", found)
	}
	must(t, s.Guard().SetRefused("hsm", digest, "TRYING"))
	must(t, s.Guard().SetRefused("hsm", digest, ""))
	if found := there(); len(found) > 0 {
		t.Errorf("the digest of one PIN that is forgotten is still in %v", found)
	}
}

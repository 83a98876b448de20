package hsm

import (
	"os"
	"strings"
	"testing"
)

// TestEveryNameIsDocumented holds that every refusal that has a hint is in the
// table of docs/hsm.md, where operators look.
func TestEveryNameIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/hsm.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range hints {
		if !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("docs/hsm.md does not mention %s", name)
		}
	}
	for name := range pinRefusals {
		if hints[name] == "" {
			t.Errorf("%s has no hint", name)
		}
	}
}

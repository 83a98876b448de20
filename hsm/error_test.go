package hsm

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestEveryNameIsDocumented holds that every refusal that has a hint, or a name of
// ours, is in the table of docs/hsm.md, where operators look.
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
	src, err := os.ReadFile("wire/error.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`"([A-Z]+_[A-Z0-9_]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(names) < 10 {
		t.Errorf("only %d names of ours", len(names))
	}
	for _, name := range names {
		if !strings.Contains(string(doc), "`"+name[1]+"`") {
			t.Errorf("docs/hsm.md does not mention %s", name[1])
		}
	}
	for name := range pinRefusals {
		if hints[name] == "" {
			t.Errorf("%s has no hint", name)
		}
	}
}

package systemd

import (
	"os"
	"strings"
	"testing"
)

// TestPolkitRule holds that the rule lists the units that it is asked for, each
// once, and that the package brings the one that lists none.
func TestPolkitRule(t *testing.T) {
	packaged, err := os.ReadFile("../packaging/polkit/50-signet.rules")
	if err != nil {
		t.Fatal(err)
	}
	if got := PolkitRule(nil); got != string(packaged) {
		t.Errorf("the package has another rule than\n%s", got)
	}
	want := "    var units = [\n" + `        "app@\\x2d.service",` + "\n" + `        "nginx.service",` + "\n    ];\n"
	if got := PolkitRule([]string{"nginx.service", `app@\x2d.service`, "nginx.service"}); !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwant in it\n%s", got, want)
	}
}

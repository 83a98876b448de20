package systemd

import (
	"slices"
	"strconv"
	"strings"
)

// PolkitRulesPath is where an administrator puts the rule of PolkitRule.
const PolkitRulesPath = "/etc/polkit-1/rules.d/50-signet.rules"

// PolkitRule is the rule for polkit by which the agent's user may reload units,
// and nothing else.
func PolkitRule(units []string) string {
	units = slices.Compact(slices.Sorted(slices.Values(units)))
	var list strings.Builder
	for _, u := range units {
		list.WriteString("        " + strconv.QuoteToASCII(u) + ",\n")
	}
	return polkitHead + list.String() + polkitTail
}

const (
	polkitHead = `// Lets the agent reload the units that its configuration names, and nothing
// else: no other unit, and no start, stop, restart or kill. This file is made:
//
//     signet polkit --output ` + PolkitRulesPath + `
//
// polkit takes it up at once. A unit that is new in the configuration, or gone
// from it, wants it made again.
polkit.addRule(function (action, subject) {
    var units = [
`
	polkitTail = `    ];
    if (action.id === "org.freedesktop.systemd1.manage-units" &&
        subject.user === "signet" &&
        action.lookup("verb") === "reload" &&
        units.indexOf(action.lookup("unit")) >= 0) {
        return polkit.Result.YES;
    }
    return polkit.Result.NOT_HANDLED;
});
`
)

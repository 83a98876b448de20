package credentials

import (
	"testing"

	"github.com/signet-agent/signet/internal/access"
)

// Root in the unit's cgroup is the service manager starting it. Root in the
// manager's own is, where the manager can refresh credentials; nobody else is.
func TestOnlyTheServiceManagerIsBelieved(t *testing.T) {
	for _, tt := range []struct {
		peer      access.Peer
		refreshes bool
		want      bool
	}{
		{access.Peer{Unit: "app.service"}, false, true},
		{access.Peer{Unit: "app.service"}, true, true},
		{access.Peer{Unit: "init.scope"}, true, true},
		{access.Peer{Unit: "init.scope"}, false, false}, // one that cannot never asks from there
		{access.Peer{Unit: "evil.service"}, true, false},
		{access.Peer{Unit: "user@0.service"}, true, false},
		{access.Peer{Unit: ""}, true, false},
		{access.Peer{Unit: "", Why: "the process is gone"}, true, false},
		{access.Peer{UID: 1000, Unit: "app.service"}, true, false},
		{access.Peer{UID: 1000, Unit: "init.scope"}, true, false},
	} {
		if err := believe(&tt.peer, "app.service", tt.refreshes); (err == nil) != tt.want {
			t.Errorf("%+v, refreshes %v: %v", tt.peer, tt.refreshes, err)
		}
	}
}

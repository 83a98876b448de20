package main

import (
	"strings"
	"testing"
)

// Locked vaults by the command line, through a real agent: what it creates is
// locked and the account's, and is gone when it is deleted.
func TestLockedVaultsByTheCommandLine(t *testing.T) {
	r := newIdentityRig(t)
	r.enrolled()
	signet := func(want string, args ...string) string {
		t.Helper()
		out, err := r.command("signet", append([]string{"manager"}, args...)...).CombinedOutput()
		if (err != nil) != strings.HasPrefix(want, "signet: ") || !strings.Contains(string(out), want) {
			t.Errorf("signet manager %v: %v\n%swant %q", args, err, out, want)
		}
		return string(out)
	}
	signet("backups: created", "vault", "create", "--template", "1", "--name", "backups")
	signet("signet: ", "vault", "create", "--template", "1", "--name", "backups")
	signet("both: created", "mirror", "create", "--template", "2", "--name", "both")
	mirrors := signet("twin: created", "mirror", "create", "--template", "2", "--name", "twin")
	id := strings.TrimFunc(mirrors, func(r rune) bool { return r < '0' || r > '9' })
	signet("half: created", "vault", "create", "--template", "1", "--name", "half", "--mirror", id, "--mirror-position", "position1")
	list := signet("backups", "vault", "list")
	if !strings.Contains(list, "true") {
		t.Errorf("not locked:\n%s", list)
	}
	signet("registered", "account")
	signet("ID", "events")
	signet("backups: deleted", "vault", "delete", "backups", "--yes")
	if list := signet("ID", "vault", "list"); strings.Contains(list, "backups") {
		t.Errorf("still there:\n%s", list)
	}
}

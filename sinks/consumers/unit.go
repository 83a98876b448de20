package consumers

import (
	"context"
	"time"

	"github.com/signet-agent/signet/systemd"
)

// Unit reloads a consumer through systemd.
type Unit struct {
	Name string
}

func (u Unit) String() string { return "unit " + u.Name }

// Reload is for Way. A unit that is about to start or to stop is waited for.
func (u Unit) Reload(ctx context.Context) error {
	for {
		state, err := systemd.UnitState(ctx, u.Name)
		switch {
		case err != nil:
			return err
		case state == "inactive":
			return ErrNotRunning
		case state == "failed":
			return withHint("see journalctl -u "+u.Name+", and start it", "%s has failed and does not run", u.Name)
		case state != "activating" && state != "deactivating":
			return systemd.ReloadUnit(ctx, u.Name)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return withHint("see systemctl status "+u.Name, "%s: still %s: %w", u.Name, state, cause(ctx))
		}
	}
}

// Check is for Way.
func (u Unit) Check(ctx context.Context) error { return systemd.MayReload(ctx, u.Name) }

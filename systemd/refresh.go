package systemd

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// refreshVersion is the first that can give credentials to a unit that runs.
const refreshVersion = 260

// properties are what the service manager says of itself and of units, as a
// connection to it gives them.
type properties interface {
	GetManagerProperty(name string) (string, error)
	GetUnitTypePropertyContext(ctx context.Context, unit, kind, name string) (*dbus.Property, error)
}

// CanRefresh reports whether the service manager knows RefreshOnReload=. One
// that does not answer soon does not: the agent waits for it at its start.
func CanRefresh(ctx context.Context) bool {
	ctx, done := context.WithTimeout(ctx, 2*time.Second)
	defer done()
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	return canRefresh(conn)
}

func canRefresh(p properties) bool {
	text, err := p.GetManagerProperty("Version") // "252.39-1~deb12u2", with the quotes
	if err != nil {
		return false
	}
	text = strings.TrimLeft(text, `"v`)
	n, err := strconv.Atoi(text[:len(text)-len(strings.TrimLeft(text, "0123456789"))])
	return err == nil && n >= refreshVersion
}

// Refreshes reports whether a reload of a unit has its credentials asked for
// again (RefreshOnReload=credentials).
func Refreshes(ctx context.Context, unit string) (bool, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false, &UnitError{Unit: unit, Err: err}
	}
	defer conn.Close()
	return refreshes(ctx, conn, unit)
}

func refreshes(ctx context.Context, p properties, unit string) (bool, error) {
	if !canRefresh(p) {
		return false, nil
	}
	prop, err := p.GetUnitTypePropertyContext(ctx, unit, "Service", "RefreshOnReload")
	if err != nil {
		return false, &UnitError{Unit: unit, Err: err}
	}
	what, _ := prop.Value.Value().([]string)
	return slices.Contains(what, "credentials"), nil
}

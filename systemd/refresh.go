package systemd

import (
	"context"
	"fmt"
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
// that does not answer soon is an error: the agent waits for it at its start.
func CanRefresh(ctx context.Context) (bool, error) {
	ctx, done := context.WithTimeout(ctx, 2*time.Second)
	defer done()
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false, fmt.Errorf("version of systemd: %w", err)
	}
	defer conn.Close()
	return canRefresh(conn)
}

func canRefresh(p properties) (bool, error) {
	text, err := p.GetManagerProperty("Version") // "252.39-1~deb12u2", with the quotes
	if err != nil {
		return false, fmt.Errorf("version of systemd: %w", err)
	}
	number := strings.TrimLeft(text, `"v`)
	n, err := strconv.Atoi(number[:len(number)-len(strings.TrimLeft(number, "0123456789"))])
	if err != nil {
		return false, fmt.Errorf("version of systemd: %s does not begin with a number", text)
	}
	return n >= refreshVersion, nil
}

// Refreshes reports whether a reload of a unit has its credentials asked for
// again (RefreshOnReload=credentials). That is an error where [CanRefresh] says
// no: nobody knows that property there.
func Refreshes(ctx context.Context, unit string) (bool, error) {
	conn, err := connect(ctx, unit)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	return refreshes(ctx, conn, unit)
}

func refreshes(ctx context.Context, p properties, unit string) (bool, error) {
	prop, err := p.GetUnitTypePropertyContext(ctx, unit, "Service", "RefreshOnReload")
	if err != nil {
		return false, &UnitError{Unit: unit, Err: err}
	}
	what, _ := prop.Value.Value().([]string)
	return slices.Contains(what, "credentials"), nil
}

package systemd

import (
	"context"
	"errors"
	"fmt"

	godbus "github.com/godbus/dbus/v5"
)

// UnitState is what a unit does: active, inactive, failed, activating, ... A
// unit that does not exist is an error.
func UnitState(ctx context.Context, unit string) (string, error) {
	conn, err := connect(ctx, unit)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var values [2]string
	for i, name := range []string{"LoadState", "ActiveState"} {
		p, err := conn.GetUnitPropertyContext(ctx, unit, name)
		if err != nil {
			return "", &UnitError{Unit: unit, Err: err}
		}
		values[i], _ = p.Value.Value().(string)
	}
	if values[0] != "loaded" {
		return "", &UnitError{Unit: unit, Err: fmt.Errorf("the unit is %s", values[0])}
	}
	return values[1], nil
}

// MayReload asks whether this process may reload a unit, without reloading it.
// It asks for a reload in the one way that the service manager looks at only
// after it has looked at the right, and then always refuses.
func MayReload(ctx context.Context, unit string) error {
	if _, err := UnitState(ctx, unit); err != nil {
		return err
	}
	conn, err := connect(ctx, unit)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.ReloadUnitContext(ctx, unit, "isolate", nil)
	if e, ok := errors.AsType[godbus.Error](err); ok && e.Name == "org.freedesktop.DBus.Error.InvalidArgs" {
		return nil
	}
	if err == nil {
		err = errors.New("the service manager took what it was expected to refuse")
	}
	return &UnitError{Unit: unit, Err: err}
}

package systemd

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// A UnitError says that a unit was not reloaded.
type UnitError struct {
	Unit   string
	Result string // of the job: failed, invalid, timeout, canceled, ..; "" if there was none
	Err    error  // why there was none; may be nil
}

func (e *UnitError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("reload %s: %v", e.Unit, e.Err)
	}
	return fmt.Sprintf("reload %s: the job is %s", e.Unit, e.Result)
}

func (e *UnitError) Unwrap() error { return e.Err }

// errNoBus is a system bus that cannot be spoken with.
var errNoBus = errors.New("no connection to the system bus")

// connect connects to the service manager, on behalf of a unit.
func connect(ctx context.Context, unit string) (*dbus.Conn, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, &UnitError{Unit: unit, Err: fmt.Errorf("%w: %w", errNoBus, err)}
	}
	return conn, nil
}

// Hint says what an operator can do about it, or "".
func (e *UnitError) Hint() string {
	switch e.Result {
	case "invalid":
		return "the unit does not run; start it"
	case "timeout":
		return "its JobTimeoutSec= was over before the reload was; see journalctl -u " + e.Unit
	case "canceled":
		return "somebody stopped or restarted the unit meanwhile; see journalctl -u " + e.Unit
	case "":
		if refused(e.Err) {
			return fmt.Sprintf("the rule for polkit is missing or does not list %s; make it again, as root: signet polkit --output %s", e.Unit, PolkitRulesPath)
		}
		if errors.Is(e.Err, errNoBus) {
			return "units need systemd and its bus; see systemctl status dbus.socket, or reload by exec or signal"
		}
		return "it must exist and have ExecReload=; see systemctl cat " + e.Unit
	}
	return "see journalctl -u " + e.Unit
}

// refused reports whether the service manager says that there is no right.
func refused(err error) bool {
	e, ok := errors.AsType[godbus.Error](err)
	return ok && (e.Name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" || e.Name == "org.freedesktop.DBus.Error.AccessDenied")
}

// ReloadUnit has the service manager reload a unit and waits until it has. That
// a reload job is done says that the unit's command succeeded, and not that the
// service now uses what is new.
func ReloadUnit(ctx context.Context, unit string) error {
	conn, err := connect(ctx, unit)
	if err != nil {
		return err
	}
	defer conn.Close()
	result := make(chan string, 1)
	// That the job failed is no error of the call: it is in the result.
	if _, err := conn.ReloadUnitContext(ctx, unit, "replace", result); err != nil {
		return &UnitError{Unit: unit, Err: err}
	}
	select {
	case r := <-result:
		if r != "done" {
			return &UnitError{Unit: unit, Result: r}
		}
		return nil
	case <-ctx.Done():
		return &UnitError{Unit: unit, Err: ctx.Err()}
	}
}

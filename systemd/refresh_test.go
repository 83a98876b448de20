package systemd

import (
	"context"
	"errors"
	"testing"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// said is a service manager that says of itself and of one service what it is
// told to.
type said struct {
	version string
	refresh any // of app.service; nil if the property is not known
}

func (s said) GetManagerProperty(string) (string, error) {
	if s.version == "" {
		return "", errors.New("away")
	}
	return `"` + s.version + `"`, nil // as the library gives it
}

func (s said) GetUnitTypePropertyContext(_ context.Context, unit, kind, name string) (*dbus.Property, error) {
	if unit != "app.service" || kind != "Service" || name != "RefreshOnReload" || s.refresh == nil {
		return nil, godbus.Error{Name: "org.freedesktop.DBus.Error.UnknownProperty"}
	}
	return &dbus.Property{Name: name, Value: godbus.MakeVariant(s.refresh)}, nil
}

// TestRefreshes holds which units are reloaded for their credentials: those that
// say so, where the service manager is new enough to do it.
func TestRefreshes(t *testing.T) {
	credentials := []string{"extensions", "credentials"}
	for _, tt := range []struct {
		said
		can, unit bool
	}{
		{said{"260", credentials}, true, true},
		{said{"260~rc1-1", credentials}, true, true},
		{said{"v261.2-1.fc44", credentials}, true, true},
		{said{"1000.1", credentials}, true, true},
		{said{"262", []string{"extensions"}}, true, false},
		{said{"262", []string{}}, true, false},
		{said{"259.5", credentials}, false, false},
		{said{"252.39-1~deb12u2", nil}, false, false},
		{said{"unknown", credentials}, false, false},
		{said{"", credentials}, false, false},
	} {
		got, err := refreshes(t.Context(), tt.said, "app.service")
		if can := canRefresh(tt.said); can != tt.can || got != tt.unit || err != nil {
			t.Errorf("version %q, property %v: it can %v, the unit does %v, %v; want %v, %v", tt.version, tt.refresh, can, got, err, tt.can, tt.unit)
		}
	}
	if got, err := refreshes(t.Context(), said{"260", nil}, "app.service"); got || err == nil {
		t.Errorf("a property that cannot be read: %v, %v", got, err)
	}
}

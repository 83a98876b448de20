package systemd

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
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

// TestCanRefresh holds that the service manager is new enough or not, and that
// one which does not say so is neither.
func TestCanRefresh(t *testing.T) {
	for version, want := range map[string]bool{
		"260": true, "260~rc1-1": true, "v261.2-1.fc44": true, "1000.1": true, "259.5": false, "252.39-1~deb12u2": false,
	} {
		if got, err := canRefresh(said{version: version}); got != want || err != nil {
			t.Errorf("version %q: %v, %v; want %v", version, got, err, want)
		}
	}
	for version, want := range map[string]string{
		"":        "version of systemd: away",
		"unknown": `version of systemd: "unknown" does not begin with a number`,
	} {
		if got, err := canRefresh(said{version: version}); got || err == nil || err.Error() != want {
			t.Errorf("version %q: %v, %v; want %s", version, got, err, want)
		}
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "bus"))
	if got, err := CanRefresh(t.Context()); got || err == nil || !strings.HasPrefix(err.Error(), "version of systemd: ") {
		t.Errorf("without a bus: %v, %v", got, err)
	}
}

// TestRefreshes holds which units are reloaded for their credentials: those that
// say so. One that says nothing, as the service manager is being executed again,
// is an error, which is tried again, and not a no.
func TestRefreshes(t *testing.T) {
	for _, tt := range []struct {
		refresh   any
		want, err bool
	}{
		{[]string{"extensions", "credentials"}, true, false},
		{[]string{"extensions"}, false, false},
		{[]string{}, false, false},
		{nil, false, true},
	} {
		got, err := refreshes(t.Context(), said{refresh: tt.refresh}, "app.service") // whose version nobody asks for
		if got != tt.want || (err != nil) != tt.err {
			t.Errorf("property %v: %v, %v; want %v, an error %v", tt.refresh, got, err, tt.want, tt.err)
		}
	}
}

package systemd

import (
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
)

// TestUnitErrorSaysWhatToDo holds that each result of a job but done is an error
// that names it, with what to do. Those that no reload ends with today are said
// as they come.
func TestUnitErrorSaysWhatToDo(t *testing.T) {
	refusal := godbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied", Body: []any{"Permission denied"}}
	for _, tt := range []struct {
		err        UnitError
		want, hint string
	}{
		{UnitError{Result: "failed"}, "reload app.service: the job is failed", "journalctl -u app.service"},
		{UnitError{Result: "invalid"}, "reload app.service: the job is invalid", "start it"},
		{UnitError{Result: "timeout"}, "reload app.service: the job is timeout", "JobTimeoutSec="},
		{UnitError{Result: "canceled"}, "reload app.service: the job is canceled", "meanwhile"},
		{UnitError{Result: "dependency"}, "reload app.service: the job is dependency", "journalctl -u app.service"},
		{UnitError{Result: "skipped"}, "reload app.service: the job is skipped", "journalctl -u app.service"},
		{UnitError{Err: refusal}, "reload app.service: Permission denied", "signet polkit >/etc/polkit-1/rules.d/50-signet.rules"},
		{UnitError{Err: godbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit", Body: []any{"Unit app.service not found."}}},
			"reload app.service: Unit app.service not found.", "systemctl cat app.service"},
	} {
		tt.err.Unit = "app.service"
		if got, hint := tt.err.Error(), tt.err.Hint(); got != tt.want || !strings.Contains(hint, tt.hint) {
			t.Errorf("%q (%s), want %q (%s)", got, hint, tt.want, tt.hint)
		}
	}
}

package systemd

import (
	"errors"
	"fmt"
	"path/filepath"
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
		{UnitError{Err: refusal}, "reload app.service: Permission denied", "signet polkit --output /etc/polkit-1/rules.d/50-signet.rules"},
		{UnitError{Err: godbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit", Body: []any{"Unit app.service not found."}}},
			"reload app.service: Unit app.service not found.", "systemctl cat app.service"},
		{UnitError{Err: fmt.Errorf("%w: it is gone", errNoBus)}, "reload app.service: no connection to the system bus: it is gone", "dbus.socket"},
	} {
		tt.err.Unit = "app.service"
		if got, hint := tt.err.Error(), tt.err.Hint(); got != tt.want || !strings.Contains(hint, tt.hint) {
			t.Errorf("%q (%s), want %q (%s)", got, hint, tt.want, tt.hint)
		}
	}
}

// TestNoBusIsSaid holds that a host without systemd, or a bus that is away, is
// told from a unit that cannot be reloaded.
func TestNoBusIsSaid(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "bus"))
	_, state := UnitState(t.Context(), "app.service")
	for _, err := range []error{state, ReloadUnit(t.Context(), "app.service"), MayReload(t.Context(), "app.service")} {
		e, ok := errors.AsType[*UnitError](err)
		if !ok || !strings.HasPrefix(err.Error(), "reload app.service: no connection to the system bus: ") || !strings.Contains(e.Hint(), "systemctl status dbus.socket") {
			t.Errorf("error %v", err)
		}
	}
}

// TestReloadUnit holds that a reload that did not take place is an error that
// says why, and that the polkit rule gives the agent's user the units that it
// lists and nothing else.
func TestReloadUnit(t *testing.T) {
	b := newBed(t)
	b.build("./testdata/service", "/usr/bin/reloader", "0")
	b.reloadableUnits()
	for _, tt := range []struct{ user, unit, want string }{
		{"root", "good.service", ""},
		{"root", "bad.service", "the job is failed"},
		{"root", "none.service", "not applicable"},
		{"root", "down.service", "the job is invalid"},
		{"root", "hangs.service", "the job is timeout"},
		{"root", "overdue.service", "the job is failed"},
		{"root", "absent.service", "not found"},
		{"signet", "good.service", "authentication"},
	} {
		if got := b.act(tt.user, "reload", tt.unit); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s reloads %s: %q, want %q", tt.user, tt.unit, got, tt.want)
		}
	}

	slain := b.try("sh", "-c", "reloader reload slain.service & "+
		"for i in $(seq 100); do [ $(systemctl is-active slain.service) = reloading ] && break; sleep 0.1; done; systemctl stop slain.service; wait $!")
	if !strings.Contains(slain, "the job is canceled") || !strings.Contains(slain, "stopped or restarted the unit meanwhile") {
		t.Errorf("a unit that is stopped amid its reload: %q", slain)
	}

	b.run("systemctl", "start", "--no-block", "slow.service")
	for _, tt := range []struct{ word, user, unit, want string }{
		// As a consumer, a stopped unit is told from one that has crashed, and one
		// that is starting is waited for.
		{"consumer", "root", "slow.service", ""},
		{"consumer", "root", "good.service", ""},
		{"consumer", "root", "bad.service", "the job is failed"},
		{"consumer", "root", "down.service", "it does not run"},
		{"consumer", "root", "crashed.service", "has failed and does not run"},
		{"consumer", "root", "absent.service", "the unit is not-found"},
		// Whether the right is there is found out without using it.
		{"may", "root", "good.service", ""},
		{"may", "root", "down.service", ""},
		{"may", "root", "absent.service", "not-found"},
		{"may", "signet", "good.service", "authentication"},
		{"may", "signet", "good.service", "the rule for polkit is missing or does not list good.service"},
		{"may", "signet", "down.service", "authentication"},
	} {
		if got := b.act(tt.user, tt.word, tt.unit); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: %s %s: %q, want %q", tt.user, tt.word, tt.unit, got, tt.want)
		}
	}
	b.rightByRule()
}

// act does something with a unit as a user, and is what goes wrong.
func (b *bed) act(user, word, unit string) string {
	return b.try("setpriv", "--reuid="+user, "--regid="+user, "--clear-groups", "/usr/bin/reloader", word, unit)
}

// reloadableUnits makes units whose reloads end in every way.
func (b *bed) reloadableUnits() {
	b.t.Helper()
	unit := func(name, lines string) {
		b.write("/etc/systemd/system/"+name, "[Service]\nExecStart=/bin/sleep infinity\n"+lines, 0o644)
	}
	unit("good.service", "ExecReload=/bin/true\n")
	unit("other.service", "ExecReload=/bin/true\n")
	unit("bad.service", "ExecReload=/bin/false\n")
	unit("none.service", "")
	unit("down.service", "ExecReload=/bin/true\n")
	unit("hangs.service", "ExecReload=/bin/sleep 30\n[Unit]\nJobTimeoutSec=1\n")
	unit("overdue.service", "ExecReload=/bin/sleep 30\nTimeoutStartSec=1\n")
	unit("slain.service", "ExecReload=/bin/sleep 30\nTimeoutStopSec=1\n")
	b.write("/etc/systemd/system/crashed.service", "[Service]\nExecStart=/bin/sh -c 'kill -9 $$$$'\n", 0o644)
	b.write("/etc/systemd/system/slow.service", "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'sleep 1; systemd-notify --ready; sleep infinity'\nExecReload=/bin/true\n", 0o644)
	b.run("systemctl", "daemon-reload")
	b.run("systemctl", "start", "good.service", "other.service", "bad.service", "none.service", "hangs.service", "overdue.service", "slain.service", "polkit.service", "crashed.service")
}

// rightByRule holds what the agent's user may do once the rule lists a unit.
func (b *bed) rightByRule() {
	b.t.Helper()
	b.write(PolkitRulesPath, PolkitRule([]string{"good.service"}), 0o644)
	b.run("systemctl", "restart", "polkit.service")
	if got := b.act("signet", "reload", "good.service"); got != "" {
		b.t.Errorf("with the rule: %q", got)
	}
	reloads := func() string {
		return b.run("systemctl", "show", "--value", "-p", "ReloadResult,ExecReload", "good.service")
	}
	before := reloads()
	if got := b.act("signet", "may", "good.service"); got != "" || reloads() != before {
		b.t.Errorf("with the rule, may: %q; the unit was reloaded: %v", got, reloads() != before)
	}
	if got := b.act("signet", "may", "other.service"); !strings.Contains(got, "authentication") {
		b.t.Errorf("may, of a unit that the rule does not list: %q", got)
	}
	if got := b.act("signet", "reload", "other.service"); !strings.Contains(got, "authentication") {
		b.t.Errorf("a unit that the rule does not list: %q", got)
	}
	if got := b.try("setpriv", "--reuid=signet", "--regid=signet", "--clear-groups", "systemctl", "--no-ask-password", "stop", "good.service"); !strings.Contains(got, "authentication") {
		b.t.Errorf("another verb than reload: %q", got)
	}
}

package systemd

import (
	"strconv"
	"strings"
	"testing"
)

// TestUnitFiles holds that systemd understands every line of the unit files,
// and that the sandbox of the service stays as tight as it is.
func TestUnitFiles(t *testing.T) {
	b := newBed(t)
	b.write("/usr/bin/signet", "#!/bin/sh\n", 0o755)
	for _, unit := range []string{"signet.service", "signet.socket", "signet-credentials.socket"} {
		if out := b.run("systemd-analyze", "verify", "--man=no", "/lib/systemd/system/"+unit); out != "" {
			t.Errorf("%s: %s", unit, out)
		}
	}
	if out := b.try("systemd-analyze", "verify", "--man=no", "/lib/systemd/system/signet.service"); strings.Contains(out, "signet") {
		t.Errorf("systemd objects: %s", out)
	}
	b.run("systemctl", "daemon-reload")
	report := b.run("systemd-analyze", "security", "--no-pager", "signet.service")
	line := report[strings.LastIndex(report, "\n")+1:]
	_, rest, _ := strings.Cut(line, "signet.service: ")
	exposure, err := strconv.ParseFloat(strings.Fields(rest + " ?")[0], 64)
	if err != nil || exposure > 1.8 {
		t.Errorf("exposure %v (%v), want at most 1.8:\n%s", exposure, err, report)
	}
}

// TestService holds what the package does under the real service manager,
// inside the sandbox of the real unit: ready, status, reload, watchdog, journal
// and sockets.
func TestService(t *testing.T) {
	b := newBed(t)
	b.build("./testdata/service", "/usr/bin/signet", "0")
	b.dropIn("WatchdogSec=2s", "RestartSec=100ms", "ExecReload=", "ExecReload=/bin/kill -HUP $MAINPID")

	b.run("systemctl", "start", "signet.service")
	if got := b.property("StatusText"); got != "listening" {
		t.Errorf("status %q", got)
	}
	if got := b.ask("/run/signet/signet.sock", ""); got != SocketName {
		t.Errorf("own socket answers %q", got)
	}
	b.run("systemctl", "reload", "signet.service")
	if got := b.property("StatusText"); got != "reloaded" {
		t.Errorf("status after reload %q", got)
	}
	if got := b.try("journalctl", "-o", "cat", "-p", "warning..warning", "SIGNET_SOCKETS=1"); got != "started sockets=1" {
		t.Errorf("journal: %q", got)
	}

	b.run("systemctl", "kill", "-s", "USR1", "--kill-who=main", "signet.service")
	b.await("NRestarts", "1")
	b.await("SubState", "running")
	if got := b.try("journalctl", "-o", "cat", "-u", "signet.service", "--grep", "Watchdog timeout"); !strings.Contains(got, "Watchdog timeout") {
		t.Errorf("the watchdog did not do it: %q", got)
	}
	b.run("systemctl", "stop", "signet.service")
	if got := b.property("Result"); got != "success" {
		t.Errorf("stopped with result %q", got)
	}

	b.run("systemctl", "start", "signet.socket", "signet-credentials.socket")
	if got := b.ask("/run/signet/credentials.sock", ""); got != CredentialsSocketName {
		t.Errorf("the credentials socket answers %q", got)
	}
	if got := b.ask("/run/signet/signet.sock", ""); got != SocketName {
		t.Errorf("the socket of systemd answers %q", got)
	}
	b.run("systemctl", "stop", "signet.service")
	if got := b.ask("/run/signet/signet.sock", ""); got != SocketName {
		t.Errorf("after a stop the socket answers %q", got)
	}
}

// TestReloadUnit holds that a reload that did not take place is an error that
// says why, and that the polkit rule of the package gives the agent's user the
// units that it lists and nothing else.
func TestReloadUnit(t *testing.T) {
	b := newBed(t)
	b.build("./testdata/service", "/usr/bin/reloader", "0")
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
	act := func(user, word, unit string) string {
		return b.try("setpriv", "--reuid="+user, "--regid="+user, "--clear-groups", "/usr/bin/reloader", word, unit)
	}
	reload := func(user, unit string) string { return act(user, "reload", unit) }
	for _, tt := range []struct{ user, unit, want string }{
		{"root", "good.service", ""},
		{"root", "bad.service", "the job is failed"},
		{"root", "none.service", "not applicable"},
		{"root", "down.service", "the job is invalid"},
		{"root", "hangs.service", "the job is timeout"},
		{"root", "overdue.service", "the job is failed"},
		{"root", "absent.service", "not found"},
		{"signet", "good.service", "authentication required"},
	} {
		if got := reload(tt.user, tt.unit); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s reloads %s: %q, want %q", tt.user, tt.unit, got, tt.want)
		}
	}

	slain := b.try("sh", "-c", "reloader reload slain.service & "+
		"until [ $(systemctl is-active slain.service) = reloading ]; do sleep 0.1; done; systemctl stop slain.service; wait $!")
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
		{"may", "signet", "good.service", "authentication required"},
		{"may", "signet", "good.service", "the rule for polkit is missing or does not list good.service"},
		{"may", "signet", "down.service", "authentication required"},
	} {
		if got := act(tt.user, tt.word, tt.unit); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: %s %s: %q, want %q", tt.user, tt.word, tt.unit, got, tt.want)
		}
	}
	b.write(PolkitRulesPath, PolkitRule([]string{"good.service"}), 0o644)
	b.run("systemctl", "restart", "polkit.service")
	if got := reload("signet", "good.service"); got != "" {
		t.Errorf("with the rule: %q", got)
	}
	reloads := func() string {
		return b.run("systemctl", "show", "--value", "-p", "ReloadResult,ExecReload", "good.service")
	}
	before := reloads()
	if got := act("signet", "may", "good.service"); got != "" || reloads() != before {
		t.Errorf("with the rule, may: %q; the unit was reloaded: %v", got, reloads() != before)
	}
	if got := act("signet", "may", "other.service"); !strings.Contains(got, "authentication required") {
		t.Errorf("may, of a unit that the rule does not list: %q", got)
	}
	if got := reload("signet", "other.service"); !strings.Contains(got, "authentication required") {
		t.Errorf("a unit that the rule does not list: %q", got)
	}
	if got := b.try("setpriv", "--reuid=signet", "--regid=signet", "--clear-groups", "systemctl", "--no-ask-password", "stop", "good.service"); !strings.Contains(got, "authentication required") {
		t.Errorf("another verb than reload: %q", got)
	}
}

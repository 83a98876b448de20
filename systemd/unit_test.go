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

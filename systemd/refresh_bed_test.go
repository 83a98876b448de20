package systemd

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// TestAChangeReachesARunningUnit holds that a unit which asks for it is reloaded
// with its new credentials, by the real agent under a real systemd that can do
// that (260). Debian has it in no release yet: SIGNET_TESTBED_ROOT names the root
// file system of one, with systemd, dbus, polkitd and softhsm2 in it.
func TestAChangeReachesARunningUnit(t *testing.T) {
	b := newBed(t)
	version := strings.Fields(b.run("systemctl", "--version"))[1]
	if v, err := strconv.Atoi(version); err != nil || v < 260 {
		t.Skipf("systemd is %s; name a root file system with 260 or later in SIGNET_TESTBED_ROOT", version)
	}
	b.build("../cmd/signet", "/usr/bin/signet", "0")
	b.build("../cmd/signet-hsm", "/usr/bin/signet-hsm", "1")
	b.build("../cmd/signet-sim", "/usr/bin/signet-sim", "0")
	b.makeToken()
	b.startSimulator()
	b.agentConfig("app.service", "still.service")
	b.run("install", "-d", "-o", "signet", "-g", "www-data", "-m", "0750", "/etc/app")
	b.dropIn("LoadCredential=hsm-pin:/etc/signet/pin", "Environment=SOFTHSM2_CONF=/etc/signet/softhsm2.conf", "ReadWritePaths=/etc/app")
	const service = "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c 'cp $CREDENTIALS_DIRECTORY/db.password /run/%n.password'\n"
	const credential = "LoadCredential=db.password:/run/signet/credentials.sock\n"
	b.write("/run/systemd/system/eater.service", "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n", 0o644)
	b.write("/run/systemd/system/app.service", service+credential+"RefreshOnReload=credentials\n", 0o644)
	b.write("/run/systemd/system/still.service", service+credential, 0o644)
	b.run("systemctl", "daemon-reload")
	b.run("signet", "polkit", "--output", PolkitRulesPath)
	if rule := b.run("cat", PolkitRulesPath); !strings.Contains(rule, `"app.service"`) {
		t.Errorf("the rule is\n%s", rule)
	}
	b.run("systemctl", "restart", "polkit.service")
	b.run("systemctl", "start", "signet-credentials.socket", "eater.service", "app.service", "still.service")

	id := b.run("sh", "-c", `grep -o '"credential": *"[^"]*' /run/sim/endpoints.json | cut -d'"' -f4`)
	rotate := func(password string) {
		t.Helper()
		b.run("sh", "-c", "printf "+password+" | signet-sim --dir /run/sim credential password "+id)
	}
	// What the agent has is refused, so that it asks the upstream again.
	noticed := func() {
		t.Helper()
		var status struct {
			Items []struct{ Name, Version string }
		}
		if err := json.Unmarshal([]byte(b.run("signet", "status", "--json")), &status); err != nil {
			t.Fatal(err)
		}
		for _, it := range status.Items {
			if it.Name == "db" {
				b.run("signet", "refused", "db", "--version", it.Version)
			}
		}
	}
	reloaded := func(password string) {
		t.Helper()
		b.awaitText("the unit with "+password, func() string { return b.try("cat", "/run/app.service.password") },
			func(got string) bool { return got == password })
	}
	rotate("second")
	noticed()
	reloaded("second")

	// What changed while the agent was away is made up for.
	b.run("systemctl", "stop", "signet.service")
	rotate("third")
	b.run("systemctl", "start", "signet.service")
	noticed()
	reloaded("third")
	if got := b.try("cat", "/run/still.service.password"); !strings.Contains(got, "No such file") {
		t.Errorf("a unit that does not ask for it was reloaded: %q", got)
	}
	if doctor := b.try("signet", "doctor"); !strings.Contains(doctor, "reload app.service") {
		t.Errorf("the doctor says\n%s", doctor)
	}
}

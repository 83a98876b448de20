package systemd

import (
	"strings"
	"testing"
)

// TestAgent holds that the real agent, with a real token, runs under its unit
// as it is shipped: ready only when the socket answers, watched, brought back
// when it hangs, and stopped cleanly.
func TestAgent(t *testing.T) {
	b := newBed(t)
	b.build("../cmd/signet", "/usr/bin/signet", "0")
	b.build("../cmd/signet-hsm", "/usr/bin/signet-hsm", "1")
	b.makeToken()
	config := func(allow string) {
		b.write("/etc/signet/signet.yaml", strings.Join([]string{
			"hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {credential: hsm-pin}}",
			"policy: [{callers: {users: [root]}, allow: {" + allow + "}}]",
		}, "\n"), 0o644)
	}
	config(`secrets: ["*"]`)
	b.dropIn("LoadCredential=hsm-pin:/etc/signet/pin", "Environment=SOFTHSM2_CONF=/etc/signet/softhsm2.conf")

	b.run("systemctl", "start", "signet.service")
	if got := b.run("systemctl", "show", "-p", "ActiveState", "-p", "SubState", "signet.service"); got != "ActiveState=active\nSubState=running" {
		t.Errorf("after start: %s", got)
	}
	if got := b.health(); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("it said READY=1, but its socket answers %q", got)
	}
	if got := b.property("StatusText"); got == "" {
		t.Error("no status")
	}
	if got := b.run("stat", "-c", "%a %U", "/var/lib/signet", "/run/signet"); got != "700 signet\n755 signet" {
		t.Errorf("directories: %s", got)
	}
	before := b.property("MainPID")
	plan := func() string { return b.try("sh", "-c", "signet plan; echo status $?") }
	if got := plan(); !strings.HasSuffix(got, "status 3") {
		t.Errorf("the plan, which the policy denies: %s", got)
	}
	config("admin: true")
	b.run("systemctl", "reload", "signet.service") // it returns too early where the agent is slow to say RELOADING=1
	b.awaitText("the plan, which the new policy allows", plan, func(got string) bool { return strings.HasSuffix(got, "status 0") })
	b.await("ActiveState", "active")
	if got := b.property("MainPID"); got != before {
		t.Errorf("the reload changed the process from %s to %s", before, got)
	}

	b.dropIn("LoadCredential=hsm-pin:/etc/signet/pin", "Environment=SOFTHSM2_CONF=/etc/signet/softhsm2.conf", "WatchdogSec=3s", "RestartSec=100ms")
	b.run("systemctl", "restart", "signet.service")
	b.run("sleep", "5")
	if got := b.property("NRestarts"); got != "0" || b.property("ActiveState") != "active" {
		t.Errorf("the watchdog takes a sound agent for hung: restarted %s times", got)
	}
	b.run("systemctl", "kill", "-s", "STOP", "--kill-who=main", "signet.service")
	b.await("NRestarts", "1")
	b.await("SubState", "running")
	if got := b.health(); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("after the watchdog its socket answers %q", got)
	}

	b.run("systemctl", "stop", "signet.service")
	if got := b.property("Result"); got != "success" {
		t.Errorf("stopped with result %q", got)
	}
	if got := b.try("pgrep", "-u", "signet"); got != "" {
		t.Errorf("processes are left: %s", got)
	}
}

// makeToken makes a SoftHSM token that belongs to the agent.
func (b *bed) makeToken() {
	b.t.Helper()
	const pin = "4321"
	b.write("/etc/signet/softhsm2.conf", "directories.tokendir = /var/lib/signet/tokens\nobjectstore.backend = file\nlog.level = ERROR\n", 0o644)
	b.write("/etc/signet/pin", pin+"\n", 0o600)
	b.run("install", "-d", "-o", "signet", "-g", "signet", "-m", "0700", "/var/lib/signet/tokens")
	b.run("setpriv", "--reuid=signet", "--regid=signet", "--clear-groups", "env", "SOFTHSM2_CONF=/etc/signet/softhsm2.conf",
		"softhsm2-util", "--init-token", "--free", "--label", "signet", "--so-pin", "87654321", "--pin", pin)
}

func (b *bed) health() string {
	return b.ask("/run/signet/signet.sock", "GET /v1/healthz HTTP/1.1\r\nHost: signet\r\nConnection: close\r\n\r\n")
}

package systemd

import (
	"strings"
	"testing"
)

// TestCallersAreKnownByTheirUnit holds that a rule for a unit is for what runs
// in that unit and for nothing else, whoever it runs as, and that the audit says
// how the unit was proven.
func TestCallersAreKnownByTheirUnit(t *testing.T) {
	b := newBed(t)
	b.build("../cmd/signet", "/usr/bin/signet", "0")
	b.build("../cmd/signet-hsm", "/usr/bin/signet-hsm", "1")
	b.makeToken()
	b.write("/etc/signet/client-secret", "x\n", 0o644)
	b.write("/etc/signet/signet.yaml", strings.Join([]string{
		"hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {credential: hsm-pin}}",
		`upstreams: {pam: {type: senhasegura, url: "https://127.0.0.1:1", auth: {grant: client_credentials, client_id: x, client_secret: {file: /etc/signet/client-secret}}}}`,
		"secrets: {db: {upstream: pam, credential: x}}",
		"policy:",
		"- {callers: {users: [root]}, allow: {admin: true}}",
		"- {callers: {units: [app.service]}, allow: {secrets: [db]}}",
	}, "\n"), 0o644)
	b.dropIn("LoadCredential=hsm-pin:/etc/signet/pin", "Environment=SOFTHSM2_CONF=/etc/signet/softhsm2.conf")
	b.run("systemctl", "start", "signet.service")

	// No upstream answers, so what is allowed is unavailable (5), and what is
	// not is denied (3).
	for _, tt := range []struct{ unit, user, want string }{
		{"app.service", "nobody", "status=5"},
		{"app.service", "daemon", "status=5"},
		{"other.service", "nobody", "status=3"},
		{"app.scope", "nobody", "status=3"},
		{"", "nobody", "status=3"},
	} {
		ask := "signet get db; echo status=$?"
		args := []string{"setpriv", "--reuid=" + tt.user, "--clear-groups", "sh", "-c", ask}
		if strings.HasSuffix(tt.unit, ".service") {
			args = []string{"systemd-run", "-q", "--wait", "--pipe", "--collect", "--unit=" + tt.unit, "-p", "User=" + tt.user, "sh", "-c", ask}
		} else if tt.unit != "" {
			args = append([]string{"systemd-run", "-q", "--scope", "--collect", "--unit=" + tt.unit}, args...)
		}
		if got := b.try(args...); !strings.Contains(got, tt.want) {
			t.Errorf("%s in %q: %s; want %s", tt.user, tt.unit, got, tt.want)
		}
	}
	if got := b.run("signet", "policy", "explain", "--unit", "app.service", "--kind", "secret", "db"); !strings.Contains(got, "allowed: policy[1], unit app.service") {
		t.Errorf("explained as %q", got)
	}
	b.run("systemctl", "stop", "signet.service")
	audit := b.run("cat", "/var/lib/signet/audit.jsonl")
	for _, want := range []string{`"unit":"app.service","how":"pidfd"`, `"unit":"other.service","how":"pidfd"`, `"by":"unit app.service"`, `"event":"policy.explain"`, `"event":"audit.signed"`} {
		if !strings.Contains(audit, want) {
			t.Errorf("not in the audit: %s\n%s", want, audit)
		}
	}
	if got := b.run("signet", "audit", "verify", "--file", "/var/lib/signet/audit.jsonl"); !strings.Contains(got, "the last 1 not yet") {
		t.Errorf("verified: %s", got)
	}
}

package config

import (
	"slices"
	"testing"
)

// TestCredentialUnits holds which units may have credentials: services that a
// rule gives secrets or certificates to. Scopes are callers too, and systemd
// gives credentials to none.
func TestCredentialUnits(t *testing.T) {
	const rules = minimal + `policy:
  - callers: {units: [web.service, session-3.scope, app@1.service]}
    allow: {secrets: ["*"]}
  - callers: {units: [web.service], users: [root]}
    allow: {certificates: ["*"]}
  - callers: {units: [admin.service]}
    allow: {admin: true}
`
	got := mustParse(t, rules+"credentials_socket: {path: /run/signet/credentials.sock}\n").CredentialUnits()
	if want := []string{"app@1.service", "web.service"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := mustParse(t, rules).CredentialUnits(); got != nil {
		t.Errorf("%q without a socket", got)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
)

// grantsConfig is an agent that knows one CipherTrust Manager by each grant. The
// identity that two of them show comes from the appliance's own CA, by the first.
var grantsConfig = template.Must(template.New("").Parse(`
state_dir: {{.State}}
runtime_dir: {{.Dir}}
hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {file: {{.Dir}}/pin}}
{{with .E.CipherTrust}}
upstreams:
  password: {type: ciphertrust, url: "{{.URL}}", ca_file: {{.CAFile}}, auth: {grant: password, username: {{.AdminUsername}}, password: {file: {{.AdminPasswordFile}}}}}
  user: {type: ciphertrust, url: "{{.URL}}", ca_file: {{.CAFile}}, identity: robot, auth: {grant: user_certificate}}
  client: {type: ciphertrust, url: "{{.URL}}", ca_file: {{.CAFile}}, identity: robot, auth: {grant: client_credential, client_id: {{$.Client}}}}
  given: {type: ciphertrust, url: "{{.URL}}", ca_file: {{.CAFile}}, auth: {grant: refresh_token, refresh_token: {file: {{$.Dir}}/refresh-token}}}
identities:
  robot: {issuer: password, ca: {{.CA}}, duration: 20d, subject: {common_name: robot.example}, key: {type: ecdsa-p256}}
certificates:
  web: {issuer: user, ca: {{.CA}}, duration: 20d, dns_names: [web.example], key: {type: ecdsa-p256}}
secrets:
  by-password: {upstream: password, secret: {{.Secret}}, ttl: 1h, max_stale: 1h}
  by-user: {upstream: user, secret: {{.Secret}}, ttl: 1h, max_stale: 1h}
  by-client: {upstream: client, secret: {{.Secret}}, ttl: 1h, max_stale: 1h}
  by-given: {upstream: given, secret: {{.Secret}}, ttl: 1h, max_stale: 1h}
{{end}}
socket: {path: {{.Dir}}/signet.sock, mode: "0600"}
policy:
  - callers: {users: [{{.User}}]}
    allow: {secrets: ["*"], certificates: ["*"], tokens: ["*"], proxy: {password: ["* /api/v1/**"]}, admin: true}
`))

// simulator asks the simulated CipherTrust Manager's operator.
func (r *identityRig) simulator(method, path string, in, out any) {
	r.Helper()
	if err := (controller{r.path("sim")}).call(r.Context(), method, "/ciphertrust"+path, in, out); err != nil {
		r.Fatal(err)
	}
}

// administer calls the CipherTrust Manager through the agent's proxy.
func (r *identityRig) administer(path string, in any) (out struct{ ID, Token string }) {
	r.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		r.Fatal(err)
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "https://x/api/v1"+path, bytes.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Transport("password").RoundTrip(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode > 201 {
		r.Fatalf("%s: HTTP %d, %v", path, resp.StatusCode, err)
	}
	return out
}

// give logs in as another program would, and leaves the refresh token in a file
// for the agent.
func (r *identityRig) give() (token string) {
	r.Helper()
	password, err := os.ReadFile(r.vars.E.CipherTrust.PasswordFile)
	if err != nil {
		r.Fatal(err)
	}
	_, out := visit(r.T, nil, r.vars.E.CipherTrust.CAFile).call("POST", r.vars.E.CipherTrust.URL+"/api/v1/auth/tokens/", url.Values{
		"grant_type": {"password"}, "username": {r.vars.E.CipherTrust.Username}, "password": {strings.TrimSpace(string(password))},
		"refresh_token_lifetime": {"1440"}, "refresh_token_revoke_unused_in": {"60"},
	}, "", "")
	token, _ = out["refresh_token"].(string)
	r.write("refresh-token", token+"\n")
	return token
}

// live are the refresh tokens that work: whose they are, and which.
func (r *identityRig) live() (users, ids []string) {
	r.Helper()
	var list []ciphertrusttest.Token
	r.simulator("GET", "/tokens", nil, &list)
	for _, t := range list {
		if t.Live {
			users, ids = append(users, t.Username), append(ids, t.ID)
		}
	}
	slices.Sort(users)
	slices.Sort(ids)
	return users, ids
}

// reads has each secret read from the appliance, and compares their values.
func (r *identityRig) reads(want, when string, secrets ...string) {
	r.Helper()
	for _, name := range secrets {
		got := ""
		r.until(fmt.Sprintf("secret %s %s", name, when), 30*time.Second, func() bool {
			s, err := r.client.ReadSecret(r.Context(), name)
			if err == nil && s.Fields["value"] != want {
				s, err = r.client.Refused(r.Context(), name, s.Version)
			}
			if err != nil {
				return false
			}
			got = s.Fields["value"]
			return got == want
		})
	}
}

// restarted ends the agent and starts it again, and the secret has that value
// then.
func (r *identityRig) restarted(value string, end func()) {
	r.Helper()
	end()
	r.simulator("PUT", "/secrets/"+r.vars.E.CipherTrust.Secret, map[string]string{"material": value}, nil)
	r.start()
}

// Each grant logs the whole agent in, with the key of the certificate in the
// HSM: secrets are read by all of them, and by each anew after it was stopped and
// after it was killed, with the same refresh tokens as before.
func TestEveryGrantOfARealAgent(t *testing.T) {
	r := newIdentityRig(t)
	r.config, r.vars.Client = grantsConfig, "not-registered-yet"
	given := r.give()
	r.simulator("POST", "/users", map[string]any{
		"username": "robot", "groups": []string{"Key Users", "CA Admins"}, "certificate_subject_dn": "CN=robot.example", "allowed_auth_methods": []string{"user_certificate"},
	}, nil)
	r.start()
	r.reads("123456", "at first", "by-password", "by-user", "by-given")
	r.until("certificate by a user's certificate", 30*time.Second, func() bool {
		_, err := r.client.Certificate(r.Context(), "web")
		return err == nil
	})

	// The client is registered with the certificate that the agent has by now.
	robot, err := r.client.Certificate(r.Context(), "robot")
	if err != nil {
		t.Fatal(err)
	}
	ticket := r.administer("/client-management/regtokens/", map[string]any{"ca_id": r.vars.E.CipherTrust.CA, "lifetime": "1h", "max_clients": 1})
	client := r.administer("/client-management/clients", map[string]any{"reg_token": ticket.Token, "name": "robot", "cert": robot.Certificate})
	r.administer("/usermgmt/groups/Key%20Users/clients/"+client.ID, nil)
	r.vars.Client = client.ID

	all := []string{"by-password", "by-user", "by-client", "by-given"}
	_, ids := r.live()
	for value, end := range map[string]func(){"after a stop": r.stop, "after a kill": r.kill} {
		r.restarted(value, end)
		r.reads(value, value, all...)
		if users, now := r.live(); strings.Join(users, " ") != "admin robot signet" || !slices.Equal(ids, now) {
			t.Errorf("%s: live refresh tokens of %s: %v, before %v", value, users, now, ids)
		}
	}
	// With another key the user is the same, and the client has to be told.
	if err := r.client.Rotate(r.Context(), "robot", false); err != nil {
		t.Fatal(err)
	}
	if robot, err = r.client.Certificate(r.Context(), "robot"); err != nil {
		t.Fatal(err)
	}
	r.administer("/client-management/clients/"+client.ID+"/renew", map[string]any{"ext_cert": robot.Certificate})
	r.restarted("after a rotation", r.stop)
	r.reads("after a rotation", "of the key", all...)

	for _, file := range []string{filepath.Join(r.state, "signet.db"), filepath.Join(r.state, "signet.db-wal"), r.path("signet.log")} {
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(given)) {
			t.Errorf("%s holds the refresh token", file)
		}
	}
}

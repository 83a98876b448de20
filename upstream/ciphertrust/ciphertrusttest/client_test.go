package ciphertrusttest

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"fmt"
	"testing"
	"time"
)

func TestClientIsRegisteredAndLogsIn(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	root := a.rootCA()
	a.want(201, "POST", "/usermgmt/groups", `{"name":"agents"}`)
	profile := a.want(201, "POST", "/client-management/profiles/", `{"name":"hosts","groups":["agents","Key Users"],"cert_duration":30}`)
	a.refused(409, 11, "NCERRConflict", "POST", "/client-management/profiles", `{"name":"hosts"}`)
	a.refused(400, 9, badValue, "POST", "/client-management/profiles", `{"name":"other","groups":["nobody"]}`)
	tok := a.want(201, "POST", "/client-management/regtokens/", js(object{
		"ca_id": root, "label": object{"ClientProfile": "hosts"}, "lifetime": "10h", "max_clients": 2, "name_prefix": "agent-",
	}))
	if tok["clients_registered"] != 0.0 || tok["valid_until"] == nil || tok["client_management_profile_id"] != profile["id"] || tok["cert_duration"] != 30.0 {
		t.Errorf("registration token %v", tok)
	}
	a.refused(409, 11, "NCERRConflict", "DELETE", "/client-management/profiles/hosts", "")
	key := newKey(t)
	csr := request(t, key, pkix.Name{CommonName: "agent"})
	c.refused(401, 1, badToken, "POST", "/client-management/clients", js(object{"reg_token": "x", "csr": csr}))
	c.refused(400, 9, badValue, "POST", "/client-management/clients", js(object{"csr": csr}))
	x := c.want(201, "POST", "/client-management/clients", js(object{"reg_token": tok["token"], "csr": csr}))
	if x["name"] != "agent-1" || x["state"] != "active" || x["key"] != nil || x["csr"] != csr || x["subject"] != "/CN=agent" {
		t.Errorf("client %v", x)
	}
	cert := parsed(t, x.text("cert"))
	if !near(cert.NotAfter, time.Now().AddDate(0, 0, 30)) {
		t.Errorf("until %v, want 30 days by the profile", cert.NotAfter)
	}
	mine := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	grant := js(object{"grant_type": "client_credential", "client_id": x["id"]})
	out := c.with(mine).want(200, "POST", "/auth/tokens", grant)
	if out["refresh_token"] != nil || out["client_id"] != x["id"] {
		t.Errorf("answer %v, want a JWT only", out)
	}
	as := *c
	as.jwt = out.text("jwt")
	as.want(201, "POST", "/vault/secrets", `{"name":"s","dataType":"password"}`) // by the profile's group
	if self := as.want(200, "GET", "/client-management/clients/self", ""); self["id"] != x["id"] {
		t.Errorf("self %v", self)
	}
	other, _ := a.clientCert(root, pkix.Name{CommonName: "agent"})
	c.with(other).refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	c.refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)

	// Another certificate for the same client.
	key2 := newKey(t)
	next := as.want(200, "POST", "/client-management/clients/self/renew", js(object{"csr": request(t, key2, pkix.Name{CommonName: "agent"})}))
	if next["id"] != x["id"] || next["cert"] == x["cert"] {
		t.Errorf("renewed %v", next)
	}
	mine2 := &tls.Certificate{Certificate: [][]byte{parsed(t, next.text("cert")).Raw}, PrivateKey: key2}
	c.with(mine2).want(200, "POST", "/auth/tokens", grant)
	c.with(mine).refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)

	// The CA is barred from logging clients in.
	a.want(200, "PATCH", "/ca/local-cas/"+root, `{"allow_client_authentication":false}`)
	c.with(mine2).refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	a.want(200, "PATCH", "/ca/local-cas/"+root, `{"allow_client_authentication":true}`)

	a.refused(400, 9, badValue, "POST", "/client-management/clients/agent-1/revoke", `{"revoke_reason":"x"}`)
	a.want(200, "POST", "/client-management/clients/agent-1/revoke", `{"revoke_reason":"keyCompromise"}`)
	c.with(mine2).refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	as.refused(401, 1, badToken, "GET", "/client-management/clients/self", "")

	// The server makes the key; then the token is used up.
	made := c.want(201, "POST", "/auth/self/registration/", js(object{"reg_token": tok["token"], "cn": "made"}))
	if made.text("key") == "" || made["name"] != "agent-2" {
		t.Errorf("made by the server: %v", made)
	}
	c.refused(401, 1, badToken, "POST", "/auth/self/registration", js(object{"reg_token": tok["token"], "cn": "third"}))
	for query, want := range map[string]int{"": 2, "state=active": 1, "name=agent-*": 2, "client_id=" + x.text("id"): 1, "sha256Fingerprint=" + made.text("sha256Fingerprint"): 1} {
		if got := a.want(200, "GET", "/client-management/clients?"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	a.want(204, "DELETE", "/client-management/clients/"+made.text("id"), "")
}

func TestRegistrationTokensEnd(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	body := func(more object) string { more["ca_id"] = a.rootCA(); return js(more) }
	tok := a.want(201, "POST", "/client-management/regtokens", body(object{"lifetime": "10m", "labels": object{"site": "a"}}))
	for _, bad := range []string{body(object{"lifetime": "soon"}), body(object{"cert_duration": -1}), `{}`, `{"ca_id":"x"}`, body(object{"client_management_profile_id": "x"})} {
		a.refused(400, 9, badValue, "POST", "/client-management/regtokens", bad)
	}
	for query, want := range map[string]int{"": 1, "token=" + tok.text("token"): 1, "labels=site": 1, "labels=site=b": 0, "id=x": 0} {
		if got := a.want(200, "GET", "/client-management/regtokens?"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	reg := func(n int) string { return js(object{"reg_token": tok["token"], "cn": fmt.Sprint("c", n)}) }
	c.want(201, "POST", "/client-management/clients", reg(1))
	c.sim.Clock.Advance(11 * time.Minute)
	c.refused(401, 1, badToken, "POST", "/client-management/clients", reg(2))
	a = c.admin()
	a.want(200, "PATCH", "/client-management/regtokens/"+tok.text("id"), `{"lifetime":"1d"}`)
	c.want(201, "POST", "/client-management/clients", reg(2))
	a.want(204, "DELETE", "/client-management/regtokens/"+tok.text("id"), "")
	c.refused(401, 1, badToken, "POST", "/client-management/clients", reg(3))
}

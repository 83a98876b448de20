package ciphertrusttest

import (
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

const badValue = "NCERRInvalidParamValue"

func TestUserRecordIsThatOfTheProduct(t *testing.T) {
	a := start(t, Config{}).admin()
	u := a.want(201, "POST", "/usermgmt/users/", `{"username":"maya","password":"Maya-2504","name":"Maya","email":"m@example.com"}`)
	if !u.has("user_id", "username", "connection", "name", "nickname", "email", "created_at", "updated_at", "last_login", "logins_count",
		"failed_logins_count", "failed_logins_initial_attempt_at", "last_failed_login_at", "account_lockout_at", "password_changed_at",
		"password_change_required", "certificate_subject_dn", "enable_cert_auth", "allowed_auth_methods", "allowed_client_types",
		"login_flags", "auth_domain", "auth_domain_name", "groups", "user_metadata", "app_metadata") {
		t.Errorf("fields of %v", u)
	}
	for name, want := range map[string]any{
		"username": "maya", "name": "Maya", "nickname": "maya", "email": "m@example.com", "last_login": nil, "logins_count": 0.0,
		"failed_logins_count": 0.0, "account_lockout_at": nil, "password_change_required": false, "certificate_subject_dn": "",
		"auth_domain": rootDomain, "auth_domain_name": "root",
	} {
		if u[name] != want {
			t.Errorf("%s is %v, want %v", name, u[name], want)
		}
	}
	if js(u["allowed_auth_methods"]) != `["password"]` || js(u["allowed_client_types"]) != `["unregistered","public","confidential"]` ||
		js(u["login_flags"]) != `{"prevent_ui_login":false}` {
		t.Errorf("defaults of %v", u)
	}
	id := u.text("user_id")
	if bare, ok := strings.CutPrefix(id, "local|"); !ok || !uuidPattern.MatchString(bare) {
		t.Errorf("user_id %q", id)
	}
	for _, ref := range []string{url.PathEscape(id), url.PathEscape(strings.Replace(id, "local|", "local_account|", 1)), "maya"} {
		if got := a.want(200, "GET", "/usermgmt/users/"+ref, ""); got["user_id"] != id {
			t.Errorf("%s: %v", ref, got)
		}
	}
	if got := a.want(200, "GET", "/usermgmt/users/self", ""); got["username"] != "admin" || js(got["groups"]) != `["admin"]` {
		t.Errorf("self: %v", got)
	}
}

func TestUserCreationIsChecked(t *testing.T) {
	a := start(t, Config{Setup: Examples()}).admin()
	for body, want := range map[string]int{
		`{"username":"maya","password":"Other-2504"}`:                                                    409,
		`{"username":"u","password":"Other-2504","email":"M@example.com"}`:                               409,
		`{"password":"Other-2504"}`:                                                                      400,
		`{"username":"u"}`:                                                                               400,
		`{"username":"u","password":"short-A1"`:                                                          400,
		`{"username":"u","password":"all-lower-1"}`:                                                      400,
		`{"username":"u","password":"NoDigits--"}`:                                                       400,
		`{"username":"u","password":"NoOthers11"}`:                                                       400,
		`{"username":"u","password":"Longer-than-thirty-characters-1"}`:                                  400,
		`{"username":"u","password":"Other-2504","allowed_auth_methods":["magic"]}`:                      400,
		`{"username":"u","password":"Other-2504","allowed_client_types":["magic"]}`:                      400,
		`{"username":"u","password":"Other-2504","connection":"ldap"}`:                                   400,
		`{"username":"u","password":"Other-2504","expires_at":"soon"}`:                                   400,
		`{"username":"u","password":"Other-2504","password_policy":"none"}`:                              400,
		`{"username":"u","password":"Other-2504","colour":"red"}`:                                        400,
		`{"username":"u","password":"Other-2504","login_flags":{"prevent_ui":true}}`:                     400,
		`{"username":"u","password":"Other-2504","failed_logins_count":0}`:                               400,
		`{"username":"u","certificate_subject_dn":"CN=u"}`:                                               400,
		`{"username":"u1","certificate_subject_dn":"CN=u1","allowed_auth_methods":["user_certificate"]}`: 201,
		`{"username":"u2","password":"Other-2504","expires_at":"","user_metadata":{"a":[1]}}`:            201,
	} {
		if got, out := a.call("POST", "/usermgmt/users", body); got != want {
			t.Errorf("%s: HTTP %d, want %d: %v", body, got, want, out)
		}
	}
}

func TestUserChanges(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	a := c.admin()
	got := a.want(200, "PATCH", "/usermgmt/users/maya", `{"name":"M","user_metadata":{"x":1},"app_metadata":{"role":"r"},
		"certificate_subject_dn":"CN=maya","allowed_auth_methods":["password","user_certificate"],"login_flags":{"prevent_ui_login":true},
		"expires_at":"2040-01-01T00:00:00Z","allowed_client_types":["unregistered"]}`)
	if got["name"] != "M" || js(got["user_metadata"]) != `{"x":1}` || js(got["app_metadata"]) != `{"role":"r"}` ||
		got["certificate_subject_dn"] != "CN=maya" || got["expires_at"] != "2040-01-01T00:00:00Z" || got["email"] != "m@example.com" {
		t.Errorf("changed to %v", got)
	}
	a.refused(400, 9, badValue, "PATCH", "/usermgmt/users/maya", `{"username":"other"}`)
	a.refused(400, 9, badValue, "PATCH", "/usermgmt/users/maya", `{"connection":"x"}`)
	c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"username":"maya","password":"Maya-2504","cookies":true}`)
	m, _ := c.login("maya", "Maya-2504")
	if got := m.want(200, "PATCH", "/auth/self/user", `{"email":"n@example.com","user_metadata":{}}`); got["email"] != "n@example.com" {
		t.Errorf("self: %v", got)
	}
	m.refused(400, 9, badValue, "PATCH", "/auth/self/user", `{"app_metadata":{}}`)
	a.want(200, "PATCH", "/usermgmt/users/maya", js(object{"expires_at": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)}))
	c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"username":"maya","password":"Maya-2504"}`)
	a.want(204, "DELETE", "/usermgmt/users/maya", "")
	m.refused(401, 1, badToken, "GET", "/auth/self/user", "")
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/usermgmt/users/maya", "")
	a.refused(403, 6, "NCERRForbidden", "DELETE", "/usermgmt/users/admin", "")
}

func TestUserFiltersAndPages(t *testing.T) {
	c := start(t, Config{})
	var users []User
	for i := range 25 {
		u := User{Username: fmt.Sprintf("user%02d", i), Password: "x", Name: fmt.Sprintf("Name %d", i%3), Email: fmt.Sprintf("%d@example.com", i)}
		if i < 5 {
			u.Groups = []string{"Key Users", "CA Admins"}[:1+i%2]
		}
		users = append(users, u)
	}
	if err := c.sim.AddUsers(users...); err != nil {
		t.Fatal(err)
	}
	a := c.admin()
	a.want(200, "PATCH", "/usermgmt/users/user07", `{"allowed_auth_methods":["user_certificate"],"expires_at":"2001-01-01T00:00:00Z"}`)
	for query, want := range map[string]int{
		"": 26, "username=user*": 25, "username=user?7": 2, "username=user07": 1, "name=Name+1": 8, "email=1*@example.com": 11,
		"groups=Key+Users": 5, "groups=CA+Admins": 2, "groups=nil": 20, "exclude_groups=Key+Users": 21, "groups=nil,admin": 21,
		"account_expired=true": 1, "account_expired=false": 25, "allowed_auth_methods=user_certificate": 1,
		"allowed_client_types=public": 26, "auth_domain_name=root": 26, "password_policy=x": 0,
	} {
		if got := a.want(200, "GET", "/usermgmt/users/?limit=1&"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	first := a.want(200, "GET", "/usermgmt/users", "")
	if len(first.list()) != 10 || first["skip"] != 0.0 || first["limit"] != 10.0 || first["total"] != 26.0 {
		t.Errorf("without limit: %v", first)
	}
	if _, ok := first.list()[0].(map[string]any)["groups"]; ok {
		t.Error("groups without return_groups")
	}
	last := a.want(200, "GET", "/usermgmt/users?skip=20&limit=10&return_groups=true", "")
	if len(last.list()) != 6 || js(last.list()[0].(map[string]any)["groups"]) != "[]" {
		t.Errorf("last page: %v", last)
	}
	if got := len(a.want(200, "GET", "/usermgmt/users?limit=0", "").list()); got != 26 {
		t.Errorf("limit 0: %d, want all", got)
	}
	if out := a.want(200, "GET", "/usermgmt/users?skip=30", ""); len(out.list()) != 0 || out["resources"] == nil {
		t.Errorf("beyond the end: %v", out)
	}
	if out := a.want(200, "GET", "/usermgmt/users?shoe=9", ""); len(out["messages"].([]any)) != 1 || out["total"] != 26.0 {
		t.Errorf("a parameter that is not known: %v", out)
	}
	for _, bad := range []string{"limit=-1", "limit=x", "skip=-1", "skip="} {
		a.refused(400, 9, badValue, "GET", "/usermgmt/users?"+bad, "")
	}
}

func TestPolicyAndLockout(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	a := c.admin()
	wrong := func() {
		c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"username":"maya","password":"x"}`)
	}
	right := func() int {
		got, _ := c.call("POST", "/auth/tokens", `{"username":"maya","password":"Maya-2504"}`)
		return got
	}
	a.want(200, "PATCH", "/usermgmt/pwdpolicies/global", `{"failed_logins_lockout_thresholds":[0,5,30]}`)
	wrong()
	if got := right(); got != 200 {
		t.Errorf("after one wrong password: HTTP %d", got)
	}
	wrong()
	wrong()
	if got := right(); got != 401 {
		t.Errorf("after two: HTTP %d", got)
	}
	if u := a.want(200, "GET", "/usermgmt/users/maya", ""); u["failed_logins_count"] != 2.0 || u["account_lockout_at"] == nil {
		t.Errorf("locked: %v", u)
	}
	c.sim.Clock.Advance(6 * time.Minute)
	if got := right(); got != 200 {
		t.Errorf("after five minutes: HTTP %d", got)
	}
	for range 3 {
		wrong()
		c.sim.Clock.Advance(6 * time.Minute)
	}
	if got := right(); got != 401 {
		t.Errorf("after three: HTTP %d", got)
	}
	a = c.admin()
	a.want(200, "PATCH", "/usermgmt/users/maya", `{"failed_logins_count":0}`)
	if got := right(); got != 200 {
		t.Errorf("unlocked: HTTP %d", got)
	}
	p := a.want(201, "POST", "/usermgmt/pwdpolicies/", `{"policy_name":"long","inclusive_min_total_length":12,"password_history_threshold":2,"password_lifetime":10}`)
	if p["inclusive_min_total_length"] != 12.0 || p["inclusive_max_total_length"] != 30.0 {
		t.Errorf("policy %v", p)
	}
	a.refused(409, 11, "NCERRConflict", "POST", "/usermgmt/pwdpolicies", `{"policy_name":"long"}`)
	a.refused(400, 9, badValue, "PATCH", "/usermgmt/pwdpolicies/long", `{"inclusive_min_total_length":50}`)
	a.want(200, "PATCH", "/usermgmt/users/maya", `{"password_policy":"long"}`)
	a.refused(409, 11, "NCERRConflict", "DELETE", "/usermgmt/pwdpolicies/long", "")
	a.refused(403, 6, "NCERRForbidden", "DELETE", "/usermgmt/pwdpolicies/global", "")
	c.sim.Clock.Advance(11 * 24 * time.Hour)
	if got := right(); got != 401 {
		t.Errorf("a password older than the policy allows: HTTP %d", got)
	}
}

func TestPasswordIsChangedWithoutAToken(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	use := js(object{"refresh_token": func() any { _, out := c.login("maya", "Maya-2504"); return out["refresh_token"] }()})
	c.admin().want(200, "PATCH", "/usermgmt/users/maya", `{"password_change_required":true}`)
	c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"username":"maya","password":"Maya-2504"}`)
	const path = "/auth/changepw"
	c.refused(401, 5, badCredentials, "PATCH", path, `{"username":"maya","password":"x","new_password":"Maya-2505"}`)
	c.refused(400, 9, badValue, "PATCH", path, `{"username":"maya","password":"Maya-2504","new_password":"weak"}`)
	c.refused(400, 9, badValue, "PATCH", path, `{"username":"maya","password":"Maya-2504","new_password":"Maya-2504"}`)
	c.refused(400, 9, badValue, "PATCH", path, `{"username":"maya","password":"Maya-2504"}`)
	c.want(204, "PATCH", path, `{"username":"maya","password":"Maya-2504","new_password":"Maya-2505","auth_domain":"root"}`)
	c.login("maya", "Maya-2505")
	c.refused(401, 1, badToken, "POST", "/auth/tokens", use)
}

func TestGroups(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	a := c.admin()
	g := a.want(201, "POST", "/usermgmt/groups/", `{"name":"ops team","description":"d","user_metadata":{"a":1}}`)
	if !g.has("name", "created_at", "updated_at", "description", "users_count", "user_metadata", "app_metadata", "client_metadata") ||
		g["users_count"] != 0.0 || js(g["user_metadata"]) != `{"a":1}` {
		t.Errorf("group %v", g)
	}
	a.refused(409, 11, "NCERRConflict", "POST", "/usermgmt/groups", `{"name":"ops team"}`)
	a.refused(400, 9, badValue, "POST", "/usermgmt/groups", `{"description":"x"}`)
	maya := "local%7C9cd4196b-b4b3-42d7-837f-d4fdeff36538"
	for range 2 { // repeating is harmless
		if got := a.want(200, "POST", "/usermgmt/groups/ops%20team/users/"+maya, ""); got["users_count"] != 1.0 {
			t.Errorf("with a member: %v", got)
		}
	}
	a.refused(404, 16, "NCERRResourceNotFound", "POST", "/usermgmt/groups/ops%20team/users/nobody", "")
	a.refused(404, 16, "NCERRResourceNotFound", "POST", "/usermgmt/groups/nothing/users/maya", "")
	for query, want := range map[string]int{
		"": 8, "name=*Admins": 4, "users=" + maya: 2, "users=local_account%7C9cd4196b-b4b3-42d7-837f-d4fdeff36538": 2, "users=nil": 5,
		"users=-nil": 3, "clients=nil": 8, "connection=local_account": 8, "users=-" + maya: 6,
	} {
		if got := a.want(200, "GET", "/usermgmt/groups?"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	a.refused(409, 11, "NCERRConflict", "DELETE", "/usermgmt/groups/ops%20team", "")
	a.want(200, "PATCH", "/usermgmt/groups/ops%20team", `{"name":"ops","description":"e"}`)
	if got := a.want(200, "GET", "/usermgmt/users/maya", ""); js(got["groups"]) != `["Key Users","ops"]` {
		t.Errorf("after the group was renamed: %v", got["groups"])
	}
	a.want(204, "DELETE", "/usermgmt/groups/ops/users/maya", "")
	a.want(200, "POST", "/usermgmt/groups/ops/users/maya", "")
	a.want(204, "DELETE", "/usermgmt/groups/ops", `{"force":true}`)
	if got := a.want(200, "GET", "/usermgmt/users/maya", ""); js(got["groups"]) != `["Key Users"]` {
		t.Errorf("after the group is gone: %v", got["groups"])
	}
	for _, name := range systemGroups {
		path := "/usermgmt/groups/" + url.PathEscape(name)
		a.refused(403, 6, "NCERRForbidden", "DELETE", path+"?force=true", "")
		a.refused(403, 6, "NCERRForbidden", "PATCH", path, `{"name":"other"}`)
		if got := a.want(200, "GET", path, ""); js(got["app_metadata"]) != `{"system":true}` {
			t.Errorf("%s: %v", name, got)
		}
	}
	a.refused(403, 6, "NCERRForbidden", "DELETE", "/usermgmt/groups/admin/users/admin", "")
}

func TestPermissionsByGroup(t *testing.T) {
	c := start(t, Config{})
	calls := map[string]struct{ method, path, body string }{
		"users":    {"GET", "/usermgmt/users", ""},
		"ca":       {"POST", "/ca/local-cas", `{"cn":"x"}`},
		"secret":   {"POST", "/vault/secrets", `{"dataType":"password"}`},
		"clients":  {"GET", "/client-management/clients", ""},
		"property": {"POST", "/configs/properties/UI_IDLE_SESSION_TIMEOUT/reset", ""},
		"self":     {"GET", "/auth/self/user", ""},
	}
	for group, may := range map[string]string{
		"": "self", "All Clients": "self", "admin": "users ca secret clients property self", "User Admins": "users self",
		"CA Admins": "ca self", "Key Users": "secret self", "Key Admins": "secret self", "Client Admins": "clients self",
	} {
		u := User{Username: "in " + group, Password: "x"}
		if group != "" {
			u.Groups = []string{group}
		}
		if err := c.sim.AddUsers(u); err != nil {
			t.Fatal(err)
		}
		as, _ := c.login(u.Username, "x")
		for name, call := range calls {
			status, out := as.call(call.method, call.path, call.body)
			if allowed := strings.Contains(may, name); allowed != (status < 300) || !allowed && (status != 403 || out["code"] != 6.0) {
				t.Errorf("%q, %s: HTTP %d: %v", group, name, status, out)
			}
		}
	}
	ua, _ := c.login("in User Admins", "x")
	ua.refused(403, 6, "NCERRForbidden", "POST", "/usermgmt/groups/admin/users/self", "")
	plain, _ := c.login("in ", "x")
	plain.refused(403, 6, "NCERRForbidden", "GET", "/usermgmt/users/admin", "")
	plain.refused(403, 6, "NCERRForbidden", "PATCH", "/usermgmt/users/self", `{"name":"x"}`)
	plain.want(200, "GET", "/usermgmt/users/self", "")
}

func TestLoginByCertificate(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	a := c.admin()
	root := a.rootCA()
	name := pkix.Name{Country: []string{"US"}, Organization: []string{"Acme, Inc"}, CommonName: "maya"}
	cert, rec := a.clientCert(root, name)
	const grant = `{"grant_type":"user_certificate","refresh_token_lifetime":10}`
	m := c.with(cert)
	m.refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	a.want(200, "PATCH", "/usermgmt/users/maya", `{"certificate_subject_dn":"CN=maya,O=Acme\\, Inc,C=US"}`)
	m.refused(401, 5, badCredentials, "POST", "/auth/tokens", grant) // not among allowed_auth_methods
	a.want(200, "PATCH", "/usermgmt/users/maya", `{"allowed_auth_methods":["user_certificate"]}`)
	out := m.want(200, "POST", "/auth/tokens", grant)
	if out.text("refresh_token") == "" || out["refresh_token_expires_in"] == nil {
		t.Errorf("answer %v", out)
	}
	m.jwt = out.text("jwt")
	if got := m.want(200, "GET", "/auth/self/user", ""); got["username"] != "maya" {
		t.Errorf("logged in as %v", got["username"])
	}
	c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"username":"maya","password":"Maya-2504"}`) // by certificate alone
	for _, dn := range []string{"/C=US/O=Acme, Inc/CN=maya", "C=US, O=Acme\\\\, Inc, CN=maya"} {
		a.want(200, "PATCH", "/usermgmt/users/maya", `{"certificate_subject_dn":"`+dn+`"}`)
		m.want(200, "POST", "/auth/tokens", grant)
	}

	// The CA is barred from logging users in.
	a.want(200, "PATCH", "/ca/local-cas/"+root, `{"allow_user_authentication":false}`)
	m.refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	a.want(200, "PATCH", "/ca/local-cas/"+root+"?allow_user_authentication=true", "")
	m.want(200, "POST", "/auth/tokens", grant)

	// The certificate is on hold, and nobody looks.
	certs := "/ca/local-cas/" + root + "/certs/" + rec.text("id")
	a.want(200, "POST", certs+"/revoke", `{"reason":"certificateHold"}`)
	m.refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	a.want(200, "PATCH", "/configs/properties/ENABLE_CERT_REV_CHECK", `{"value":"false"}`)
	m.want(200, "POST", "/auth/tokens", grant)
	a.want(200, "POST", "/configs/properties/ENABLE_CERT_REV_CHECK/reset", "")
	a.want(200, "POST", certs+"/resume", "")
	m.want(200, "POST", "/auth/tokens", grant)

	// With a password too.
	a.want(200, "PATCH", "/usermgmt/users/maya", `{"allowed_auth_methods":["password_with_user_certificate"]}`)
	m.want(200, "POST", "/auth/tokens", `{"username":"maya","password":"Maya-2504"}`)
	c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"username":"maya","password":"Maya-2504"}`)
	a.want(200, "PATCH", "/usermgmt/users/maya", `{"allowed_auth_methods":["user_certificate"]}`)

	// A certificate of nobody's, one for servers, and one that is over.
	stranger, err := testCA().Client("maya")
	if err != nil {
		t.Fatal(err)
	}
	c.with(stranger).refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	if err := c.sim.Mistake(OtherPurpose); err != nil {
		t.Fatal(err)
	}
	wrong, _ := a.clientCert(root, name)
	c.with(wrong).refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
	c.sim.Clock.Advance(366 * 24 * time.Hour)
	m.refused(401, 5, badCredentials, "POST", "/auth/tokens", grant)
}

func TestTenThousandUsersPage(t *testing.T) {
	c := start(t, Config{})
	const n = 10_000
	users := make([]User, n)
	for i := range users {
		users[i] = User{Username: fmt.Sprintf("user%05d", i), Groups: []string{"Key Users"}}
	}
	if err := c.sim.AddUsers(users...); err != nil {
		t.Fatal(err)
	}
	a := c.admin()
	// Typed and not by object: this is a lot of JSON.
	read := func(query string) (names []string, total int) {
		t.Helper()
		resp, text := a.send("GET", base+"/usermgmt/users/?"+query, "", "")
		var page struct {
			Total     int
			Resources []struct{ Username string }
		}
		if err := json.Unmarshal([]byte(text), &page); err != nil || resp.StatusCode != 200 {
			t.Fatalf("HTTP %d: %v", resp.StatusCode, err)
		}
		for _, u := range page.Resources {
			names = append(names, u.Username)
		}
		return names, page.Total
	}
	seen := map[string]bool{}
	for skip := 0; ; {
		names, total := read(fmt.Sprintf("username=user*&skip=%d&limit=1999&return_groups=true", skip))
		if total != n {
			t.Fatalf("total %v", total)
		}
		for _, name := range names {
			seen[name] = true
		}
		if skip += len(names); len(names) < 1999 {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("%d users by pages, want %d", len(seen), n)
	}
	if names, _ := read("limit=0"); len(names) != n+1 {
		t.Errorf("limit 0: %d users, want %d", len(names), n+1)
	}
}

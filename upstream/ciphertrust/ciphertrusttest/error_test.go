package ciphertrusttest

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// TestErrorTable makes every row of the table of errors.
func TestErrorTable(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	c.refused(400, 15, "NCERRBadRequest", "POST", "/auth/tokens", `{`)
	a.refused(400, 9, badValue, "GET", "/usermgmt/users?limit=x", "")
	a.refused(400, 106, "NCERRCryptoOperationFailed", "POST", "/ca/csr", `{"cn":"x","privateKeyBytes":"x"}`)
	c.refused(401, 1, badToken, "GET", "/usermgmt/users", "")
	if out := c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"username":"a","password":"b"}`); out["message"] != "Wrong username or password." || out["codeDesc"] != badCredentials {
		t.Errorf("bad credentials: %v", out)
	}
	if out := c.refused(401, 5, badCredentials, "POST", "/auth/tokens", `{"grant_type":"user_certificate"}`); out["message"] != "Invalid Client" {
		t.Errorf("bad certificate: %v", out)
	}
	a.refused(403, 6, "NCERRForbidden", "DELETE", "/usermgmt/groups/admin", "")
	if out := a.refused(404, 16, "NCERRResourceNotFound", "GET", "/vault/secrets/x", ""); out["codeDesc"] != "NCERRResourceNotFound: Resource not found" || len(out) != 3 {
		t.Errorf("not found: %v", out)
	}
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/no/such/path", "")
	for _, path := range []string{"/usermgmt/users/", "/usermgmt/groups", "/ca/local-cas", "/ca/external-cas", "/auth/tokens", "/vault/secrets"} {
		a.refused(405, 7, "NCERRMethodNotAllowed", "DELETE", path, "")
	}
	a.want(201, "POST", "/usermgmt/groups", `{"name":"g"}`)
	a.refused(409, 11, "NCERRConflict", "POST", "/usermgmt/groups", `{"name":"g"}`)
	a.want(201, "POST", "/vault/secrets", `{"name":"s","dataType":"password"}`)
	a.refused(409, 11, "NCERRKeyAlreadyExists", "POST", "/vault/secrets", `{"name":"s","dataType":"password"}`)
	for status, want := range map[int]struct {
		code   int
		symbol string
	}{429: {29, "NCERRTooManyRequests"}, 500: {2, "NCERRInternal"}, 401: {1, badToken}, 403: {6, "NCERRForbidden"}} {
		c.sim.Faults.Add(Failure(status, 1))
		resp, text := a.send("GET", base+"/vault/secrets", "", "")
		var out object
		if err := json.Unmarshal([]byte(text), &out); err != nil || resp.StatusCode != status || out["code"] != float64(want.code) || !strings.HasPrefix(out.text("codeDesc"), want.symbol) {
			t.Errorf("%d: HTTP %d %s", status, resp.StatusCode, text)
		}
		if status == 429 && resp.Header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
		}
	}
	for _, status := range []int{502, 503, 504} {
		c.sim.Faults.Add(Failure(status, 1))
		if resp, _ := a.send("GET", base+"/vault/secrets", "", ""); resp.StatusCode != status {
			t.Errorf("HTTP %d, want %d", resp.StatusCode, status)
		}
	}
}

func TestAStateThatCannotBeSavedIsAnInternalError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	c := start(t, Config{})
	a := c.admin()
	c.sim.cfg.StateFile = filepath.Join(dir, "missing", "state.json")
	a.refused(500, 2, "NCERRInternal", "POST", "/usermgmt/groups", `{"name":"g"}`)
}

func TestUnknownFieldsAreRefusedUnlessAllowed(t *testing.T) {
	a := start(t, Config{}).admin()
	a.refused(400, 9, badValue, "POST", "/usermgmt/groups", `{"name":"g","colour":"red"}`)
	a.want(200, "PATCH", "/configs/properties/ALLOW_UNKNOWN_FIELDS", `{"value":"true"}`)
	a.want(201, "POST", "/usermgmt/groups", `{"name":"g","colour":"red"}`)
	a.refused(400, 9, badValue, "PATCH", "/configs/properties/ALLOW_UNKNOWN_FIELDS", `{"value":"maybe"}`)
}

func TestPropertiesHaveTheirDefaults(t *testing.T) {
	a := start(t, Config{}).admin()
	for name, want := range map[string]string{
		"UI_IDLE_SESSION_TIMEOUT": "10m", "ALLOW_UNKNOWN_FIELDS": "false", "ENABLE_CERT_REV_CHECK": "true", "CERT_REV_CHECK_TIMEOUT": "5",
		"DISABLE_TLS_SESSION_RESUMPTION": "false", "PASSWORD_HASH_ITERATIONS": "10000", "ENABLE_KEY_CACHE": "false",
		"KEY_CACHE_EXPIRES_DURATION": "2", "CLUSTER_CERT_AUTO_RENEW_THRESHOLD": "30", "MAXIMUM_REFRESH_TOKEN_LIFETIME": "",
	} {
		if got := a.want(200, "GET", "/configs/properties/"+name, ""); got["name"] != name || got["value"] != want || len(got) != 3 {
			t.Errorf("%s: %v, want %q", name, got, want)
		}
	}
	if got := a.want(200, "GET", "/configs/properties/?limit=0", ""); got["total"] != float64(len(properties)) {
		t.Errorf("list: %v", got["total"])
	}
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/configs/properties/NOTHING", "")
}

func TestPathsWorkWithAndWithoutTrailingSlash(t *testing.T) {
	a := start(t, Config{}).admin()
	for _, path := range []string{"/auth/tokens", "/usermgmt/users", "/usermgmt/groups", "/ca/local-cas", "/vault/secrets", "/configs/properties", "/auth/self/user", "/domains", "/system/info"} {
		a.want(200, "GET", path, "")
		a.want(200, "GET", path+"/", "")
	}
}

func TestAnswersCarryTheProductsHeaders(t *testing.T) {
	a := start(t, Config{}).admin()
	resp, _ := a.send("GET", base+"/system/info", "", "")
	if resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("X-Processing-Time") == "" {
		t.Errorf("headers %v", resp.Header)
	}
}

func TestRecordsTellWhoCalledWhat(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	out := a.refused(404, 16, "NCERRResourceNotFound", "GET", "/vault/secrets/x", "")
	records := c.sim.Records()
	last := records[len(records)-1]
	if last.Username != "admin" || last.RequestID != out.text("requestID") || last.Status != 404 || last.Success || last.Path != base+"/vault/secrets/x" || last.Domain != "root" {
		t.Errorf("record %+v", last)
	}
	if records[0].Method != "POST" || !records[0].Success || records[0].Username != "" {
		t.Errorf("record of the log-in %+v", records[0])
	}
	if n := c.sim.Log.Count("GET", base+"/vault/*"); n != 1 {
		t.Errorf("%d calls in the log", n)
	}
}

func TestFaultsAreInFrontOfTheAppliance(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	c.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 401, Body: "{}", Count: 1, Path: base + "/vault/*"})
	a.want(401, "GET", "/vault/secrets", "")
	a.want(200, "GET", "/vault/secrets", "")
}

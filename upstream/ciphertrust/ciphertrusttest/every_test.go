package ciphertrusttest

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestEveryCallAnswersInTheProductsShape makes every call with bodies that are
// wrong, empty or strange: none may fail inside, and each refusal has the shape
// of an error.
func TestEveryCallAnswersInTheProductsShape(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	a := c.admin()
	root := c.sim.RootCA()
	for _, r := range c.sim.routes {
		for _, ref := range []string{"x", root, "admin", "mypass", "self", "global", "web", "kylo:kylo:x|y/z"} {
			for _, body := range []string{"", "{}", `{"name":5}`, `{"name":""}`, `{"cn":"x","csr":"x","cert":"x","reason":"x","value":"x"}`, "[]", "null", "\x00"} {
				segments := append([]string{}, r.path...)
				for i, s := range segments {
					if strings.HasPrefix(s, "{") {
						segments[i] = url.PathEscape(ref)
					}
				}
				path := base + "/" + strings.Join(segments, "/")
				if r.method == "DELETE" && ref != "x" {
					continue // what others need stays
				}
				req := httptest.NewRequest(r.method, path, strings.NewReader(body))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Accept", "application/json")
				req.Header.Set("Authorization", "Bearer "+a.jwt)
				w := httptest.NewRecorder()
				c.sim.ServeHTTP(w, req)
				var out object
				err := json.Unmarshal(w.Body.Bytes(), &out)
				switch {
				case w.Code == 500:
					t.Errorf("%s %s %q: HTTP 500", r.method, path, body)
				case w.Code == 204 && w.Body.Len() > 0, w.Code != 204 && err != nil:
					t.Errorf("%s %s %q: HTTP %d: %q", r.method, path, body, w.Code, w.Body)
				case w.Code >= 400 && (out["code"] == nil || !strings.HasPrefix(out.text("codeDesc"), "NCERR") || out.text("requestID") == ""):
					t.Errorf("%s %s %q: HTTP %d: %v", r.method, path, body, w.Code, out)
				}
			}
		}
	}
}

func TestNothingButOpenCallsGoWithoutAToken(t *testing.T) {
	c := start(t, Config{})
	open := map[string]bool{
		"POST auth/tokens": true, "POST auth/revoke": true, "PATCH auth/changepw": true,
		"POST auth/self/registration": true, "POST client-management/clients": true,
	}
	for _, r := range c.sim.routes {
		path := strings.Join(r.path, "/")
		req := httptest.NewRequest(r.method, base+"/"+path, strings.NewReader("{}"))
		req.Header.Set("Accept", "application/json")
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		c.sim.ServeHTTP(w, req)
		if open[r.method+" "+path] != (w.Code != 401) {
			t.Errorf("%s %s: HTTP %d", r.method, path, w.Code)
		}
	}
}

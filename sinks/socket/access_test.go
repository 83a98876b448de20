package socket

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/signet-agent/signet/internal/access"
)

// Whether a name exists must not show to those who have no right to it.
func TestPolicyIsAskedFirst(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	r.PublishSecret(db("1"))
	for _, tt := range []struct {
		method, path, code string
		status             int
	}{
		{"GET", "/v1/secrets/other", CodeDenied, 403},   // configured
		{"GET", "/v1/secrets/unknown", CodeDenied, 403}, // not configured
		{"GET", "/v1/secrets/missing", CodeNotFound, 404},
		{"POST", "/v1/secrets/other/refused", CodeDenied, 403},
		{"GET", "/v1/certificates/nope", CodeDenied, 403},
		{"GET", "/v1/keys/nope", CodeDenied, 403},
		{"POST", "/v1/keys/nope/sign", CodeDenied, 403},
		{"POST", "/v1/keys/pub/sign", CodeDenied, 403},
		{"GET", "/v1/tokens/nope", CodeDenied, 403},
		{"GET", "/v1/upstreams/nope/proxy/iso/x", CodeDenied, 403},
		{"PUT", "/v1/upstreams/pam/proxy/iso/x", CodeDenied, 403},
		{"POST", "/v1/certificates/web/renew", CodeDenied, 403},
		{"POST", "/v1/certificates/web/rotate", CodeDenied, 403},
		{"POST", "/v1/identities/host/enroll", CodeDenied, 403},
		{"POST", "/v1/upstreams/pam/login", CodeDenied, 403},
		{"POST", "/v1/upstreams/pam/logout", CodeDenied, 403},
		{"GET", "/v1/plan", CodeDenied, 403},
		{"GET", "/v1/doctor", CodeDenied, 403},
		{"GET", "/v1/objects", CodeDenied, 403},
		{"POST", "/v1/sealing-key", CodeDenied, 403},
		{"POST", "/v1/hsm/default/clear-pin-guard", CodeDenied, 403},
		{"GET", "/v1/policy/explain?uid=0&name=db", CodeDenied, 403},
	} {
		a := r.do(tt.method, tt.path, "")
		if got := a.code(t); got != tt.code || a.status != tt.status {
			t.Errorf("%s %s: %d %s, want %d %s", tt.method, tt.path, a.status, got, tt.status, tt.code)
		}
	}
	if a := r.get("/v1/secrets"); strings.Contains(a.body, "other") || !strings.Contains(a.body, `"db"`) || strings.Contains(a.body, "robot") {
		t.Errorf("list: %s", a.body)
	}
	if a := r.get("/v1/status"); strings.Contains(a.body, "other") || !strings.Contains(a.body, "db") {
		t.Errorf("status of those who are no administrators: %s", a.body)
	}
}

func TestUnknownCallersGetNothing(t *testing.T) {
	r := start(t, &fake{ready: errors.New(`identity "host": not enrolled`)})
	for _, path := range []string{"/v1/secrets/db", "/v1/status", "/v1/events", "/metrics", "/v1/certificates/web"} {
		if a := r.get(path); a.status != 403 || a.code(t) != CodeDenied {
			t.Errorf("%s: %+v", path, a)
		}
	}
	if a := r.get("/v1/secrets"); a.body != `{"secrets":[]}`+"\n" {
		t.Errorf("list: %+v", a)
	}
	if a := r.get("/v1/healthz"); a.status != 200 {
		t.Errorf("healthz: %+v", a)
	}
	if a := r.get("/v1/readyz"); a.status != 503 || strings.Contains(a.body, "host") {
		t.Errorf("readyz: %+v", a)
	}
}

func TestAuditOfRequests(t *testing.T) {
	b := &fake{sign: func(string, SignRequest) ([]byte, int, error) { return []byte("s"), 1, nil }}
	r := start(t, b, tester(false))
	r.PublishSecret(db("1"))
	r.get("/v1/secrets/db")
	r.get("/v1/secrets/db", `If-None-Match: "1"`)
	denied := r.get("/v1/secrets/other")
	r.do("POST", "/v1/keys/host/sign", `{"message":"AAA="}`)
	r.get("/v1/secrets/missing")
	r.get("/v1/healthz") // not an access
	got := r.auditLines(5)
	for i, want := range []struct {
		resource, event, outcome string
		status                   float64
	}{
		{"secret/db", "secret.read", "ok", 200},
		{"secret/db", "secret.read", "ok", 304},
		{"secret/other", "secret.read", "denied", 403},
		{"key/host", "key.sign", "ok", 200},
		{"secret/missing", "secret.read", "not-found", 404},
	} {
		l := got[i]
		caller := l["caller"].(map[string]any)
		if l["resource"] != want.resource || l["event"] != want.event || l["outcome"] != want.outcome || l["status"] != want.status ||
			caller["uid"] != float64(os.Getuid()) || caller["pid"] != float64(os.Getpid()) {
			t.Errorf("line %d: %v, want %+v", i, l, want)
		}
	}
	if len(got) != 5 {
		t.Errorf("%d lines, want 5", len(got))
	}
	if id := denied.json(t)["request"]; id == "" || id != got[2]["id"] {
		t.Errorf("the problem names request %v, the audit %v", id, got[2]["id"])
	}
	text, _ := os.ReadFile(r.audit)
	if strings.Contains(string(text), "robot") {
		t.Error("a value is in the audit")
	}
}

func TestRateLimitPerUser(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	r.limit = access.NewLimiter(access.Limit{PerSecond: 0.001, Burst: 2})
	r.PublishSecret(db("1"))
	codes := map[int]int{}
	for range 5 {
		a := r.get("/v1/secrets/db")
		codes[a.status]++
		if a.status == 429 && (a.code(t) != CodeBusy || a.header.Get("Retry-After") == "") {
			t.Errorf("got %+v", a)
		}
	}
	if codes[200] != 2 || codes[429] != 3 {
		t.Errorf("got %v, want 2 and 3", codes)
	}
}

// Reads go on while items are replaced, and see one version or another whole.
func TestReadsDuringPublishing(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	r.PublishSecret(db("0"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := r.try(t.Context(), "GET", "/v1/secrets/db", "")
				if err != nil {
					t.Error(err)
					return
				}
				m := a.json(t)
				if !strings.HasSuffix(m["fields"].(map[string]any)["password"].(string), " "+m["version"].(string)) {
					t.Errorf("mixed: %v", m)
				}
			}
		})
	}
	for i := range 500 {
		r.PublishSecret(db(strconv.Itoa(i)))
	}
	close(stop)
	wg.Wait()
}

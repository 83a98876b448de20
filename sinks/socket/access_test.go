package socket

import (
	"errors"
	"maps"
	"os"
	"slices"
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
		{"GET", "/v1/upstreams/nope/proxy/a/../b", CodeDenied, 403},
		{"GET", "/v1/upstreams/nope/proxy/a%2fb", CodeDenied, 403},
		{"TRACE", "/v1/upstreams/nope/proxy/a", CodeDenied, 403},
		{"GET", "/v1/upstreams/pam/proxy/a/../b", CodeInvalid, 400},
		{"GET", "/v1/audit", CodeDenied, 403},
		{"GET", "/v1/audit/lines", CodeDenied, 403},
		{"GET", "/v1/audit/lines?last=x", CodeDenied, 403},
		{"GET", "/v1/keys/audit", CodeDenied, 403},
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

// Metrics have names in them. Who may not know of an item does not find it there.
func TestMetricsAreOfWhatTheCallerMayKnow(t *testing.T) {
	watches := tester(false)
	watches.Allow = access.Allow{Metrics: true}
	for _, tt := range []struct {
		rule           access.Rule
		sees, seesNone string
	}{
		{tester(false), "secret=db", "secret=other"},
		{tester(true), "secret=other", "nothing"},
		{watches, "secret=other", "nothing"},
	} {
		r := start(t, &fake{}, tt.rule)
		if a := r.get("/metrics"); a.status != 200 || !strings.Contains(a.body, tt.sees) || strings.Contains(a.body, tt.seesNone) {
			t.Errorf("%+v: %+v", tt.rule.Allow, a)
		}
		if a := r.get("/v1/plan"); (a.status == 200) != tt.rule.Allow.Admin {
			t.Errorf("%+v: the plan: %+v", tt.rule.Allow, a)
		}
	}
}

// Administrators verify the audit, so the key that signs it is theirs to see, and
// no other.
func TestAdministratorsSeeWhatVerifiesTheAudit(t *testing.T) {
	r := start(t, &fake{keys: []KeyInfo{{Name: "audit", Generation: 1}, {Name: "other"}}}, tester(true))
	if m := r.get("/v1/keys/audit").json(t); m["generation"] != 1. {
		t.Errorf("the key: %v", m)
	}
	if m := r.get("/v1/audit").json(t); m["head"] != "00" {
		t.Errorf("what verifies: %v", m)
	}
	if a := r.get("/v1/keys/other"); a.code(t) != CodeDenied {
		t.Errorf("another key: %+v", a)
	}
	if a := r.do("POST", "/v1/keys/audit/sign", `{"message":"AAA="}`); a.code(t) != CodeDenied {
		t.Errorf("signing with it: %+v", a)
	}
}

// Administrators audit the sealing key, and nobody uses it. What a lost one has sealed
// is discarded only if they say so.
func TestAdministratorsSeeTheSealingKey(t *testing.T) {
	f := &fake{keys: []KeyInfo{{Name: "kek", Generation: 1}}}
	r := start(t, f, tester(true))
	if m := r.get("/v1/keys/kek").json(t); m["generation"] != 1. {
		t.Errorf("the key: %v", m)
	}
	if a := r.do("POST", "/v1/keys/kek/sign", `{"message":"AAA="}`); a.code(t) != CodeDenied {
		t.Errorf("signing with it: %+v", a)
	}
	for _, body := range []string{"", "{}", `{"discard_sealed":true}`} {
		if a := r.do("POST", "/v1/sealing-key", body); a.status != 200 {
			t.Errorf("%s: %+v", body, a)
		}
	}
	if a := r.do("POST", "/v1/sealing-key", `{"discard":true}`); a.code(t) != CodeInvalid {
		t.Errorf("something else: %+v", a)
	}
	if want := []bool{false, false, true}; !slices.Equal(f.discard, want) {
		t.Errorf("asked to discard: %v, want %v", f.discard, want)
	}
}

// Who asks in vain is told so each time, and cannot fill the disk with it: no
// refusal is missing, but those that are many share lines.
func TestRefusalsAreAllAnsweredAndAllCounted(t *testing.T) {
	const each = 200
	type ask struct{ event, outcome, path, header string }
	for name, tt := range map[string]struct {
		rules []access.Rule
		asks  []ask
	}{
		"unknown": {nil, []ask{{"secret.read", "denied", "/v1/secrets/db", ""}, {"secret.list", "ok", "/v1/secrets", ""}, {"certificate.list", "ok", "/v1/certificates", ""},
			{"key.list", "ok", "/v1/keys", ""}, {"metrics.read", "denied", "/metrics", ""}, {"request.refused", "denied", "/v1/secrets", "Host: evil.example"}}},
		"known": {[]access.Rule{tester(false)}, []ask{{"secret.read", "denied", "/v1/secrets/other", ""}, {"request.refused", "denied", "/v1/secrets/db", "Origin: x"},
			{"proxy.call", "invalid", "/v1/upstreams/pam/proxy/a/../b", ""}, {"request.refused", "not-found", "/v1/nope", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, &fake{}, tt.rules...)
			want := map[string]float64{}
			for _, ask := range tt.asks {
				want[ask.event+" "+ask.outcome] += each
				for range each {
					var headers []string
					if ask.header != "" {
						headers = append(headers, ask.header)
					}
					a := r.get(ask.path, headers...)
					if code := "ok"; a.status == 200 && ask.outcome != code || a.status != 200 && a.code(t) != ask.outcome {
						t.Fatalf("%+v: %+v", ask, a)
					}
				}
			}
			r.end()
			if err := r.cfg.Audit.Close(); err != nil { // all of it is written
				t.Fatal(err)
			}
			got, lines := map[string]float64{}, r.auditLines(1)
			for _, l := range lines {
				n, counted := l["count"].(float64)
				if !counted {
					n = 1
				}
				got[l["event"].(string)+" "+l["outcome"].(string)] += n
			}
			if !maps.Equal(got, want) {
				t.Errorf("recorded %v, want %v", got, want)
			}
			if most := 2*refusalBurst + len(tt.asks); len(lines) > most {
				t.Errorf("%d lines, want %d at most", len(lines), most)
			}
		})
	}
}

// What is given to those who may have it has a line each, however much it is.
func TestReadsAreNotCountedTogether(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	r.PublishSecret(db("1"))
	const n = 3 * refusalBurst
	for range n {
		r.get("/v1/secrets/db", "X-Not-Plain: 1")
		r.get("/v1/secrets")
	}
	if lines := r.auditLines(2 * n); len(lines) != 2*n {
		t.Errorf("%d lines, want %d", len(lines), 2*n)
	}
}

// Whatever ends a request, and wherever, the audit says so.
func TestEveryRefusalIsRecorded(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	asks := []struct{ method, path, header, event, outcome string }{
		{"GET", "/v1/upstreams/pam/proxy/iso/../x", "", "proxy.call", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy/iso/a%2fb", "", "proxy.call", CodeInvalid},
		{"GET", "/v1/upstreams/pam/proxy/iso//x", "", "proxy.call", CodeInvalid},
		{"TRACE", "/v1/upstreams/pam/proxy/iso/x", "", "proxy.call", CodeInvalid},
		{"GET", "/v1/upstreams/nope/proxy/../x", "", "proxy.call", CodeDenied},
		{"GET", "/v1/nope", "", "request.refused", CodeNotFound},
		{"GET", "/v1/nope/" + strings.Repeat("x", 5000), "", "request.refused", CodeNotFound},
		{"DELETE", "/v1/secrets/db", "", "request.refused", CodeInvalid},
		{"GET", "/v1/secrets/db", "Host: evil.example", "request.refused", CodeDenied},
		{"GET", "/v1/secrets/db", "Sec-Fetch-Mode: cors", "request.refused", CodeDenied},
	}
	for _, ask := range asks {
		r.do(ask.method, ask.path, "", append([]string{"X-Not-Plain: 1"}, ask.header)[:1+min(1, len(ask.header))]...)
	}
	r.limit = access.NewLimiter(access.Limit{PerSecond: 0.001, Burst: 1})
	r.get("/v1/secrets/db?x")
	r.get("/v1/secrets/db?x")
	lines := r.auditLines(len(asks) + 2)
	for i, ask := range asks {
		l := lines[i]
		path, _ := l["path"].(string)
		if l["event"] != ask.event || l["outcome"] != ask.outcome || l["method"] != ask.method || path == "" || len(path) > maxRefused+3 {
			t.Errorf("%s %.80s: %v", ask.method, ask.path, l)
		}
	}
	if l := lines[len(asks)+1]; l["event"] != "request.refused" || l["outcome"] != CodeBusy {
		t.Errorf("too many requests: %v", l)
	}
	if a := r.get("/v1/healthz"); a.status != 200 {
		t.Errorf("health is limited: %+v", a)
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

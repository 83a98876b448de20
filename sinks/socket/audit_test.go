package socket

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// On a full disk nothing is served that cannot be recorded, unless the operator
// wants it so; by either way that a read can take.
func TestFullDiskRefusesOrAllows(t *testing.T) {
	for _, allow := range []bool{false, true} {
		audit, err := access.OpenAudit(access.AuditConfig{Path: "/dev/full", Allow: allow})
		if err != nil {
			t.Skip(err)
		}
		rule := access.Rule{Callers: access.Callers{Users: []string{strconv.Itoa(os.Getuid())}}, Allow: access.Allow{Secrets: []string{"db"}, Proxy: map[string][]string{"pam": {"POST /api/x"}}, Admin: true}}
		policy, err := access.Compile([]access.Rule{rule})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, path: filepath.Join(t.TempDir(), "s"), served: make(chan error, 1)}
		called := 0
		b := &fake{proxy: func(string, *http.Request) (*http.Response, error) {
			called++
			return reply(http.StatusCreated, strings.NewReader("made"), http.Header{}), nil
		}}
		r.Server = New(Config{Backend: b, Policy: policy, Audit: audit, Secrets: []string{"db"}})
		r.PublishSecret(db("1"))
		ln, err := Listen(r.path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		go func() { r.served <- r.Serve(ctx, ln) }()
		r.client = newClient(r.path)
		for deadline := time.Now().Add(10 * time.Second); audit.Err() == nil; <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the full disk is not noticed")
			}
		}
		want := map[bool]int{false: 503, true: 200}[allow]
		for _, header := range []string{"Accept: */*", "X-Not-Plain: 1"} {
			a := r.do("GET", "/v1/secrets/db", "", header)
			if a.status != want {
				t.Errorf("allow=%v, %s: %d, want %d", allow, header, a.status, want)
			}
			if !allow && a.code(t) != CodeUnavailable {
				t.Errorf("code %s", a.code(t))
			}
		}
		// What changes something elsewhere is not tried first and refused then.
		r.do("POST", "/v1/upstreams/pam/proxy/api/x", "")
		if want := map[bool]int{false: 0, true: 1}[allow]; called != want {
			t.Errorf("allow=%v: the upstream was called %d times, want %d", allow, called, want)
		}
		// Who looks for what is wrong is answered; whether the agent is ready it says itself.
		for path, want := range map[string]int{"/v1/status": 200, "/v1/doctor": 200, "/metrics": 404, "/v1/readyz": 200, "/v1/plan": want} {
			if a := r.get(path); a.status != want {
				t.Errorf("allow=%v, %s: %+v, want %d", allow, path, a, want)
			}
		}
		stop()
		if err := <-r.served; err != nil {
			t.Error(err)
		}
		r.client.CloseIdleConnections()
		_ = audit.Close() // what waits cannot be written
	}
}

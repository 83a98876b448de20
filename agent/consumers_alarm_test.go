package agent

import (
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
)

// A reload or a proof that fails is seen wherever somebody looks: in the status,
// by the doctor, in the metrics, in the events (which the audit has too) and by
// the service manager. The host stays ready (decision 70), and all of it ends
// with the failure.
func TestFailuresOfConsumersRaiseTheAlarm(t *testing.T) {
	dir := t.TempDir()
	hook := filepath.Join(dir, "hook")
	for _, tt := range []struct {
		name  string
		file  config.File
		event string
		want  string // in the error
		mend  func(t *testing.T)
	}{
		{"reload", config.File{Reload: config.Reload{Exec: []string{hook}}}, eventReloadFailed, "there is no such program",
			func(t *testing.T) {
				if err := os.WriteFile(hook, []byte("#!/bin/sh\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}},
		{"proof", config.File{Prove: config.Prove{TLS: "127.0.0.1:1", ServerName: "web.example", Within: config.Duration{Duration: 50 * time.Millisecond, Set: true}}}, eventProofFailed, "connection refused", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := t.TempDir()
			if err := os.Chmod(home, 0o755); err != nil {
				t.Fatal(err)
			}
			st, err := store.Open(filepath.Join(home, "state"))
			if err != nil {
				t.Fatal(err)
			}
			tt.file.Path, tt.file.Certificate = filepath.Join(home, "web.pem"), "web"
			cfg := &config.Config{StateDir: filepath.Join(home, "state"), RuntimeDir: filepath.Join(home, "run"), Files: []config.File{tt.file}}
			a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st)
			if err != nil {
				t.Fatal(err)
			}
			close(a.opened)
			r := &consumerRig{Agent: a, t: t, st: st}
			stop := r.run()
			ca := newRecipeCA(t)
			if err := a.files.PublishCertificate(ca.issue()); err != nil {
				t.Fatal(err)
			}
			it := r.await(stateFailed)
			if it.Failures != 1 || !strings.Contains(it.LastError, tt.want) || it.RetryAt.IsZero() {
				t.Errorf("status: %+v", it)
			}
			if c := checkItem(it); c.Status != checkFailed || !strings.Contains(c.Detail, tt.want) {
				t.Errorf("doctor: %+v", c)
			}
			if got := r.gauge(it.Name); got != "1" {
				t.Errorf("metrics: %q failures", got)
			}
			if got := a.standing(); got != "did not take up what was delivered: "+it.Name {
				t.Errorf("the service manager is told %q", got)
			}
			eventuallyTrue(t, "the event", func() bool {
				b, _ := os.ReadFile(cfg.AuditPath())
				return strings.Contains(string(b), `"event":"`+tt.event+`"`) && strings.Contains(string(b), tt.want)
			})
			if err := a.ready(a.started); err != nil {
				t.Errorf("not ready: %v", err)
			}
			if tt.mend != nil {
				tt.mend(t)
				if err := a.files.PublishCertificate(ca.issue()); err != nil {
					t.Fatal(err)
				}
				it = r.await(stateReloaded)
				if got := r.gauge(it.Name); got != "0" || a.standing() != "all fresh" || it.LastError != "" {
					t.Errorf("after the repair: %q failures, %q, %+v", got, a.standing(), it)
				}
			}
			stop()
		})
	}
}

// gauge is how many failures of a consumer the metrics show.
func (r *consumerRig) gauge(consumer string) string {
	rec := httptest.NewRecorder()
	r.metrics.handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		if n, ok := strings.CutPrefix(line, `signet_consumer_failures{consumer="`+consumer+`"} `); ok {
			return strings.TrimSpace(n)
		}
	}
	return ""
}

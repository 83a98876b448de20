package agent

import (
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/sinks"
)

// A reload or a proof that fails is seen wherever somebody looks: in the status,
// by the doctor, in the metrics, in the events (which the audit has too) and by
// the service manager. The host stays ready (decision 70), and all of it ends
// with the failure.
func TestFailuresOfConsumersRaiseTheAlarm(t *testing.T) {
	hook := filepath.Join(t.TempDir(), "hook")
	ca := newRecipeCA(t)
	address, serve := serveTLS(t, ca.issue())
	for _, tt := range []struct {
		name  string
		file  config.File
		event string
		want  string                                   // in the error
		mend  func(t *testing.T, c *sinks.Certificate) // before it is delivered
		state string                                   // after that
	}{
		{"reload", config.File{Reload: config.Reload{Exec: []string{hook}}}, eventReloadFailed, "there is no such program",
			func(t *testing.T, _ *sinks.Certificate) {
				if err := os.WriteFile(hook, []byte("#!/bin/sh\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}, stateReloaded},
		{"proof", config.File{Prove: config.Prove{TLS: address, ServerName: "web.example", Within: config.Duration{Duration: 2 * time.Second, Set: true}}},
			eventProofFailed, "serves serial 2001", func(_ *testing.T, c *sinks.Certificate) { serve(c) }, stateProven},
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
			if got := r.gauge("failures", it.Name); got != "1" {
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
			if got := r.gauge("proven_at_seconds", it.Name); got != "" {
				t.Errorf("proven at %s", got)
			}
			next := ca.issue()
			tt.mend(t, next)
			if err := a.files.PublishCertificate(next); err != nil {
				t.Fatal(err)
			}
			it = r.await(tt.state)
			if got := r.gauge("failures", it.Name); got != "0" || a.standing() != "all fresh" || it.LastError != "" {
				t.Errorf("after the repair: %q failures, %q, %+v", got, a.standing(), it)
			}
			if got := r.gauge("proven_at_seconds", it.Name); it.ProvenAt.IsZero() != (tt.state != stateProven) || (got == "") != it.ProvenAt.IsZero() {
				t.Errorf("after the repair: proven at %v, %q", it.ProvenAt, got)
			}
			stop()
		})
	}
}

// gauge is what the metrics say of a consumer, or "".
func (r *consumerRig) gauge(name, consumer string) string {
	rec := httptest.NewRecorder()
	r.metrics.handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		if n, ok := strings.CutPrefix(line, "signet_consumer_"+name+`{consumer="`+consumer+`"} `); ok {
			return strings.TrimSpace(n)
		}
	}
	return ""
}

// serveTLS serves a certificate, and others from when it is told to.
func serveTLS(t *testing.T, c *sinks.Certificate) (address string, serve func(*sinks.Certificate)) {
	t.Helper()
	var now atomic.Pointer[tls.Certificate]
	serve = func(c *sinks.Certificate) {
		chain, err := c.ChainPEM()
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(chain, c.Key.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		now.Store(&pair)
	}
	serve(c)
	srv := httptest.NewUnstartedServer(nil)
	srv.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return now.Load(), nil }}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // whoever proves it hangs up on the wrong certificate
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), serve
}

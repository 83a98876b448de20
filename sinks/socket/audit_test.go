package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// brokenLines are lines that end in an error.
type brokenLines struct{ io.Reader }

func (b brokenLines) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = errors.New("disk is gone")
	}
	return n, err
}
func (brokenLines) Close() error { return nil }

// The lines of the audit are for administrators, for a few at once; lines that
// cannot be read are not silently missing.
func TestLinesOfTheAudit(t *testing.T) {
	in, out := io.Pipe()
	b := &fake{}
	b.lines = func(last int, after string) (io.ReadCloser, error) {
		switch after {
		case "broken":
			return brokenLines{strings.NewReader("one\n")}, nil
		case "slow":
			return io.NopCloser(in), nil
		}
		return io.NopCloser(strings.NewReader(fmt.Sprintf("last %d after %q\n", last, after))), nil
	}
	r := start(t, b, tester(true))
	for query, want := range map[string]string{
		"": `last -1 after ""`, "?last=0": `last 0 after ""`, "?last=7": `last 7 after ""`, "?after=ab": `last -1 after "ab"`,
	} {
		if a := r.get("/v1/audit/lines" + query); a.status != 200 || a.body != want+"\n" || a.header.Get("Content-Type") != "application/jsonl" {
			t.Errorf("%s: %+v", query, a)
		}
	}
	for _, query := range []string{"?last=-1", "?last=x", "?first=1"} {
		if a := r.get("/v1/audit/lines" + query); a.code(t) != CodeInvalid {
			t.Errorf("%s: %+v", query, a)
		}
	}
	if a := r.do("HEAD", "/v1/audit/lines", ""); a.status != 200 || a.body != "" {
		t.Errorf("HEAD: %+v", a)
	}
	if lines := r.auditLines(8); lines[0]["event"] != "audit.lines" || lines[0]["resource"] != "key/audit" {
		t.Errorf("recorded: %v", lines[0])
	}
	if a, err := r.try(t.Context(), "GET", "/v1/audit/lines?after=broken", ""); err == nil {
		t.Errorf("lines that could not be read are not missed: %+v", a)
	}

	first := make(chan error, maxReading)
	for range maxReading {
		go func() {
			_, err := r.try(t.Context(), "GET", "/v1/audit/lines?after=slow", "")
			first <- err
		}()
	}
	for deadline := time.Now().Add(10 * time.Second); len(r.reading) < maxReading; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("they do not read")
		}
	}
	if a := r.get("/v1/audit/lines"); a.code(t) != CodeBusy || a.header.Get("Retry-After") != "1" {
		t.Errorf("one too many: %+v", a)
	}
	if err := out.Close(); err != nil {
		t.Error(err)
	}
	for range maxReading {
		if err := <-first; err != nil {
			t.Error(err)
		}
	}
}

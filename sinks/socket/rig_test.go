package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// A fake is a Backend whose answers a test sets. A nil func is a success.
type fake struct {
	fetch   func(ctx context.Context, name string) error
	refused func(name, version string) error
	renew   func(ctx context.Context, name string, rotate, compromised bool) error
	enroll  func(identity, username string, password secret.Value) error
	login   func(upstream string, r LoginRequest) error
	keys    []KeyInfo
	keysErr error
	lines   func(last int, after string) (io.ReadCloser, error)
	cleared []string // tokens whose PIN guard was cleared
	discard []bool   // what RotateSealingKey was asked
	sign    func(name string, r SignRequest) ([]byte, int, error)
	token   func(upstream string) (*oauth2.Token, error)
	proxy   func(upstream string, r *http.Request) (*http.Response, error)
	ready   error
	same    bool // Renew leaves the certificate as it is
}

func (f *fake) Fetch(ctx context.Context, name string) error {
	if f.fetch == nil {
		return &Problem{Code: CodeUnavailable, Detail: "upstream away"}
	}
	return f.fetch(ctx, name)
}
func (f *fake) Refused(_ context.Context, name, version string) error {
	return f.refused(name, version)
}
func (f *fake) Renew(ctx context.Context, name string, rotate, compromised bool) (changed bool, err error) {
	return !f.same, f.renew(ctx, name, rotate, compromised)
}
func (f *fake) Enroll(_ context.Context, identity, username string, password secret.Value) error {
	return f.enroll(identity, username, password)
}
func (f *fake) Login(_ context.Context, upstream string, r LoginRequest) (LoginResult, error) {
	return LoginResult{RefreshToken: secret.New([]byte("rt"))}, f.login(upstream, r)
}
func (f *fake) Logout(context.Context, string) error { return nil }
func (f *fake) Objects(context.Context) (any, error) { return []string{}, nil }
func (f *fake) RotateSealingKey(_ context.Context, discard bool) error {
	f.discard = append(f.discard, discard)
	return nil
}
func (f *fake) ClearPINGuard(_ context.Context, token string) error {
	f.cleared = append(f.cleared, token)
	return nil
}
func (f *fake) Keys(visible func(string) bool) ([]KeyInfo, error) {
	return slices.DeleteFunc(slices.Clone(f.keys), func(k KeyInfo) bool { return !visible(k.Name) }), f.keysErr
}
func (f *fake) Key(_ context.Context, name string) (KeyInfo, error) {
	for _, k := range f.keys {
		if k.Name == name {
			return k, nil
		}
	}
	return KeyInfo{}, &Problem{Code: CodeNotFound, Detail: "no key " + name}
}
func (f *fake) Audit(context.Context) (AuditInfo, error) {
	return AuditInfo{File: "/var/lib/signet/audit.jsonl", Head: "00"}, nil
}
func (f *fake) AuditLines(last int, after string) (io.ReadCloser, error) { return f.lines(last, after) }
func (f *fake) Sign(_ context.Context, name string, r SignRequest) ([]byte, int, error) {
	return f.sign(name, r)
}
func (f *fake) Token(_ context.Context, upstream string) (*oauth2.Token, error) {
	return f.token(upstream)
}
func (f *fake) Proxy(_ context.Context, upstream string, r *http.Request) (*http.Response, error) {
	return f.proxy(upstream, r)
}
func (f *fake) Status(visible Visible) any {
	names := []string{}
	for _, n := range []string{"db", "other"} {
		if visible(access.Secret, n) {
			names = append(names, n)
		}
	}
	return map[string]any{"secrets": names}
}
func (f *fake) Plan() any                  { return []string{} }
func (f *fake) Doctor(context.Context) any { return []string{} }
func (f *fake) Ready() error               { return f.ready }

// A rig is a server on a real socket, with a client.
type rig struct {
	*Server
	t      *testing.T
	path   string
	audit  string
	client *http.Client
	stop   context.CancelFunc
	served chan error
}

// all is the policy of most tests: the tester may read "db", "late", "web" and
// some more, and is no administrator.
func tester(admin bool) access.Rule {
	return access.Rule{
		Callers: access.Callers{Users: []string{strconv.Itoa(os.Getuid())}},
		Allow: access.Allow{Secrets: []string{"db", "late", "missing"}, Certificates: []string{"web", "hsm"}, Keys: map[string][]string{"host": {"sign"}, "pub": {"read"}},
			Tokens: []string{"pam"}, Proxy: map[string][]string{"pam": {"GET /iso/*", "POST /api/**"}}, Admin: admin},
	}
}

func start(t *testing.T, b *fake, rules ...access.Rule) *rig {
	t.Helper()
	dir := t.TempDir()
	policy, err := access.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, path: filepath.Join(dir, "signet.sock"), audit: filepath.Join(dir, "audit.jsonl"), served: make(chan error, 1)}
	audit, err := access.OpenAudit(access.AuditConfig{Path: r.audit})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = New(Config{Backend: b, Policy: policy, Audit: audit, Secrets: []string{"db", "late", "other"}, Certificates: []string{"web", "hsm"},
		Metrics: func(visible Visible) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "signet_up 1\n")
				for _, name := range []string{"db", "other"} {
					if visible(access.Secret, name) {
						io.WriteString(w, "signet_secret_stale{secret="+name+"} 0\n")
					}
				}
			})
		}})
	ln, err := Listen(r.path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.served <- r.Serve(ctx, ln) }()
	r.client = newClient(r.path)
	t.Cleanup(func() {
		r.end()
		r.client.CloseIdleConnections()
		if err := audit.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// end stops the server and returns when it has.
func (r *rig) end() {
	r.t.Helper()
	r.stop()
	if err := <-r.served; err != nil {
		r.t.Errorf("serve: %v", err)
	}
	r.served <- nil // for the next
}

func newClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
}

// An answer is a whole response.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("not JSON: %v: %s", err, a.body)
	}
	return m
}

func (a answer) code(t *testing.T) string {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("HTTP %d is %q, not a problem: %s", a.status, got, a.body)
	}
	code, _ := a.json(t)["code"].(string)
	return code
}

// do makes a request; headers are "Name: value".
func (r *rig) do(method, path, body string, headers ...string) answer {
	r.t.Helper()
	a, err := r.try(r.t.Context(), method, path, body, headers...)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) try(ctx context.Context, method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://signet"+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

func (r *rig) get(path string, headers ...string) answer {
	r.t.Helper()
	return r.do("GET", path, "", headers...)
}

// db is a secret with fields of several kinds.
func db(version string) *sinks.Secret {
	now := time.Now()
	return &sinks.Secret{Name: "db", Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{
		"username": secret.New([]byte("robot")),
		"password": secret.New([]byte("p\"<\\\n\x01é " + version)),
	}), FetchedAt: now, FreshUntil: now.Add(time.Hour), UsableUntil: now.Add(2 * time.Hour), RotatesAt: now.Add(2 * time.Hour)}
}

// auditLines waits until there are n lines about requests and returns them.
func (r *rig) auditLines(n int) []map[string]any {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Second)
	for {
		var out []map[string]any
		text, err := os.ReadFile(r.audit)
		if err != nil {
			r.t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var m map[string]any
			if json.Unmarshal(line, &m) == nil && m["caller"] != nil {
				out = append(out, m)
			}
		}
		if len(out) >= n {
			return out
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%d lines in the audit, want %d:\n%s", len(out), n, text)
		}
	}
}

// password is the value of the field of that name.
func password(s *sinks.Secret) string {
	v, _ := s.Fields.Get("password")
	return string(v.Reveal())
}

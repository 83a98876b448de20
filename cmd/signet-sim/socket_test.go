package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Every route of the socket API that apps use, with the real agent, HSM worker
// and simulators, as `curl --unix-socket` sees it.
func TestSocketEndToEnd(t *testing.T) {
	h := startHost(t, filepath.Join(shm(t), "run"), "--rotate", "3s", "--life", "1h", "--new-key", "0")
	c := socketClient{h, &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.dir, "signet.sock"))
	}}}}
	defer c.http.CloseIdleConnections()
	h.works("the start")

	c.secrets()
	c.signs()
	c.events()
	c.proxies()
	c.replacesRefusedTokens()
	for path, want := range map[string]string{"/v1/healthz": `"ok"`, "/v1/readyz": `"ready"`, "/v1/status": `"runway"`, "/v1/certificates/host": "BEGIN CERTIFICATE", "/v1/tokens/pam": `"access_token"`} {
		if r, body := c.do("GET", path, ""); r.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	_, metrics := c.do("GET", "/metrics", "")
	for _, name := range []string{
		`signet_secret_fresh_until_seconds{secret="db"}`, `signet_secret_stale{secret="db"} 0`, `signet_certificate_not_after_seconds{certificate="host"}`,
		`signet_upstream_requests_total{code="200",upstream="pam"}`, `signet_hsm_operations_seconds_bucket{operation="sign"`, "signet_hsm_restarts_total 0",
		`signet_socket_requests_total{code="200",route="/v1/secrets/{name}"}`, "signet_runway_seconds",
	} {
		if !strings.Contains(metrics, name) {
			t.Errorf("no metric %s", name)
		}
	}
	c.explains()
	c.do("POST", "/v1/certificates/host/renew", "{}", "Content-Type: application/json")
	h.until("the key of the audit, which is not left to the stop", 10*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "state", "audit.jsonl.keys"))
		return err == nil
	})
	h.stop()
	c.audits()
}

type socketClient struct {
	*runningHost
	http *http.Client
}

func (c socketClient) do(method, path, body string, headers ...string) (*http.Response, string) {
	c.Helper()
	resp, text, err := c.try(method, path, body, headers...)
	if err != nil {
		c.Fatal(err)
	}
	return resp, text
}

// try is do while the agent may not be there.
func (c socketClient) try(method, path, body string, headers ...string) (*http.Response, string, error) {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), method, "http://signet"+path, strings.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

func (c socketClient) version(body string) string {
	c.Helper()
	var s struct{ Version string }
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Version == "" {
		c.Fatalf("%v: %s", err, body)
	}
	return s.Version
}

// secrets reads, asks again, waits for a rotation, and reports a refusal.
func (c socketClient) secrets() {
	c.Helper()
	r, body := c.do("GET", "/v1/secrets/db", "")
	v := c.version(body)
	if r, _ := c.do("GET", "/v1/secrets/db", "", "If-None-Match: "+r.Header.Get("Etag")); r.StatusCode != 304 && r.StatusCode != 200 { // it may have rotated
		c.Errorf("If-None-Match: %d", r.StatusCode)
	}
	if r, body := c.do("GET", "/v1/secrets/db?wait=30s&version="+v, ""); r.StatusCode != 200 || c.version(body) == v {
		c.Errorf("long poll: %d, version %s after %s", r.StatusCode, c.version(body), v)
	}
	if r, body := c.do("GET", "/v1/secrets/db?field=password", "", "Accept: application/octet-stream"); r.StatusCode != 200 || body == "" || body[0] == '{' {
		c.Errorf("raw field: %d", r.StatusCode)
	}
	_, body = c.do("GET", "/v1/secrets/db", "")
	if r, body := c.do("POST", "/v1/secrets/db/refused", fmt.Sprintf(`{"version":%q}`, c.version(body))); r.StatusCode != 200 || c.version(body) == "" {
		c.Errorf("refused: %d", r.StatusCode)
	}
	if r, _ := c.do("GET", "/v1/secrets/nosuch", ""); r.StatusCode != 403 {
		c.Errorf("a name that the policy does not give: %d", r.StatusCode)
	}
}

// signs has the HSM sign and verifies it with the public half.
func (c socketClient) signs() {
	c.Helper()
	digest := sha256.Sum256([]byte("hello"))
	var signed struct{ Signature []byte }
	r, body := c.do("POST", "/v1/keys/host/sign", fmt.Sprintf(`{"hash":"SHA-256","padding":"pkcs1v15","digest":%q}`, base64.StdEncoding.EncodeToString(digest[:])))
	if err := json.Unmarshal([]byte(body), &signed); err != nil || r.StatusCode != 200 {
		c.Fatalf("sign: %d, %v: %s", r.StatusCode, err, body)
	}
	_, body = c.do("GET", "/v1/keys/host", "")
	var key struct {
		PublicKey string `json:"public_key"`
	}
	if err := json.Unmarshal([]byte(body), &key); err != nil {
		c.Fatal(err)
	}
	block, _ := pem.Decode([]byte(key.PublicKey))
	if block == nil {
		c.Fatalf("public key: %s", body)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		c.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], signed.Signature); err != nil {
		c.Errorf("the signature: %v", err)
	}
}

// events waits for a rotation in the stream of events.
func (c socketClient) events() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://signet/v1/events", nil)
	if err != nil {
		c.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if s.Text() == "event: secret.changed" {
			return
		}
	}
	c.Error("no secret.changed within a minute")
}

// proxies calls the upstream without holding a credential.
func (c socketClient) proxies() {
	c.Helper()
	r, body := c.do("GET", "/v1/upstreams/pam/proxy/iso/pam/credential/robot-test-5", "", "Authorization: Bearer of-the-caller", "Cookie: a=b")
	if r.StatusCode != 200 || !strings.Contains(body, `"credential"`) {
		c.Errorf("proxy: %d %s", r.StatusCode, body)
	}
	for path, want := range map[string]int{"/iso/pam/info/1": 403, "/iso/pam/credential/%2e%2e/info": 400, "/iso/pam/credential/a/b": 403} {
		if r, _ := c.do("GET", "/v1/upstreams/pam/proxy"+path, ""); r.StatusCode != want {
			c.Errorf("proxy %s: %d, want %d", path, r.StatusCode, want)
		}
	}
	if r, _ := c.do("POST", "/v1/upstreams/pam/proxy/iso/pam/credential/robot-test-5", "{}"); r.StatusCode != 403 {
		c.Errorf("proxied POST: %d", r.StatusCode)
	}
}

// replacesRefusedTokens calls an upstream that does not take the agent's access
// token any more: the caller sees nothing of it, with a body or without.
func (c socketClient) replacesRefusedTokens() {
	c.Helper()
	const path = "/iso/pam/credential/robot-test-5"
	blob, err := os.ReadFile(filepath.Join(c.dir, "signet.yaml"))
	if err != nil {
		c.Fatal(err)
	}
	blob = bytes.Replace(blob, []byte(`pam: ["GET /iso`), []byte(`pam: ["POST /iso/pam/credential/*", "GET /iso`), 1)
	if err := os.WriteFile(filepath.Join(c.dir, "signet.yaml"), blob, 0o600); err != nil {
		c.Fatal(err)
	}
	if err := syscall.Kill(c.processes()["signet"][0], syscall.SIGHUP); err != nil {
		c.Fatal(err)
	}
	c.until("the new policy", 30*time.Second, func() bool {
		r, _, err := c.try("POST", "/v1/upstreams/pam/proxy"+path, "{}")
		return err == nil && r.StatusCode == 404 // from the vault, which knows no such function
	})
	sim := filepath.Join(c.dir, "sim")
	operated := func(args ...string) string {
		c.Helper()
		status, stdout, stderr := operate(c.T, sim, "", args...)
		if status != 0 {
			c.Fatal(stderr)
		}
		return stdout
	}
	operated("authorization", "revoke-tokens")
	if r, body := c.do("GET", "/v1/upstreams/pam/proxy"+path, ""); r.StatusCode != 200 {
		c.Errorf("GET with a revoked token: %d %s", r.StatusCode, body)
	}
	for method, want := range map[string]int{"GET": 200, "POST": 404} {
		operated("fault", "add", "senhasegura", "status", "--status", "401", "--method", method, "--path", path, "--count", "1")
		if r, body := c.do(method, "/v1/upstreams/pam/proxy"+path, "{}"); r.StatusCode != want {
			c.Errorf("%s refused once: %d %s", method, r.StatusCode, body)
		}
		if left := operated("fault", "list", "senhasegura"); left != "" {
			c.Errorf("%s: the upstream did not refuse: %s", method, left)
		}
	}
	operated("fault", "add", "senhasegura", "status", "--status", "401", "--method", "POST", "--path", path, "--count", "2")
	if r, _ := c.do("POST", "/v1/upstreams/pam/proxy"+path, "{}"); r.StatusCode != 401 {
		c.Errorf("POST refused twice: %d", r.StatusCode)
	}
}

// signet runs the program, which has to succeed, and returns what it printed.
func (c socketClient) signet(args ...string) string {
	c.Helper()
	bin, err := programs()
	if err != nil {
		c.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "signet"), append([]string{"--socket", filepath.Join(c.dir, "signet.sock")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.Errorf("signet %v: %v: %s", args, err, out)
	}
	return string(out)
}

// explains asks which rule gives the credential to this user, and to a unit.
func (c socketClient) explains() {
	c.Helper()
	me, err := user.Current()
	if err != nil {
		c.Fatal(err)
	}
	if got, want := c.signet("policy", "explain", "--uid", me.Username, "--kind", "secret", "db"), "allowed: policy[0], user "+me.Username; !strings.Contains(got, want) {
		c.Errorf("explain a user: %s, want %s", got, want)
	}
	if got := c.signet("policy", "explain", "--unit", "app.service", "--kind", "secret", "db"); !strings.Contains(got, "denied: no rule of the policy allows it") {
		c.Errorf("explain a unit: %s", got)
	}
}

// audits looks at what is left of all that: each kind of access and of change
// has its line, with all columns; the lines are whole, and signed to the end.
func (c socketClient) audits() {
	c.Helper()
	path := filepath.Join(c.dir, "state", "audit.jsonl")
	if out := c.signet("audit", "verify", "--file", path); !strings.Contains(out, "the last 1 not yet") {
		c.Errorf("audit: %s", out)
	}
	blob, err := os.ReadFile(path)
	if err != nil {
		c.Fatal(err)
	}
	type line struct {
		ID, Time, Resource, Event, Method, Outcome, Error string
		Status                                            int
		Duration                                          float64
		Caller                                            *struct {
			UID, GID, PID int
			How           string
		}
	}
	seen := map[string]bool{}
	for text := range bytes.Lines(blob) {
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			c.Fatal(err)
		}
		seen[l.Event+" "+l.Resource+" "+l.Outcome] = true
		if l.Time == "" || l.Outcome == "" {
			c.Errorf("no time or outcome: %s", text)
		}
		if l.Caller != nil && (l.ID == "" || l.Caller.UID != os.Getuid() || l.Caller.PID == 0 || l.Caller.How == "" || l.Method == "" || l.Status == 0 || l.Duration <= 0) {
			c.Errorf("a column is missing: %s", text)
		}
	}
	for _, want := range []string{
		"secret.read secret/db ok", "secret.read secret/nosuch denied", "secret.refused secret/db ok", "certificate.read certificate/host ok",
		"key.sign key/host ok", "key.read key/host ok", "token.read token/pam ok", "proxy.call proxy/pam ok", "proxy.call proxy/pam denied",
		"policy.explain  ok", "certificate.renew certificate/host ok", // administration
		"secret.changed secret/db ok", "certificate.issued certificate/host ok", "token.issued token/pam ok", // changes
	} {
		if !seen[want] {
			c.Errorf("no line of the audit says %q", want)
		}
	}
	if c.Failed() {
		c.Logf("there are: %v", slices.Sorted(maps.Keys(seen)))
	}
}

package upstreamtest

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// control makes one call on the control handler.
func control(t *testing.T, h http.Handler, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestOutageIsRehearsedByControl(t *testing.T) {
	var b Bench
	h := b.Control()
	served := b.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") }))
	if code, body := control(t, h, "POST", "/faults", `{"kind":"status","status":429,"retry_after":"30","path":"*/token","count":1}`); code != 200 || !strings.Contains(body, `"id":1`) {
		t.Fatalf("HTTP %d: %s", code, body)
	}
	want := []int{200, 429, 200}
	for i, path := range []string{"/other", "/a/b/token", "/a/b/token"} {
		w := httptest.NewRecorder()
		served.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want[i] || w.Code == 429 && w.Header().Get("Retry-After") != "30" {
			t.Errorf("%s: HTTP %d, Retry-After %q", path, w.Code, w.Header().Get("Retry-After"))
		}
	}
	var log []Entry
	_, body := control(t, h, "GET", "/log", "")
	if err := json.Unmarshal([]byte(body), &log); err != nil || len(log) != 3 || log[1].Status != 429 || log[1].Path != "/a/b/token" {
		t.Errorf("%v: %s", err, body)
	}

	if code, _ := control(t, h, "PUT", "/faults", `[{"kind":"drop"},{"kind":"slow","delay":"2s"}]`); code != 200 || len(b.Faults.List()) != 2 {
		t.Errorf("HTTP %d, faults %+v", code, b.Faults.List())
	}
	if code, _ := control(t, h, "DELETE", "/faults/2", ""); code != 200 || len(b.Faults.List()) != 1 {
		t.Errorf("HTTP %d, faults %+v", code, b.Faults.List())
	}
	if code, _ := control(t, h, "DELETE", "/faults", ""); code != 200 || len(b.Faults.List()) != 0 {
		t.Errorf("HTTP %d, faults %+v", code, b.Faults.List())
	}
	for _, bad := range []string{`{"kind":"explode"}`, `{"kind":"status"}`, `{"kind":"slow"}`, `{"kind":"drop","count":-1}`, `{"kind":"drop","colour":"red"}`, `{"kind":"drop"} x`, ``} {
		if code, body := control(t, h, "POST", "/faults", bad); code != 400 || body == "" {
			t.Errorf("%s: HTTP %d: %s", bad, code, body)
		}
	}
}

func TestClockIsSetByControl(t *testing.T) {
	var b Bench
	h := b.Control()
	for _, tt := range []struct {
		body string
		want time.Duration // ahead of the real time
	}{
		{`{"offset":"960h"}`, 960 * time.Hour},
		{`{"advance":"-1h"}`, 959 * time.Hour},
		{`{"now":"` + time.Now().Add(time.Hour).Format(time.RFC3339Nano) + `"}`, time.Hour},
		{`{"offset":"0s"}`, 0},
	} {
		code, body := control(t, h, "PUT", "/clock", tt.body)
		if off := time.Until(b.Clock.Now()) - tt.want; code != 200 || off.Abs() > 30*time.Second {
			t.Errorf("%s: HTTP %d: %s: off by %v", tt.body, code, body, off)
		}
	}
	for _, bad := range []string{`{}`, `{"offset":"1h","advance":"1h"}`, `{"offset":"soon"}`} {
		if code, _ := control(t, h, "PUT", "/clock", bad); code != 400 {
			t.Errorf("%s: HTTP %d", bad, code)
		}
	}
}

func TestSkipAndCount(t *testing.T) {
	var b Bench
	b.Faults.Add(Fault{Kind: FaultStatus, Status: 502, Method: "POST", Skip: 1, Count: 2})
	served := b.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var got []int
	for _, method := range []string{"POST", "GET", "POST", "POST", "POST"} {
		w := httptest.NewRecorder()
		served.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		got = append(got, w.Code)
	}
	for i, want := range []int{200, 200, 502, 502, 200} {
		if got[i] != want {
			t.Errorf("statuses %v, call %d: want %d", got, i, want)
		}
	}
}

func TestLostReplyIsHandledFirst(t *testing.T) {
	var b Bench
	ca, err := NewCA(CAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	handled := 0
	url := b.Start(t, ca, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		handled++
	}))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(ca), DisableKeepAlives: true}}
	for kind, want := range map[FaultKind]int{FaultLost: 1, FaultDrop: 0, FaultWrongCA: 0} {
		handled = 0
		id := b.Faults.Add(Fault{Kind: kind})
		resp, err := client.Post(url, "text/plain", strings.NewReader("x"))
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: HTTP %d", kind, resp.StatusCode)
		}
		mu.Lock()
		if handled != want {
			t.Errorf("%s: handled %d times, want %d", kind, handled, want)
		}
		mu.Unlock()
		b.Faults.Remove(id)
	}
}

func TestWrongCAEndsKeptConnections(t *testing.T) {
	var b Bench
	ca, err := NewCA(CAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	url := b.Start(t, ca, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(ca)}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	id := b.Faults.Add(Fault{Kind: FaultWrongCA})
	if resp, err := client.Get(url); err == nil {
		resp.Body.Close()
		t.Error("the kept connection still works")
	}
	b.Faults.Remove(id)
	if resp, err = client.Get(url); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
}

func TestCAIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := LoadCA(dir, "ca", CAConfig{RSA: true})
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadCA(dir, "ca", CAConfig{RSA: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := second.Client("host1")
	if err != nil || !first.Issued(cert.Leaf) {
		t.Errorf("the loaded CA is another one: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || info.Mode() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	other, err := NewCA(CAConfig{})
	if err != nil || other.Issued(cert.Leaf) {
		t.Errorf("another CA of the same name says it issued the certificate: %v", err)
	}
}

func TestStateIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	var got map[string]int
	if found, err := Load(path, &got); found || err != nil {
		t.Errorf("nothing saved yet: %v, %v", found, err)
	}
	for i := range 3 {
		if err := Save(path, map[string]int{"n": i}); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := Load(path, &got); !found || err != nil || got["n"] != 2 {
		t.Errorf("%v, %v, %v", found, err, got)
	}
	if left, err := filepath.Glob(path + ".*"); err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, &got); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("damaged state: %v", err)
	}
	if err := Save("", 1); err != nil {
		t.Error(err)
	}
}

func TestMatchPath(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a", "/a", true},
		{"/a", "/ab", false},
		{"*", "/a/b", true},
		{"*/rotate.adm", "/x/y/rotate.adm", true},
		{"/a/*/c", "/a/b/b/c", true},
		{"/a/*/c", "/a/c", false},
		{"/a*b*c", "/a1b2c", true},
		{"/a*b*c", "/a1c2", false},
	} {
		if got := matchPath(tt.pattern, tt.path); got != tt.want {
			t.Errorf("%q matches %q: %v", tt.pattern, tt.path, got)
		}
	}
}

func clientTLS(ca *CA) *tls.Config { return &tls.Config{RootCAs: ca.Pool()} }

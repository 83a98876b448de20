package socket

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

func TestGetSecret(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	want := db("v/1 \"x\"")
	r.PublishSecret(want)

	a := r.get("/v1/secrets/db")
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("got %+v", a)
	}
	m := a.json(t)
	fields, _ := m["fields"].(map[string]any)
	for _, tt := range []struct{ got, want any }{
		{m["name"], "db"}, {m["version"], want.Version}, {m["stale"], false}, {fields["username"], "robot"},
		{fields["password"], password(want)},
		{m["fetched_at"], want.FetchedAt.UTC().Format(time.RFC3339Nano)},
		{m["fresh_until"], want.FreshUntil.UTC().Format(time.RFC3339Nano)},
		{m["rotates_at"], want.RotatesAt.UTC().Format(time.RFC3339Nano)},
	} {
		if tt.got != tt.want {
			t.Errorf("got %v, want %v", tt.got, tt.want)
		}
	}
	tag := a.header.Get("Etag")
	if a := r.get("/v1/secrets/db", "If-None-Match: "+tag); a.status != 304 || a.body != "" || a.header.Get("Etag") != tag || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("If-None-Match: %+v", a)
	}
	if a := r.get("/v1/secrets/db", `If-None-Match: "other"`); a.status != 200 {
		t.Errorf("If-None-Match of another version: %+v", a)
	}
	if a := r.do("HEAD", "/v1/secrets/db", ""); a.status != 200 || a.body != "" || a.header.Get("Etag") != tag {
		t.Errorf("HEAD: %+v", a)
	}
	if a := r.get("/v1/secrets/d%62"); a.status != 200 {
		t.Errorf("encoded name: %+v", a)
	}

	raw := r.get("/v1/secrets/db?field=password", "Accept: application/octet-stream")
	if raw.status != 200 || raw.body != password(want) || raw.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("raw field: %+v", raw)
	}
	one := r.get("/v1/secrets/db?field=username").json(t)["fields"].(map[string]any)
	if len(one) != 1 || one["username"] != "robot" {
		t.Errorf("one field: %v", one)
	}
	for _, tt := range []struct{ path, accept, code string }{
		{"/v1/secrets/db?field=nope", "application/octet-stream", CodeNotFound},
		{"/v1/secrets/db?field=nope", "*/*", CodeNotFound},
		{"/v1/secrets/db", "application/octet-stream", CodeInvalid},
		{"/v1/secrets/db?wait=soon", "*/*", CodeInvalid},
		{"/v1/secrets/db?wait=-1s", "*/*", CodeInvalid},
		{"/v1/secrets/db?what=1", "*/*", CodeInvalid},
		{"/v1/secrets/db?field=%zz", "*/*", CodeInvalid},
	} {
		if got := r.get(tt.path, "Accept: "+tt.accept).code(t); got != tt.code {
			t.Errorf("%s: %s, want %s", tt.path, got, tt.code)
		}
	}
}

func TestBinaryFieldIsNotMangled(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	s := db("1")
	s.Fields = sinks.FieldsOf(map[string]secret.Value{"content": secret.New([]byte{0xff, 0, 0xfe})})
	r.PublishSecret(s)
	m := r.get("/v1/secrets/db").json(t)
	if m["fields"].(map[string]any)["content"] != "/wD+" || m["base64_fields"].([]any)[0] != "content" {
		t.Errorf("got %v", m)
	}
	if a := r.get("/v1/secrets/db", "Accept: application/octet-stream"); a.body != "\xff\x00\xfe" {
		t.Errorf("raw: %+v", a)
	}
}

func TestFreshnessIsThatOfTheRead(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	now := time.Now()
	s := db("1")
	s.FreshUntil = now.Add(-time.Minute)
	r.PublishSecret(s)
	if a := r.get("/v1/secrets/db"); a.status != 200 || a.json(t)["stale"] != true {
		t.Errorf("stale: %+v", a)
	}
	s = db("1")
	s.UsableUntil = now.Add(-time.Second)
	r.PublishSecret(s)
	if a := r.get("/v1/secrets/db"); a.status != 503 || a.code(t) != CodeExpired {
		t.Errorf("expired, upstream away: %+v", a)
	}
	r.WithdrawSecret("db", &Problem{Code: CodeDenied, Detail: "the upstream refuses it"})
	if a := r.get("/v1/secrets/db"); a.status != 403 || a.code(t) != CodeDenied {
		t.Errorf("withdrawn: %+v", a)
	}
}

// An item that was never fetched, or has expired, joins the fetch.
func TestReadJoinsFetch(t *testing.T) {
	b := &fake{}
	r := start(t, b, tester(false))
	b.fetch = func(_ context.Context, name string) error {
		r.PublishSecret(db("1"))
		return nil
	}
	expired := db("0")
	expired.UsableUntil = time.Now().Add(-time.Second)
	r.PublishSecret(expired)
	if a := r.get("/v1/secrets/db"); a.status != 200 || a.json(t)["version"] != "1" {
		t.Errorf("expired: %+v", a)
	}
	b.fetch = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	if a := r.get("/v1/secrets/late?wait=50ms"); a.status != 503 || a.code(t) != CodeUnavailable {
		t.Errorf("not fetched within the wait: %+v", a)
	}
	b.fetch = func(context.Context, string) error { return &Problem{Code: CodeNotFound, Detail: "no such credential"} }
	if a := r.get("/v1/secrets/late"); a.status != 404 {
		t.Errorf("not found at the upstream: %+v", a)
	}
	b.fetch = func(context.Context, string) error { return errors.New("internal: hunter2") }
	if a := r.get("/v1/secrets/late"); a.status != 503 || strings.Contains(a.body, "hunter2") {
		t.Errorf("an error not meant for callers: %+v", a)
	}
}

func TestLongPoll(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	r.PublishSecret(db("1"))
	const watchers = 200
	got := make(chan answer, watchers)
	for range watchers {
		go func() {
			a, err := r.try(t.Context(), "GET", "/v1/secrets/db?wait=30s&version=1", "")
			if err != nil {
				t.Error(err)
			}
			got <- a
		}()
	}
	r.PublishSecret(db("1")) // refreshed, the same version: nobody is told
	select {
	case a := <-got:
		t.Fatalf("answered without a change: %+v", a)
	case <-time.After(100 * time.Millisecond):
	}
	r.PublishSecret(db("2")) // all are told, and none finds out at the end of its wait
	late := time.After(10 * time.Second)
	for range watchers {
		var a answer
		select {
		case a = <-got:
		case <-late:
			t.Fatal("somebody was not woken")
		}
		if a.status != 200 || a.json(t)["version"] != "2" {
			t.Fatalf("got %+v", a)
		}
	}
	if a := r.get("/v1/secrets/db?wait=30s&version=1"); a.json(t)["version"] != "2" {
		t.Errorf("a version that is old already: %+v", a)
	}
	if a := r.get("/v1/secrets/db?wait=20ms&version=2"); a.status != 200 || a.json(t)["version"] != "2" {
		t.Errorf("no change within the wait: %+v", a)
	}
	if a := r.get("/v1/secrets/db?wait=20ms&version=2", `If-None-Match: "2"`); a.status != 304 {
		t.Errorf("no change within the wait, with a tag: %+v", a)
	}
}

func TestRefused(t *testing.T) {
	var calls []string
	b := &fake{}
	r := start(t, b, tester(false))
	b.refused = func(name, version string) error {
		calls = append(calls, name+"@"+version)
		r.PublishSecret(db("3"))
		return nil
	}
	r.PublishSecret(db("2"))
	if a := r.do("POST", "/v1/secrets/db/refused", `{"version":"1"}`); a.json(t)["version"] != "2" || len(calls) != 0 {
		t.Errorf("an old version: %+v, asked the agent %v", a, calls)
	}
	if a := r.do("POST", "/v1/secrets/db/refused", `{"version":"2"}`); a.json(t)["version"] != "3" || len(calls) != 1 || calls[0] != "db@2" {
		t.Errorf("the current version: %+v, asked the agent %v", a, calls)
	}
	for _, body := range []string{"", "{}", "[", `{"version":1}`, `{"version":"1","x":1}`, `{"version":"1"}{}`} {
		if got := r.do("POST", "/v1/secrets/db/refused", body).code(t); got != CodeInvalid {
			t.Errorf("%q: %s", body, got)
		}
	}
}

func TestCertificate(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	if a := r.get("/v1/certificates/web"); a.status != 503 || a.code(t) != CodeUnavailable {
		t.Errorf("not issued: %+v", a)
	}
	now := time.Now()
	c := &sinks.Certificate{Name: "web", Generation: 2, Chain: [][]byte{{1, 2}, {3, 4}}, Serial: "0a", NotBefore: now, NotAfter: now.Add(time.Hour),
		Key: secret.New([]byte("-----BEGIN PRIVATE KEY-----\n"))}
	r.PublishCertificate(c)
	m := r.get("/v1/certificates/web").json(t)
	if m["generation"] != 2. || m["key"] != "-----BEGIN PRIVATE KEY-----\n" || !strings.HasPrefix(m["certificate"].(string), "-----BEGIN CERT") ||
		strings.Count(m["chain"].(string), "BEGIN") != 1 || m["not_after"] != stamp(c.NotAfter) {
		t.Errorf("got %v", m)
	}
	hsm := *c
	hsm.Name, hsm.Key, hsm.KeyURI = "hsm", secret.Value{}, "pkcs11:object=web"
	r.PublishCertificate(&hsm)
	if m := r.get("/v1/certificates/hsm").json(t); m["key"] != nil || m["key_uri"] != "pkcs11:object=web" {
		t.Errorf("key in the HSM: %v", m)
	}
	a := r.get("/v1/certificates/web")
	if a := r.get("/v1/certificates/web", "If-None-Match: "+a.header.Get("Etag")); a.status != 304 {
		t.Errorf("If-None-Match: %+v", a)
	}
	old := *c
	old.NotAfter = now.Add(-time.Second)
	r.PublishCertificate(&old)
	if a := r.get("/v1/certificates/web"); a.code(t) != CodeExpired {
		t.Errorf("expired: %+v", a)
	}
}

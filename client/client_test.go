package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSocketPath(t *testing.T) {
	t.Setenv("SIGNET_SOCKET", "")
	if got := new(Client).SocketPath(); got != DefaultSocket {
		t.Errorf("zero Client: %s", got)
	}
	t.Setenv("SIGNET_SOCKET", "/env")
	if got := new(Client).SocketPath(); got != "/env" {
		t.Errorf("with SIGNET_SOCKET: %s", got)
	}
	if got := (&Client{Socket: "/field"}).SocketPath(); got != "/field" {
		t.Errorf("with Socket: %s", got)
	}
}

func TestReadSecretAsTheContractHasIt(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/secrets/db", `{"name":"db","version":"7","fields":{"username":"app","password":"s3cr'et"},
		"fetched_at":"2030-01-01T12:00:00Z","fresh_until":"2030-01-01T13:00:00Z","rotates_at":"2030-01-01T14:00:00Z","stale":false}`)
	got, err := a.client().ReadSecret(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	want := Secret{
		Name: "db", Version: "7", Fields: map[string]string{"username": "app", "password": "s3cr'et"},
		FetchedAt: noon, FreshUntil: noon.Add(time.Hour), RotatesAt: noon.Add(2 * time.Hour),
	}
	if d := cmp.Diff(want, *got); d != "" {
		t.Error(d)
	}
}

func TestNullDatesAreZero(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/secrets/db", `{"name":"db","version":"7","fields":{},"fetched_at":"2030-01-01T12:00:00Z","fresh_until":"2030-01-01T13:00:00Z","rotates_at":null,"stale":true}`)
	got, err := a.client().ReadSecret(t.Context(), "db")
	if err != nil || !got.RotatesAt.IsZero() || !got.Stale {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestReadFieldIsByteForByte(t *testing.T) {
	a := newAgent(t)
	a.mux.HandleFunc("GET /v1/secrets/db", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("field") != "key" || r.Header.Get("Accept") != "application/octet-stream" {
			refuse(w, 400, "invalid", "wrong request")
			return
		}
		w.Header().Set("ETag", `"9%2Fb"`)
		w.Header().Set("Signet-Stale", "true")
		w.Write([]byte{0, 0xff, '\n'})
	})
	got, err := a.client().ReadField(t.Context(), "db", "key")
	if err != nil || string(got.Value) != "\x00\xff\n" || got.Version != "9/b" || !got.Stale {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestFieldsThatAreNoTextAreDecoded(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/secrets/db", `{"name":"db","version":"7","fields":{"key":"AP8K","text":"AP8K"},"base64_fields":["key"],"fetched_at":"2030-01-01T12:00:00Z","fresh_until":"2030-01-01T13:00:00Z"}`)
	got, err := a.client().ReadSecret(t.Context(), "db")
	if err != nil || got.Fields["key"] != "\x00\xff\n" || got.Fields["text"] != "AP8K" {
		t.Errorf("%q, %v", got.Fields, err)
	}
}

func TestAListedFieldThatIsMissingIsNotUnderstood(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/secrets/db", `{"name":"db","version":"7","base64_fields":["key"]}`)
	if _, err := a.client().ReadSecret(t.Context(), "db"); CodeOf(err) != Unavailable {
		t.Errorf("error %v", err)
	}
}

func TestSecretsLists(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/secrets", `{"secrets":[{"name":"db","version":"1"},{"name":"new"}]}`)
	got, err := a.client().Secrets(t.Context())
	if err != nil || len(got) != 2 || got[0].Version != "1" || got[1].Name != "new" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestErrorsOfTheAgent(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		kind   string
		body   string
		want   Error
		text   string
	}{
		{
			"denied", 403, "application/problem+json", `{"title":"Forbidden","status":403,"code":"denied","detail":"no rule allows it","hint":"ask"}`,
			Error{Code: Denied, Status: 403, Detail: "no rule allows it", Hint: "ask"}, `secret "db": denied: no rule allows it`,
		},
		{
			"the item named twice", 404, "application/problem+json", `{"code":"not-found","detail":"secret \"db\": not-found: no such secret"}`,
			Error{Code: NotFound, Status: 404, Detail: `secret "db": not-found: no such secret`}, `secret "db": not-found: no such secret`,
		},
		{"expired is told from unavailable", 503, "application/problem+json", `{"code":"expired","detail":"too old"}`, Error{Code: Expired, Status: 503, Detail: "too old"}, `secret "db": expired: too old`},
		{"no problem+json", 502, "text/html", `<html>`, Error{Code: Unavailable, Status: 502, Detail: "HTTP 502"}, `secret "db": unavailable: HTTP 502`},
		{"title only", 429, "application/problem+json; charset=utf-8", `{"title":"Too many"}`, Error{Code: Busy, Status: 429, Detail: "Too many", RetryAfter: 3 * time.Second}, `secret "db": busy: Too many`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			a.mux.HandleFunc("GET /v1/secrets/db", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				if tt.status == 429 {
					w.Header().Set("Retry-After", "3")
				}
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			_, err := a.client().ReadSecret(t.Context(), "db")
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("not an *Error: %v", err)
			}
			tt.want.What = `secret "db"`
			if d := cmp.Diff(tt.want, *e); d != "" {
				t.Error(d)
			}
			if err.Error() != tt.text {
				t.Errorf("text %q, want %q", err, tt.text)
			}
		})
	}
}

func TestAnAnswerThatIsNotUnderstoodIsNotQuoted(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/secrets/db", `{"name":"db","fields":{"password":hunter2}}`)
	_, err := a.client().ReadSecret(t.Context(), "db")
	if CodeOf(err) != Unavailable || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "'h'") {
		t.Errorf("error %v", err)
	}
}

func TestNoAgent(t *testing.T) {
	c := &Client{Socket: filepath.Join(t.TempDir(), "none")}
	defer c.Close()
	_, err := c.ReadSecret(t.Context(), "db")
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != Unavailable || !errors.Is(err, syscall.ENOENT) {
		t.Fatalf("error %v", err)
	}
	if want := `secret "db": connect ` + c.Socket + ": no such file or directory"; e.Error() != want {
		t.Errorf("text %q, want %q", e, want)
	}
	if !strings.Contains(e.Hint, "is the agent running?") {
		t.Errorf("hint %q", e.Hint)
	}
}

func TestACallWaitsForAnAgentThatRestarts(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/secrets/db", `{"name":"db","version":"1"}`)
	a.stop()
	c := a.client()
	c.Patience = 10 * time.Second
	done := make(chan error, 1)
	go func() {
		_, err := c.ReadSecret(t.Context(), "db")
		done <- err
	}()
	a.start()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestASignatureOutlivesARestart(t *testing.T) {
	a := newAgent(t)
	a.json("POST /v1/keys/host/sign", `{"signature":"AQID","generation":1}`)
	c := a.client()
	for range 3 { // the second and third find the connection of before closed
		if _, err := c.Sign(t.Context(), "host", SignRequest{}); err != nil {
			t.Fatal(err)
		}
		a.stop()
		a.start()
	}
}

func TestContextEndsACall(t *testing.T) {
	a := newAgent(t)
	a.mux.HandleFunc("GET /v1/secrets/db", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := a.client()
	c.Timeout = 20 * time.Millisecond
	_, err := c.ReadSecret(t.Context(), "db")
	if !errors.Is(err, context.DeadlineExceeded) || CodeOf(err) != Unavailable {
		t.Errorf("error %v", err)
	}
}

func TestValuesDoNotPrint(t *testing.T) {
	s := Secret{Name: "db", Version: "1", Fields: map[string]string{"password": "hunter2"}}
	field := Field{Value: []byte("hunter2")}
	cert := Certificate{Key: "hunter2"}
	tok := Token{AccessToken: "hunter2"}
	cred := Credentials{Username: "u", Password: "hunter2"}
	var log strings.Builder
	l := slog.New(slog.NewTextHandler(&log, nil))
	l.Info("x", "s", s, "p", &s, "t", tok, "q", &tok, "c", cred, "d", &cred, "f", field, "g", &field, "k", cert, "m", &cert)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		log.WriteString(fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &s) + fmt.Sprintf(verb, tok) + fmt.Sprintf(verb, &tok))
		log.WriteString(fmt.Sprintf(verb, cred) + fmt.Sprintf(verb, &cred) + fmt.Sprintf(verb, []any{s, &tok, cred, field, &field, cert, &cert}))
	}
	if strings.Contains(log.String(), "hunter2") || strings.Contains(log.String(), "68756e746572") {
		t.Errorf("a value was printed: %s", log.String())
	}
}

package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTokenSourceAsksTheAgentEachTime(t *testing.T) {
	a := newAgent(t)
	a.json("GET /v1/tokens/pam", `{"access_token":"ey","token_type":"Bearer","expires_at":"2099-01-01T12:00:00Z"}`)
	s := a.client().TokenSource(t.Context(), "pam")
	for range 2 { // as only the agent knows when one was refused
		got, err := s.Token()
		if err != nil || got.AccessToken != "ey" || got.TokenType != "Bearer" || !got.Expiry.Equal(time.Date(2099, 1, 1, 12, 0, 0, 0, time.UTC)) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if n := a.count("GET /v1/tokens/pam"); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestTransportKeepsTheRequestAsItIs(t *testing.T) {
	a := newAgent(t)
	a.mux.HandleFunc("/v1/upstreams/cm/proxy/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Upstream", r.Header.Get("X-App"))
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, r.Method+" "+r.RequestURI+" "+string(body))
	})
	h := http.Client{Transport: a.client().Transport("cm")}
	req, err := http.NewRequestWithContext(t.Context(), "PATCH", "https://cm.example/api/v1/users/a%20b?x=1&y=%2F", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-App", "yes")
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	want := "PATCH /v1/upstreams/cm/proxy/api/v1/users/a%20b?x=1&y=%2F body"
	if string(got) != want || resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Upstream") != "yes" {
		t.Errorf("status %d, %q, want %q", resp.StatusCode, got, want)
	}
}

func TestAdministrationAsTheContractHasIt(t *testing.T) {
	a := newAgent(t)
	var got []string
	a.mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if kind := r.Header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("content type %q", kind)
		}
		got = append(got, r.RequestURI+" "+string(body))
		w.Write([]byte(`{"name":"x","result":"done"}`))
	})
	c, ctx := a.client(), t.Context()
	for _, err := range []error{
		c.Renew(ctx, "web"), c.Rotate(ctx, "host", false), c.Rotate(ctx, "host", true),
		c.Enroll(ctx, "host", Credentials{"u", "p"}), c.Login(ctx, "cm", nil), c.Login(ctx, "cm", &Credentials{"u", "p"}), c.Logout(ctx, "cm"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"/v1/certificates/web/renew {}",
		`/v1/certificates/host/rotate {"compromised":false}`,
		`/v1/certificates/host/rotate {"compromised":true}`,
		`/v1/identities/host/enroll {"username":"u","password":"p"}`,
		"/v1/upstreams/cm/login {}",
		`/v1/upstreams/cm/login {"username":"u","password":"p"}`,
		"/v1/upstreams/cm/logout {}",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A renewal that changes nothing is told from one that does.
func TestARenewalSaysWhetherAnythingChanged(t *testing.T) {
	a := newAgent(t)
	result := ""
	a.mux.HandleFunc("POST /v1/certificates/web/renew", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"name":"web","result":%q}`, result)
	})
	for _, result = range []string{"done", "unchanged"} {
		if changed, err := a.client().TryRenew(t.Context(), "web"); err != nil || changed != (result == "done") {
			t.Errorf("%s: changed %v, %v", result, changed, err)
		}
	}
}

// A registration whose answer was lost must not be repeated.
func TestAdministrationIsNotRepeated(t *testing.T) {
	a := newAgent(t)
	a.mux.HandleFunc("POST /", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	a.json("GET /v1/status", `{"ready":true}`)
	c := a.client()
	if _, err := c.Status(t.Context()); err != nil { // leaves a connection behind
		t.Fatal(err)
	}
	if err := c.Enroll(t.Context(), "host", Credentials{"u", "p"}); CodeOf(err) != Unavailable {
		t.Errorf("error %v", err)
	}
	if n := a.count("POST"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestStatusKeepsWhatItDoesNotKnow(t *testing.T) {
	a := newAgent(t)
	body := `{"ready":true,"items":[{"kind":"secret","name":"db","state":"fresh"}],"new":[1]}`
	a.json("GET /v1/status", body)
	s, err := a.client().Status(t.Context())
	if err != nil || !s.Ready || len(s.Items) != 1 || s.Items[0].Name != "db" {
		t.Fatalf("%+v, %v", s, err)
	}
	if !bytes.Equal(s.JSON, json.RawMessage(body)) {
		t.Errorf("JSON %s", s.JSON)
	}
}

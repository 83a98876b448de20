package upstream_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// exchange is a client credentials grant made by x/oauth2.
func exchange(t *testing.T, h *upstream.HTTP) (*oauth2.Token, error) {
	t.Helper()
	c := clientcredentials.Config{ClientID: "abc", ClientSecret: "s3cret", TokenURL: "https://localhost/token", AuthStyle: oauth2.AuthStyleInHeader}
	return c.Token(context.WithValue(t.Context(), oauth2.HTTPClient, h.Client()))
}

func TestTokenErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		code   upstream.Code
		text   string
	}{
		{"refused", 401, `{"error":"invalid_client","error_description":"no such client"}`, upstream.Unavailable, "HTTP 401: invalid_client: no such client"},
		{"not JSON", 401, `access_token=leaked`, upstream.Unavailable, "HTTP 401"},
		{"good status, no token", 200, `{"access_tokenn":"leaked"}`, upstream.Unavailable, "not that of a token endpoint"},
		{"good status, no JSON", 200, `leaked`, upstream.Unavailable, ""},
		{"busy", 429, ``, upstream.Busy, "HTTP 429"},
		{"server", 500, `leaked`, upstream.Unavailable, "HTTP 500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, upstream.HTTPConfig{}, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(tt.status)
					_, _ = io.WriteString(w, tt.body)
				})
				_, err := exchange(t, b.http)
				e := b.http.TokenError("get access token", err)
				if e.Code != tt.code || !strings.Contains(e.Error(), tt.text) {
					t.Errorf("code %s, %q; want %s, %q", e.Code, e, tt.code, tt.text)
				}
				if strings.Contains(e.Error(), "leaked") || strings.Contains(e.Error(), "s3cret") {
					t.Errorf("%q tells a secret", e)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, upstream.HTTPConfig{}, ok)
		b.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop})
		_, err := exchange(t, b.http)
		if e := b.http.TokenError("get access token", err); e.Op != "get access token" || !e.Sent || e.Code != upstream.Unavailable {
			t.Errorf("dropped: %+v", e)
		}
	})
}

func TestOneLine(t *testing.T) {
	long := upstream.OneLine(strings.Repeat("é", 300))
	if len(long) > 200 || !strings.HasSuffix(long, "é…") {
		t.Errorf("%d bytes, %q", len(long), long)
	}
	if got := upstream.OneLine(" a\r\nb\x1b[31m\t\xff c "); got != "a b [31m c" {
		t.Errorf("%q", got)
	}
	if _, err := json.Marshal(long); err != nil {
		t.Error(err)
	}
}

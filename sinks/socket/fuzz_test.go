package socket

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/signet-agent/signet/internal/access"
)

// FuzzSignBody holds that whatever passes the decoder and the checks is what a
// Backend is promised.
func FuzzSignBody(f *testing.F) {
	for _, s := range []string{`{}`, `{"hash":"SHA-256","padding":"pss","digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`, `{"message":"AAA="}`, `[`, `{"x":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var b signBody
		if decodeStrict(body, &b) != nil {
			return
		}
		r, err := b.request()
		if err != nil {
			return
		}
		if r.Hash == "" && len(r.Digest) != 0 || r.Hash != "" && (len(r.Digest) != hashSizes[r.Hash] || len(r.Message) != 0) || r.Generation < 0 {
			t.Fatalf("%q passed as %+v", body, r)
		}
	})
}

// FuzzRequest holds that no request makes the server panic, and that a caller
// whom policy does not know gets nothing but problems and health.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\n\r\n", "POST /v1/keys/host/sign HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"GET /v1/upstreams/pam/proxy/a/%2e HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://evil/v1/secrets/db?wait=1s HTTP/1.1\r\nHost: x\r\n\r\n"} {
		f.Add(s)
	}
	s := New(Config{Backend: &fake{}, Secrets: []string{"db"}})
	s.PublishSecret(db("1"))
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		q := &request{s: s, w: httptest.NewRecorder(), r: r, peer: &access.Peer{UID: 1}}
		rt, err := s.route(q)
		if err == nil {
			err = q.serve(rt)
		}
		if err == nil && rt.pattern != "/v1/healthz" && rt.pattern != "/v1/readyz" && rt.pattern != "/v1/secrets" && rt.pattern != "/v1/certificates" && rt.pattern != "/v1/keys" {
			t.Fatalf("%q was answered by %s", text, rt.pattern)
		}
	})
}

// FuzzJSON holds that values reach callers as they are.
func FuzzJSON(f *testing.F) {
	f.Add("p\"\\\n\x00\u2028<")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "")
		var got string
		if err := json.Unmarshal(appendJSON(nil, []byte(s)), &got); err != nil || got != s {
			t.Fatalf("%q became %q, %v", s, got, err)
		}
	})
}

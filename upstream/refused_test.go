package upstream_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/signet-agent/signet/upstream"
)

// A 401 is about the client certificate where nothing else was shown. Who shows
// another one with With learns of its refusal alone.
func TestARefusedCertificateIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		b := newBed(t, upstream.HTTPConfig{Refused: func() { told++ }}, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/401":
				w.WriteHeader(http.StatusUnauthorized)
			case "/403":
				w.WriteHeader(http.StatusForbidden)
			case "/500":
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		for _, tt := range []struct {
			h    *upstream.HTTP
			path string
			head http.Header
			want int
		}{
			{b.http, "/200", nil, 0}, {b.http, "/403", nil, 0}, {b.http, "/500", nil, 0}, {b.http, "/401", nil, 1},
			{b.http, "/401", http.Header{"Authorization": {"Bearer x"}}, 0}, {b.http.With(nil), "/401", nil, 0},
		} {
			told = 0
			resp, err := tt.h.Do(t.Context(), upstream.Request{Path: tt.path, Header: tt.head})
			if err != nil || told != tt.want {
				t.Errorf("%s, %v: told %d times, want %d (%v)", tt.path, tt.head, told, tt.want, err)
			}
			if refusal := upstream.CertificateRefused(b.http.Error(upstream.Request{}, resp, upstream.Unavailable)); refusal != (tt.path == "/401") {
				t.Errorf("%s is a refusal: %v", tt.path, refusal)
			}
			synctest.Wait() // until the connection is idle, and so is closed
			tt.h.Reset()
		}
		if upstream.CertificateRefused(nil) || upstream.CertificateRefused(errors.New("401")) {
			t.Error("what is no answer of an upstream is taken for a refusal")
		}
	})
}

// A server that ends the handshake over the certificate refuses it too, and one
// that is away does not.
func TestARefusedHandshakeIsARefusal(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	told := 0
	h, err := upstream.NewHTTP(upstream.HTTPConfig{Name: "pam", URL: srv.URL, CAs: pool, Refused: func() { told++ }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Do(t.Context(), upstream.Request{Path: "/x"}); !upstream.CertificateRefused(err) || told != 1 {
		t.Errorf("%v: told %d times", err, told)
	}
	srv.Close()
	if _, err := h.Do(t.Context(), upstream.Request{Path: "/x"}); err == nil || upstream.CertificateRefused(err) || told != 1 {
		t.Errorf("%v: told %d times", err, told)
	}
}

package upstreamtest

import (
	"crypto/x509"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"sort"
)

// Form reads the body of a request strictly: the content type has to be that of
// an HTML form and nothing may be left over or unreadable. The query is not
// looked at.
func Form(r *http.Request) (url.Values, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return nil, fmt.Errorf("content type %q: want application/x-www-form-urlencoded", media)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fmt.Errorf("body: not a form")
	}
	return form, nil
}

// Unknown returns the names of v that are not among known, sorted.
func Unknown(v url.Values, known ...string) []string {
	var names []string
	for name := range v {
		if !slices.Contains(known, name) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// ClientCertificate returns the certificate that the client proved to own by
// TLS, or nil if it showed none. Who issued it is not checked.
func ClientCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

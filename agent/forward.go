package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/signet-agent/signet/sinks/socket"
)

// maxReplay is the longest body that is held in memory to be sent a second time.
const maxReplay = 256 << 10

// forward sends a request with the agent's own credentials. An access token that
// is refused is thrown away, and the request made once more with another: one
// that is answered 401 was not carried out. A body too long to be held, or of
// unknown length, is sent once; what then becomes of a 401 is the caller's affair.
func (s *service) forward(r *http.Request) (*http.Response, error) {
	base := s.http.URL()
	r.URL.Scheme, r.URL.Host, r.Host, r.RequestURI = base.Scheme, base.Host, "", ""
	r.Header.Del("Authorization")
	if s.tokens == nil {
		return s.roundTrip(r)
	}
	again := r.ContentLength >= 0 && r.ContentLength <= maxReplay
	if again {
		if err := holdBody(r); err != nil {
			return nil, err
		}
	}
	for {
		t, err := s.tokens.Token(r.Context())
		if err != nil {
			return nil, err
		}
		try, err := attempt(r)
		if err != nil {
			return nil, err
		}
		t.SetAuthHeader(try)
		resp, err := s.roundTrip(try)
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
		s.tokens.Evict(t.AccessToken)
		if !again {
			return resp, nil
		}
		again = false
		_ = resp.Body.Close() // nothing of it is wanted
	}
}

// holdBody reads the body of a request so that it can be sent twice.
func holdBody(r *http.Request) error {
	if r.Body == nil {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return &refusal{socket.CodeInvalid, bodyTrouble(err)}
	}
	r.ContentLength = int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return nil
}

// attempt is a copy of a request, as a transport may look at the one before for
// as long as it likes.
func attempt(r *http.Request) (*http.Request, error) {
	try := r.Clone(r.Context())
	if r.GetBody == nil {
		return try, nil
	}
	var err error
	try.Body, err = r.GetBody()
	return try, err
}

// roundTrip makes one call. A body that is longer than it may be is the caller's
// fault, not the upstream's.
func (s *service) roundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.http.Transport().RoundTrip(r)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &refusal{socket.CodeInvalid, bodyTrouble(err)}
	}
	return resp, err
}

// bodyTrouble says what is wrong with the body that a caller sends.
func bodyTrouble(err error) string {
	if long, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Sprintf("the body is longer than %d bytes", long.Limit)
	}
	return "the body did not arrive: " + err.Error()
}

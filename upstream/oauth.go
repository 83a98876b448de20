package upstream

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/oauth2"
)

// TokenError turns what x/oauth2 returned for an exchange made with
// [HTTP.Client] into an *Error. x/oauth2's own error may print the whole body,
// which may hold a token; of it only the codes of RFC 6749 are kept.
func (h *HTTP) TokenError(op string, err error) *Error {
	refusal, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		if e, ok := errors.AsType[*Error](err); ok {
			named := *e
			named.Op = op
			return &named
		}
		e := &Error{Upstream: h.cfg.Name, Op: op, Code: Unavailable, Sent: true}
		if errors.Is(err, context.DeadlineExceeded) {
			e.Err = plain(err)
		} else {
			e.Text = "answer is not that of a token endpoint"
		}
		return e
	}
	e := &Error{
		Upstream: h.cfg.Name, Op: op, Code: Unavailable,
		Symbol: OneLine(refusal.ErrorCode), Text: OneLine(refusal.ErrorDescription),
	}
	if refusal.Response != nil {
		e.Status = refusal.Response.StatusCode
		e.RetryAfter = retryAfter(refusal.Response.Header, time.Now())
		e.Sent = e.Status >= 500
	}
	if e.Status == http.StatusTooManyRequests {
		e.Code = Busy
	}
	switch refusal.ErrorCode {
	// They are about who asks or with what, never about an item.
	case "invalid_client", "unauthorized_client", "invalid_grant":
		e.Remedy = "the upstream does not accept the agent's own credentials; check the upstream's auth section"
	}
	return e
}

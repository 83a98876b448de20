package socket

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// The codes of problems, as the API names them.
const (
	CodeDenied      = "denied"
	CodeNotFound    = "not-found"
	CodeExpired     = "expired"
	CodeUnavailable = "unavailable"
	CodeBusy        = "busy"
	CodeInvalid     = "invalid"
)

// A Problem is an error that callers are shown, as RFC 9457 has it. Detail and
// Hint must not hold a value, nor the body of an upstream's answer.
type Problem struct {
	Code   string // one of the Code constants
	Detail string // what, on what, why
	Hint   string // what to do about it, or ""
	// RetryAfter is how long to wait before the next try, or 0.
	RetryAfter time.Duration
}

func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Code
	}
	return p.Detail
}

// Status is the HTTP status of the problem.
func (p *Problem) Status() int {
	switch p.Code {
	case CodeDenied:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeBusy:
		return http.StatusTooManyRequests
	case CodeInvalid:
		return http.StatusBadRequest
	case codeMethod:
		return http.StatusMethodNotAllowed
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusServiceUnavailable
}

// These are shown as "invalid", with a status that says more.
const (
	codeMethod   = "invalid-method"
	codeTooLarge = "invalid-size"
)

// public is the code as callers see it.
func (p *Problem) public() string {
	if p.Code == codeMethod || p.Code == codeTooLarge {
		return CodeInvalid
	}
	return p.Code
}

func invalid(detail string) *Problem { return &Problem{Code: CodeInvalid, Detail: detail} }

// asProblem turns any error into one that callers may see. What the agent did
// not mean for them is hidden; ok is false then, and the error has to be logged.
func asProblem(err error) (p *Problem, ok bool) {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p, true
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Problem{Code: codeTooLarge, Detail: "the body is longer than " + strconv.FormatInt(e.Limit, 10) + " bytes"}, true
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Problem{Code: CodeUnavailable, Detail: "not done within the time limit", Hint: "`signet status` says how it stands"}, true
	}
	if errors.Is(err, context.Canceled) {
		return &Problem{Code: CodeUnavailable, Detail: "the request was given up, or the agent is stopping"}, true
	}
	return &Problem{Code: CodeUnavailable, Detail: "the agent could not do it; its log says why"}, false
}

// render is the body of an answer that is the problem.
func (p *Problem) render(status int, id string) []byte {
	body, err := json.Marshal(struct {
		Type    string `json:"type"`
		Title   string `json:"title"`
		Status  int    `json:"status"`
		Code    string `json:"code"`
		Detail  string `json:"detail,omitempty"`
		Hint    string `json:"hint,omitempty"`
		Request string `json:"request,omitempty"`
	}{"about:blank", http.StatusText(status), status, p.public(), p.Detail, p.Hint, id})
	if err != nil { // strings and a number cannot fail
		body = []byte("{}")
	}
	return append(body, '\n')
}

// write sends the problem as the answer.
func (p *Problem) write(w http.ResponseWriter, id string) {
	status := p.Status()
	h := w.Header()
	h["Content-Type"] = problemType
	h["Cache-Control"] = noStore
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(p.render(status, id)) // a caller who is gone needs no answer
}

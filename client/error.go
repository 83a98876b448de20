package client

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Code is the kind of a failure.
type Code string

// The codes of the agent.
const (
	Denied      Code = "denied"      // policy does not let this caller, or the upstream does not let the agent
	NotFound    Code = "not-found"   // there is no such item
	Expired     Code = "expired"     // the agent's value is too old to be used, and it can get no newer one
	Unavailable Code = "unavailable" // the agent, the HSM or the upstream does not answer
	Busy        Code = "busy"        // asked too often; see RetryAfter
	Invalid     Code = "invalid"     // the request makes no sense; asking again will not help
)

// An Error is a call to the agent that failed. It never holds a value.
type Error struct {
	What   string // what was asked for: `secret "db"`
	Code   Code
	Status int    // HTTP status of the agent's answer; 0 if there was none
	Detail string // the agent's own sentence on what is wrong
	Hint   string // what somebody can do about it, or ""
	// RetryAfter is how long the agent asks to wait, or 0.
	RetryAfter time.Duration
	Err        error // the cause below where there was no answer; may be nil
}

func (e *Error) Error() string {
	parts := []string{e.What}
	if e.Err == nil {
		parts = append(parts, string(e.Code))
	}
	// The agent may begin its sentence with the item or the code as well.
	detail := e.Detail
	for _, said := range parts {
		detail = strings.TrimPrefix(detail, said+": ")
	}
	if detail != "" && detail != string(e.Code) && detail != e.What {
		parts = append(parts, detail)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

func (e *Error) Unwrap() error { return e.Err }

// CodeOf reports the code of the Error in err's chain, and "" if there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// definite reports whether the agent has said that the caller can not have the
// item, in contrast to not having been able to say anything.
func definite(err error) bool {
	switch CodeOf(err) {
	case Denied, NotFound, Expired, Invalid:
		return true
	}
	return false
}

// problem reads an error of RFC 9457 from an answer.
func problem(what string, resp *http.Response) *Error {
	e := &Error{What: what, Status: resp.StatusCode}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	var p struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
		Code   Code   `json:"code"`
		Hint   string `json:"hint"`
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == "application/problem+json" || kind == "application/json" {
		if b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)); err == nil {
			_ = json.Unmarshal(b, &p) // what is missing is made up for below
		}
	}
	e.Code, e.Detail, e.Hint = p.Code, p.Detail, p.Hint
	if e.Code == "" {
		e.Code = codeOfStatus(resp.StatusCode)
	}
	if e.Detail == "" {
		e.Detail = p.Title
	}
	if e.Detail == "" {
		e.Detail = "HTTP " + strconv.Itoa(resp.StatusCode)
	}
	return e
}

// codeOfStatus is the code of an answer that does not state one.
func codeOfStatus(status int) Code {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Denied
	case status == http.StatusNotFound:
		return NotFound
	case status == http.StatusTooManyRequests:
		return Busy
	case status >= 400 && status < 500:
		return Invalid
	}
	return Unavailable
}

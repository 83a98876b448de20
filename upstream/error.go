package upstream

import (
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Code is the kind of a failure, by which the agent decides what to do.
type Code string

// The codes. Their text is the `code` of the socket API where it has one.
const (
	Denied      Code = "denied"      // a definite refusal: the value is purged
	NotFound    Code = "not-found"   // there is no such item, or no more: the value is purged
	Unavailable Code = "unavailable" // no answer, or none that says anything of the item: tried again
	Busy        Code = "busy"        // asked too often; see RetryAfter
	Invalid     Code = "invalid"     // the upstream refuses the request as it is; asking again will not help
	Lost        Code = "lost"        // a single-use call was carried out and its answer lost: an administrator is needed
)

// An Error is a failed call to an upstream. It never holds a body, a token, or
// a URL with a query.
type Error struct {
	Upstream string // as configured: "pam"
	Op       string // "get access token", "read credential", "register certificate"
	Item     string // what on: "robot-test-5"; "" where there is none
	Code     Code
	Status   int    // HTTP status; 0 if no answer came
	Symbol   string // the vendor's own code: "1007", "NCERRResourceNotFound", "duplicate"
	Text     string // the vendor's own sentence, one line, at most 200 bytes
	// RequestID is what the upstream calls this call in its own log, or "".
	RequestID string
	// RetryAfter is how long the upstream asks to wait, or 0.
	RetryAfter time.Duration
	// Sent says that the request may have been carried out although no answer
	// came back.
	Sent bool
	// Remedy is what an operator can do about it, or "".
	Remedy string
	Err    error // the cause below, such as a time-out; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(`upstream "` + e.Upstream + `": ` + e.Op)
	if e.Item != "" {
		b.WriteString(" " + strconv.Quote(e.Item))
	}
	if e.Status != 0 {
		b.WriteString(": HTTP " + strconv.Itoa(e.Status))
	}
	if e.Symbol != "" && !strings.HasPrefix(e.Text, e.Symbol) {
		b.WriteString(": " + e.Symbol)
	}
	if e.Text != "" {
		b.WriteString(": " + e.Text)
	}
	if e.RequestID != "" {
		b.WriteString(" (request " + e.RequestID + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Hint says what an operator can do about it, or "".
func (e *Error) Hint() string { return e.Remedy }

// CodeOf reports the code of the Error in err's chain. Any other error says
// nothing of the item, so it counts as Unavailable.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Unavailable
}

// CodeOfStatus is what an HTTP status means where the vendor says nothing more
// precise. A 401 says nothing of the item: it is about who asks.
func CodeOfStatus(status int) Code {
	switch status {
	case 403:
		return Denied
	case 404, 410:
		return NotFound
	case 429:
		return Busy
	case 400, 405, 409, 413, 415, 422:
		return Invalid
	}
	return Unavailable
}

// OneLine makes a vendor's sentence fit for Error.Text: one line of printable
// text, at most 200 bytes.
func OneLine(s string) string {
	const limit = 200
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= limit {
		return s
	}
	s = s[:limit-len("…")]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

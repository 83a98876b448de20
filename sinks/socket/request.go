package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// Header values that are the same in every answer.
var (
	jsonType    = []string{"application/json"}
	rawType     = []string{"application/octet-stream"}
	linesType   = []string{"application/jsonl"}
	problemType = []string{"application/problem+json"}
	noStore     = []string{"no-store"}
)

// A request is one request while it is answered.
type request struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	peer   *access.Peer
	name   string // second segment of the path, decoded
	rest   string // of a proxy: the path at the upstream, as it was sent
	start  time.Time
	status int // of the answer; 0 until there is one

	entry    access.Entry // what the audit will say
	recorded bool
	unknown  bool // no rule of the policy is about the caller, who is given nothing
	always   bool // it is answered even if that cannot be recorded
}

// authorize asks policy, and then whether the access could be recorded. The
// event and the item are what the audit will say.
func (q *request) authorize(event string, a access.Action) error {
	return q.authorizeFor(event, a, a.Kind, a.Name)
}

// authorizeAdmin is authorize for what only administrators may do with an item.
func (q *request) authorizeAdmin(event string, kind access.Kind, name string) error {
	return q.authorizeFor(event, access.Action{Kind: access.Admin}, kind, name)
}

func (q *request) authorizeFor(event string, a access.Action, kind access.Kind, name string) error {
	q.entry.Event, q.entry.Kind, q.entry.Name = event, kind, name
	d := q.s.cfg.Policy.Decide(q.peer, a)
	if !d.Allowed {
		return q.denied(a)
	}
	q.entry.By = d.By
	if q.s.cfg.Audit.Refusing() && !q.always {
		return q.unrecorded()
	}
	return nil
}

func (q *request) denied(a access.Action) *Problem {
	what := a.Kind.String() + " " + strconv.Quote(a.Name)
	if a.Kind == access.Admin {
		what = "administration"
	}
	return &Problem{Code: CodeDenied, Detail: what + ": no rule of the policy allows it to this caller",
		Hint: "see `policy:` in the configuration; `signet policy explain` tells which rule decides"}
}

// record writes the access down as granted. Only what was recorded may be
// answered.
func (q *request) record(status int) error {
	if q.recorded {
		return nil
	}
	q.entry.Status, q.entry.Outcome = status, "ok"
	q.entry.Duration = time.Since(q.start)
	var err error
	if q.unknown { // an empty answer is as good as a refusal
		if err = q.s.cfg.Audit.Err(); !q.s.cfg.Audit.Refusing() {
			err = q.s.refusals.add(&q.entry)
		}
	} else {
		err = q.s.cfg.Audit.Append(&q.entry)
	}
	if err != nil && !q.always {
		return q.unrecorded()
	}
	q.recorded = true
	return nil
}

// unrecorded refuses what cannot be recorded. The refusal itself cannot be
// recorded either.
func (q *request) unrecorded() *Problem {
	q.recorded = true
	return &Problem{Code: CodeUnavailable, Detail: "the access cannot be recorded, so it is refused",
		Hint: "an administrator has to look at the audit file; the agent's log says what is wrong"}
}

// fail answers with an error and records the refusal.
func (q *request) fail(err error) {
	p, known := asProblem(err)
	if q.entry.Name != "" && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		p.Detail = q.entry.Kind.String() + " " + strconv.Quote(q.entry.Name) + ": " + p.Detail
	}
	if !known {
		q.s.cfg.Log.Warn("request not answered", "event", q.entry.Event, "name", q.entry.Name, "request", q.entry.ID, "err", err)
	}
	if q.status != 0 { // the answer has begun; it can only be broken off
		panic(http.ErrAbortHandler)
	}
	q.status = p.Status()
	if !q.recorded {
		if q.entry.Event == "" { // it did not come as far as a resource
			q.entry.Event, q.entry.Path = "request.refused", q.r.URL.EscapedPath()
		}
		q.entry.Status, q.entry.Outcome, q.entry.Error = q.status, p.public(), p.Detail
		q.entry.Duration = time.Since(q.start)
		if err := q.s.refusals.add(&q.entry); err != nil {
			q.s.cfg.Log.Debug("refusal not recorded", "err", err)
		}
	}
	p.write(q.w, q.entry.ID)
}

// send answers with a body that is ready. A caller who is gone needs no answer.
func (q *request) send(status int, contentType []string, body []byte) {
	q.status = status
	h := q.w.Header()
	h["Content-Type"] = contentType
	h["Cache-Control"] = noStore
	if len(body) >= 2048 { // shorter ones net/http counts itself
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	q.w.WriteHeader(status)
	_, _ = q.w.Write(body)
}

// sendJSON records the access and answers with v.
func (q *request) sendJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	q.send(http.StatusOK, jsonType, b.Bytes())
	return nil
}

// params are the parameters in the query, none but these; nil if there is no query.
func (q *request) params(known ...string) (url.Values, error) {
	if q.r.URL.RawQuery == "" {
		return nil, nil
	}
	v, err := url.ParseQuery(q.r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query is not encoded correctly")
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		if !slices.Contains(known, key) {
			return nil, invalid("there is no parameter " + strconv.Quote(key))
		}
	}
	return v, nil
}

// decode reads a JSON body, strictly: one object, no unknown members. An empty
// body is an empty object. What has a body has no parameters.
func (q *request) decode(v any) error {
	if _, err := q.params(); err != nil {
		return err
	}
	if t := q.r.Header.Get("Content-Type"); t != "" {
		// Programs that set no type send that of a form, such as curl -d. That of
		// a browser would pass, but for its other headers: see checkOrigin.
		media, _, err := mime.ParseMediaType(t)
		if err != nil || media != "application/json" && media != "application/x-www-form-urlencoded" {
			return invalid("the body is " + strconv.Quote(t) + ", not application/json")
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, maxBody))
	if err == nil { // the deadline was for the body; left there, it would end the request
		err = q.receive(0)
	}
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return err
		}
		return invalid("the body cannot be read, or not within " + bodyTimeout.String())
	}
	return decodeStrict(body, v)
}

// receive gives the caller so much time for the body; 0 is no limit. What is not
// read of it net/http reads before it answers.
func (q *request) receive(d time.Duration) error {
	if q.r.ContentLength == 0 {
		return nil
	}
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	return http.NewResponseController(q.w).SetReadDeadline(until)
}

// decodeStrict does not quote the body in its errors: it may hold a password.
func decodeStrict(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return invalid("the body is not the JSON object that is wanted here")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("there is something after the JSON object")
	}
	return nil
}

// within gives the answer more time than others have.
func (q *request) within(d time.Duration) {
	rc := http.NewResponseController(q.w)
	if err := rc.SetWriteDeadline(time.Now().Add(d + writeTimeout)); err != nil {
		q.s.cfg.Log.Debug("write deadline not set", "err", err)
	}
}

// stopping is done when the server is asked to stop.
func (q *request) stopping() context.Context {
	ctx, ok := q.r.Context().Value(stopKey{}).(context.Context)
	if !ok {
		return context.Background()
	}
	return ctx
}

var errStopping = &Problem{Code: CodeUnavailable, Detail: "the agent is stopping", RetryAfter: time.Second}

package senhasegura

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/signet-agent/signet/upstream"
)

// An envelope is what surrounds every answer, in its old form (3.21) and its
// new one (3.32), and what the vault's gateway answers in its place.
type envelope struct {
	// Response is nil in answers of the gateway.
	Response *struct {
		Status    scalar `json:"status"`
		Message   scalar `json:"message"`
		Mensagem  scalar `json:"mensagem"`
		Menssage  scalar `json:"menssage"` // so written by one call
		Error     scalar `json:"error"`
		Erro      scalar `json:"erro"`
		ErrorCode scalar `json:"error_code"`
	} `json:"response"`
	Exception *struct {
		Code    scalar `json:"code"`
		Message scalar `json:"message"`
	} `json:"exception"`
	// Message is the gateway's.
	Message scalar `json:"message"`
}

// status is the status of the answer: that of HTTP, unless the envelope knows
// of a worse one. Some calls answer 200 with 400 inside.
func (e *envelope) status(http int) int {
	if http >= 400 || e.Response == nil {
		return http
	}
	if inner, err := strconv.Atoi(e.Response.Status.text()); err == nil && inner >= 400 {
		return inner
	}
	return http
}

// failed reports whether the answer is an error. The flag "error" alone is not
// enough: some calls leave it false when they fail.
func (e *envelope) failed(status int) bool {
	if status < 200 || status > 299 {
		return true
	}
	return e.Response != nil && (e.Response.Error.truth() || e.Response.Erro.truth())
}

// text is the vault's own sentence, fit for a log.
func (e *envelope) text() string {
	if e.Response == nil {
		return upstream.OneLine(e.Message.text())
	}
	for _, s := range []scalar{e.Response.Message, e.Response.Mensagem, e.Response.Menssage} {
		if !s.empty() {
			return upstream.OneLine(s.text())
		}
	}
	return ""
}

// The number in front of a message: "1007: Credential not found", "1017:Key inactive".
var numbered = regexp.MustCompile(`^(\d+):\s*`)

// code is the vault's number of the error, or 0.
func (e *envelope) code() int {
	if e.Exception != nil {
		if n, err := strconv.Atoi(e.Exception.Code.text()); err == nil {
			return n
		}
	}
	if m := numbered.FindStringSubmatch(e.text()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return 0
}

// The texts by which the vault and its gateway say what no number says.
const (
	inactiveAuthorization = "Inactive authorization"
	noRoute               = "no Route matched with those values"
)

var (
	errNotJSON  = errors.New("the answer is not the JSON that is expected")
	errRedirect = errors.New("the answer is a redirect, which is not followed")
)

// read decodes the body of an answer into into and reports what the vault
// refused, as an Error of which Op and the like are still to be filled in.
func read(m module, res *upstream.Response, into any) *upstream.Error {
	var env envelope
	broken := json.Unmarshal(res.Body, &env)
	status := env.status(res.Status)
	if env.failed(status) {
		return refusal(m, status, &env)
	}
	if broken == nil && into != nil {
		broken = json.Unmarshal(res.Body, into)
	}
	// A body that is left out altogether is fine where nothing is wanted of it.
	if broken != nil && (into != nil || len(res.Body) != 0) {
		// Not the decoder's own error: it quotes from the body.
		return &upstream.Error{Code: upstream.Unavailable, Status: res.Status, Err: errNotJSON}
	}
	return nil
}

// refusal classifies an answer that is an error.
func refusal(m module, status int, env *envelope) *upstream.Error {
	e := &upstream.Error{Status: status, Text: env.text()}
	code := env.code()
	if code != 0 {
		e.Symbol = strconv.Itoa(code)
	}
	switch {
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		e.Code = upstream.Unavailable
	case status >= 300 && status < 400:
		e.Code, e.Err = upstream.Unavailable, errRedirect
		e.Remedy = "check the upstream's url: it should be scheme and host only"
	case status == http.StatusUnauthorized:
		// Says something of the caller, not of the item, unless an administrator
		// switched the whole authorization off.
		e.Code = upstream.Unavailable
		e.Remedy = "check client_id, client_secret and the client certificate pinned on the authorization"
		if strings.EqualFold(e.Text, inactiveAuthorization) {
			e.Code = upstream.Denied
			e.Remedy = "the authorization was switched off at the vault; ask its administrator"
		}
	case status == http.StatusForbidden:
		e.Code = upstream.Denied
		e.Remedy = "check the authorization's resources, allowed IPs and referers at the vault"
	case status == http.StatusNotFound && env.Response == nil && e.Text == noRoute:
		// The gateway did not even reach the vault's own code, so it cannot know
		// of the item. Purging on this would turn a gateway that is being
		// restarted into an outage.
		e.Code = upstream.Unavailable
		e.Remedy = "check the upstream's url; the vault's gateway knows no such path"
	case status == http.StatusNotFound:
		e.Code = upstream.NotFound
	default:
		e.Code = meaning(m, code, status)
	}
	return e
}

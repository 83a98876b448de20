package ciphertrust

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/signet-agent/signet/upstream"
)

// An explanation is the body of a refusal. The number in it is not looked at:
// releases differ in it.
type explanation struct {
	CodeDesc  string `json:"codeDesc"`
	Message   string `json:"message"`
	RequestID string `json:"requestID"`
}

// symUnauthorizedAccess is what a refused login says that gives a reason.
const symUnauthorizedAccess = "NCERRUnauthorizedAccess"

// explain adds to an error what the server says in its body.
func explain(e *upstream.Error, resp *upstream.Response) {
	var x explanation
	if json.Unmarshal(resp.Body, &x) != nil {
		return
	}
	symbol, text, _ := strings.Cut(x.CodeDesc, ":")
	e.Symbol = upstream.OneLine(symbol)
	e.Text = upstream.OneLine(text)
	if x.Message != "" {
		e.Text = upstream.OneLine(x.Message)
	}
	e.RequestID = upstream.OneLine(x.RequestID)
}

// refusal is the error for an answer that is not a success.
func (c *Client) refusal(k call, resp *upstream.Response) *upstream.Error {
	e := c.failed(k, upstream.CodeOfStatus(resp.Status), "")
	e.Status = resp.Status
	e.Sent = resp.Status >= 500 // it may have been carried out in part
	explain(e, resp)
	switch resp.Status {
	case http.StatusUnauthorized:
		e.Remedy = whyUnauthorized(e)
	case http.StatusForbidden:
		e.Remedy = "the agent's user at the CipherTrust Manager lacks the permission; its administrator can add the user to a group that has it"
	}
	return e
}

// whyUnauthorized says what a refused credential may mean.
func whyUnauthorized(e *upstream.Error) string {
	if e.Symbol == symUnauthorizedAccess && strings.EqualFold(e.Text, "Invalid Client") {
		return "the CipherTrust Manager does not accept the client certificate; check that its CA is trusted by the web interface, that it is not revoked, and that a client or user with its subject exists"
	}
	return "the CipherTrust Manager does not accept the agent's credentials; check the upstream's auth section, and whether the user is locked or has to change the password"
}

// is reports whether an error is an answer of that status.
func is(err error, status int) bool {
	e, ok := asError(err)
	return ok && e.Status == status
}

// gone reports whether an error says that there is nothing to revoke or delete
// any more.
func gone(err error) bool {
	return is(err, http.StatusUnauthorized) || is(err, http.StatusNotFound)
}

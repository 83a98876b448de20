package senhasegura

import "github.com/signet-agent/signet/upstream"

// A module is a part of the web service. Error numbers are its own: 1005 is a
// missing IP in one and a missing password in another.
type module string

const (
	login module = "oauth2"
	pam   module = "pam"
	dsm   module = "dapp"
)

// A number is the name of an error: its number within its module.
type number struct {
	module module
	code   int
}

// notInCustody is what a release is answered that comes too late or twice.
const notInCustody = "1018"

// meanings are the numbers that say something definite. All of them come with
// HTTP 400, and none is worth a retry.
var meanings = map[number]upstream.Code{
	{pam, 1007}: upstream.NotFound, // credential; also: no access to it
	{pam, 1009}: upstream.Denied,   // credential or key
	{pam, 1011}: upstream.NotFound, // device
	{pam, 1015}: upstream.NotFound, // SSH key
	{pam, 1017}: upstream.NotFound, // credential or key is inactive
	{pam, 1023}: upstream.NotFound, // information
	{pam, 1024}: upstream.NotFound, // information is inactive
	{pam, 1039}: upstream.Denied,   // a write with a read-only authorization
}

// meaning is what an error means to the agent.
func meaning(m module, code, status int) upstream.Code {
	if c, ok := meanings[number{m, code}]; ok {
		return c
	}
	if status >= 400 {
		return upstream.Invalid
	}
	return upstream.Unavailable // flagged as an error, and nothing said of why
}

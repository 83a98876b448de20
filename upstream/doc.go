// Package upstream talks to the services that tokens, secrets and certificates
// come from. It holds what their clients share: one kind of error, one HTTP
// client, one source of access tokens. Each vendor's client is a package below
// this one, with its simulator in a package beside it.
package upstream

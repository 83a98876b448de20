// Package senhaseguratest is a simulator of senhasegura's A2A web service.
//
// It is strict: a call without a token, with a token that is not its own, from
// an address or with a client certificate that the authorization does not
// allow, for a resource that the authorization has not, or to a path that is
// none, gets what the product would answer. It keeps the product's API log.
//
// # Rotation
//
// A credential whose password the vault changes by itself is given an interval.
// Passwords follow from the clock alone: they change at the very second that
// expiration_time has named, also while nobody asks, and a simulator that was
// killed comes back with the password that it would have by then.
//
// # State
//
// With Config.State set, what an operator changes survives a restart. Access
// tokens do not: the key that signs them is made anew, as after a fail-over.
package senhaseguratest

// Package managertest is a simulator of the Manager with locked vaults: the
// JSON REST API of which package manager is the client, written from the
// product's description and not from the client.
//
// It is strict. A wrong verb, content type, or parameter name is refused; one-time
// credentials work once; a certificate of another CA, a revoked or expired one,
// or one of a disabled account is answered 401 without saying why, as products
// do. What the Manager has promised in an answer is on disk before the answer
// where Config.StateFile is set, so that a simulator may be killed at any time.
package managertest

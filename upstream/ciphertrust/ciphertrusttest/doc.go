// Package ciphertrusttest is a simulator of Thales CipherTrust Manager's REST
// API v1: tokens, users and groups, certificate authorities, secrets, clients,
// properties. It was written from what is public about the product, and not
// from the client in package ciphertrust.
//
// It is strict. An unknown field, a token of another domain, a login beyond the
// lifetime of its refresh token, a certificate that is revoked or whose CA is
// barred from logging users in, an installed certificate for another key: each
// gets the answer that the product would give. Certificates are real ones.
//
// # What the product does not tell
//
// Where nothing is published the simulator takes the reading that is harder for
// a client:
//
//   - Changing a password, or locking a user, ends what refresh tokens of that
//     user can do: for good after a change, until the lock is gone otherwise.
//   - A renewed refresh token keeps the absolute end of the one it replaces.
//   - Groups take effect with the next token, since a token carries them.
//   - Five wrong passwords in a row lock a user for half an hour.
//   - A certificate cannot outlive its CA: asking for it is refused.
//   - What is not Active can still be exported, until it is destroyed; it is the
//     client that has to look at the state.
//
// # State
//
// With Config.StateFile set, what an answer has promised is on disk before the
// answer, so that a simulator may be killed at any time. JWTs stay valid across
// a restart, as the key that signs them is kept.
package ciphertrusttest

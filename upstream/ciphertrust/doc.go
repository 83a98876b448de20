// Package ciphertrust speaks with a Thales CipherTrust Manager by its REST API,
// version 1.
//
// A [Client] makes the calls: secrets, certificates, users, groups, CAs, tokens
// and properties. A [Login] is what makes it welcome: it gets the short API
// tokens (JWT) and looks after the refresh token behind them.
//
// # Refresh tokens
//
// An agent has one refresh token. It is kept by a [Keeper] before it is used,
// used again after a restart, used often enough to stay within its idle limit,
// and always asked for with both limits. All tokens of an agent carry its own
// label; after a login whose answer was lost, those that nobody knows are
// deleted by it.
//
// # When the server refuses
//
// What goes wrong is an [upstream.Error], judged by the HTTP status and then by
// the symbol before the colon of codeDesc, never by the number. Only Denied and
// NotFound say anything of an item. A password that is refused is not tried
// again at once: the server would lock the user.
//
// # Calls through the agent
//
// A Client whose HTTP goes through the agent's proxy has no token at all, so that
// an administrator's shell never holds one.
//
// # Concurrency
//
// All methods may be called from several goroutines. Iterators are for one.
package ciphertrust

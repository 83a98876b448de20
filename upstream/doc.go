// Package upstream talks to the services that tokens, secrets and certificates
// come from. It holds what their clients share: one kind of error, one HTTP
// client, one source of access tokens. Each vendor's client is a package below
// this one, with its simulator in a package beside it.
//
// # Calls
//
// An [HTTP] believes one upstream's CAs, shows one client certificate, follows
// no redirects and reads bounded answers. What it answers is whole; what says
// nothing of the item asked for is an [Error]. A call that may have been carried
// out is made again only if its Request says that this is harmless, and
// Error.Sent is true whenever the upstream may have acted.
//
// # When the upstream fails
//
// An Error's Code says what the failure means for the item: only [Denied] and
// [NotFound] are about it. Anything else leaves what the agent has in place. No
// error holds a body, a token, or a query.
//
// # Access tokens
//
// A [TokenSource] renews its token ahead, makes one fetch at a time, and never
// puts an older token in the place of a newer one.
//
// # Concurrency
//
// HTTP and TokenSource may be used from several goroutines.
package upstream

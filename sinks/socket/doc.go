// Package socket serves the agent's items to local apps: HTTP/1.1 and JSON over
// a Unix socket.
//
// A [Server] answers from what was published to it. Each item is an immutable
// snapshot behind an atomic pointer, rendered when it was published, so a read
// takes no lock, waits for no disk and asks nobody. Whether an item is stale or
// expired is worked out from the clock at the moment of the read. Everything
// that is not a published item the server asks of its [Backend].
//
// # Who gets what
//
// The process at the other end is identified once per connection. Policy is
// asked before anything else, so a caller cannot find out which names exist.
// An access is recorded before it is answered; if it cannot be recorded, it is
// refused, but for what an operator needs to find out why. A refusal is answered
// as such each time; many of one caller share a line of the audit, which counts
// them. Requests that a browser would send, or that name a foreign host, are
// refused whatever their caller may do: over a Unix socket they come from some
// TCP forwarder.
//
// # Waiting
//
// A read waits in three cases only, and always for a bounded time: the item was
// never fetched yet or has expired (it then joins Backend.Fetch), the caller
// reports a value as refused, or the caller asks to wait for another version.
// Slow readers are cut off by deadlines; a reader of events that falls behind
// is told to read everything anew.
package socket

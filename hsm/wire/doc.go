// Package wire is what the daemon and its PKCS#11 worker say to each other.
//
// They share a connected stream socket. Each message is one frame:
//
//	u32 length of what follows | u64 request id | u8 operation | payload
//
// A reply carries the id of its request and the same operation, or [OpError]
// with an [Error]. Requests may be sent without waiting for replies, and
// replies come in any order. Payloads are JSON.
//
// Signing is what happens all day. It has connections of its own, two pipes for
// each session on the token, see [Lane], and its requests are packed.
//
// The package holds no logic: the daemon decides, the worker carries out.
package wire

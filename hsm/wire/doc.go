// Package wire is what the daemon and its PKCS#11 worker say to each other.
//
// They share a connected stream socket. Each message is one frame:
//
//	u32 length of what follows | u64 request id | u8 operation | payload
//
// A reply carries the id of its request and the same operation, or [OpError]
// with an [Error]. Requests may be sent without waiting for replies, and
// replies come in any order. Payloads are JSON, except those of [OpSign], which
// are packed, because signing is what happens all day.
//
// The package holds no logic: the daemon decides, the worker carries out.
package wire

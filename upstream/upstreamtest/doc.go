// Package upstreamtest is what every simulator of an upstream stands on: a
// clock that can be set, faults that can be switched on, a log of calls, a CA,
// TLS, and a control handler by which an operator rehearses an outage.
//
// A simulator is a strict product: it refuses what the real one refuses. This
// package therefore decides nothing about any vendor's API.
//
// # State
//
// A simulator process is killed and started again in tests and rehearsals. What
// it has promised in an answer has to be true afterwards, so simulators call
// [Save] before they answer, and [LoadCA] keeps their CA.
//
// # Concurrency
//
// All types may be used from several goroutines. Their zero values work unless
// they say otherwise.
package upstreamtest

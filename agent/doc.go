// Package agent decides what must be fresh, and when, and sees to it: it reads
// the configuration, keeps a record for each certificate and each secret, takes
// the next step of each, and publishes what came of it to the sinks.
//
// Data goes one way: from the upstreams through the agent to the sinks. Nobody
// calls the agent but the program that runs it, a signal, and the socket on an
// app's or an operator's behalf.
//
// Every fact has one owner. A certificate's record belongs to the goroutine of
// its rotator, the secrets' records to the refresher; others see immutable
// snapshots. What cannot be taken back is on disk before it is done, so each
// step may be the last one before a power cut.
package agent

// Package consumers makes local services notice that their files have changed,
// and sees to it that they did.
//
// That a command succeeded says little: a reload may be refused, ignored, or
// carried out with the old files. So a change goes through up to three steps:
// a test of the new files, the reload, and a proof that connects to the consumer
// and compares the certificate that it serves. When one fails, the previous
// files come back, the consumer is reloaded with them, somebody is told, and
// the new files are tried again later, ever less often. A secret that its upstream
// has replaced does not come back, see [Files].
//
// # Durable
//
// [Consumers.Writing] notes that a reload is due before the file changes, and
// the note goes only after the reload succeeded. A crash in between is made up
// for at the next start, by whoever is told of the file then: a consumer whose name
// was corrected has not lost what the wrong one could not do.
//
// # One at a time
//
// A consumer has one entry in the queue, whatever number of its files changed:
// a burst is one reload. Consumers do not wait for each other, and every step
// has a time limit at which its processes are killed.
//
// # One version at a time
//
// A consumer that is told reads a certificate and its key one after the other. So
// that both are of one delivery, [Consumers.InTurn] has a newer one wait until a
// proof shows that they are read, and the consumer is told when no delivery is half
// made. Neither waits for long.
//
// # A consumer that does not run
//
// A consumer that is stopped has nothing to reload, and reads its files when it
// is started: that is noted and nothing else happens. Stopped is a unit that is
// inactive, a pid file or a socket that is not there, a socket that nobody
// listens on. Where a proof is configured it fails, as there is nobody who could
// give it. A unit that has crashed, and a process that is gone though its pid file
// is there, are failures always.
//
// # Concurrency
//
// All methods may be called from several goroutines.
package consumers

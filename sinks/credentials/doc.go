// Package credentials answers LoadCredential=NAME:/run/signet/credentials.sock
// of systemd units with secrets and certificates.
//
// The service manager connects once per credential, sends nothing, and takes
// what it reads until the end for the credential. It says in the address that it
// connects from which unit and which credential it is about.
//
// # Who is asking
//
// Anybody can bind such an address. It is believed only if the process that
// connected is root's and is, by the kernel's word, in the cgroup of the very
// unit that the address names. What a unit gets is said by the rules of the
// policy that name the unit; rules about users and groups do not count, as the
// process is the service manager's and not yet the service's.
//
// # Failing closed
//
// The protocol has no way to say no: a connection that is closed is an empty
// credential, and the unit starts with it. A refusal is therefore an answer that
// is longer than the service manager accepts, upon which the unit does not
// start. Why is in the log and in the audit.
//
// While a unit waits, somebody else holds its connection too, so that a crash
// does not close it; see Config.Hold.
//
// # At boot
//
// A unit that starts before the first fetch waits, as does its credential, up to
// Config.Wait. A definite refusal by the upstream ends that at once.
package credentials

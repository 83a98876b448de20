// Package access knows who is asking, whether they may, and keeps the record of
// it.
//
// [Identify] says which process connected to a Unix socket: its user, its
// groups and, where that can be known safely, its systemd unit. A [Policy] is
// compiled from the rules of the configuration and decides; what no rule allows
// is denied. An [Audit] writes one line per access, each carrying the hash of
// the one before it.
//
// # What is trusted
//
// The kernel states uid, gid and groups as they were at connect(), so a socket
// that was handed on keeps its first owner. The unit is read from /proc and is
// believed only if the process that connected is seen to be alive afterwards
// ([Peer.How] says how); otherwise the unit is empty, and rules that name units
// do not match. A caller is never taken for more than was proven.
//
// # Speed
//
// A connection is identified once. A decision is two map look-ups and allocates
// nothing. A line for the audit is formatted by the caller and copied to a
// buffer in memory; writing it to the disk is another goroutine's work, so a
// slow disk delays nobody until the buffer is full.
package access

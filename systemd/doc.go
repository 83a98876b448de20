// Package systemd speaks with the service manager that the agent runs under:
// it tells how the agent stands, takes over the sockets that were opened for
// it, and writes to the journal.
//
// Away from systemd everything here does nothing, or the plain thing: no
// notification is sent, there are no sockets, and the log goes to standard
// error as text.
//
// The unit files of the agent lie in this directory too, and testbed.sh boots a
// real systemd to try them in.
package systemd

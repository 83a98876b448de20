package systemd

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// heldPrefix begins the names of connections in the service manager's store.
const heldPrefix = "held-"

// Hold gives the service manager a copy of a connection to keep until release is
// called. Should the process be killed, the connection is not closed, and the
// next process gets it from Listeners. Where there is no service manager, or its
// unit has no FileDescriptorStoreMax=, that does nothing.
func (n *Notifier) Hold(c *net.UnixConn) (release func(), err error) {
	to := os.Getenv("NOTIFY_SOCKET")
	if n == nil || to == "" {
		return func() {}, nil
	}
	name := heldPrefix + rand.Text()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) { err = store(to, name, int(fd)) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("keep a connection over a crash: %w", err)
	}
	return func() { n.Release(name) }, nil
}

// Release has the service manager close its copies of the connection of that
// name, also while the service stops.
func (n *Notifier) Release(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.transmit("FDSTOREREMOVE=1\nFDNAME=" + name)
}

// store sends a descriptor. go-systemd has no way to do so.
func store(to, name string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	err = unix.Sendmsg(s, []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(fd), &unix.SockaddrUnix{Name: to}, 0)
	return os.NewSyscallError("sendmsg", err)
}

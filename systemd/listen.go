package systemd

import (
	"fmt"
	"net"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// The names of the sockets that the agent's socket units hand over, as
// FileDescriptorName= gives them.
const (
	SocketName            = "signet"
	CredentialsSocketName = "credentials"
)

// Listeners are the listening sockets that the service manager has opened for
// the agent, by name, and the connections that it has held since the process
// before this one was killed, by the name that [Notifier.Release] takes. There are none if it was not started by a socket
// unit. The environment is cleared, so that no child takes them for its own; a
// second call finds nothing.
func Listeners() (byName map[string]net.Listener, held map[string]net.Conn, err error) {
	byName, held = map[string]net.Listener{}, map[string]net.Conn{}
	for _, f := range activation.Files(true) {
		name := f.Name()
		if strings.HasPrefix(name, heldPrefix) {
			c, err := net.FileConn(f)
			f.Close()
			if err == nil { // else its other end is gone
				held[name] = c
			}
			continue
		}
		ln, err := net.FileListener(f)
		f.Close()
		if err != nil || byName[name] != nil {
			return nil, nil, fmt.Errorf("sockets of the service manager: more than one is called %q, or it does not listen; see FileDescriptorName=", name)
		}
		byName[name] = ln
	}
	return byName, held, nil
}

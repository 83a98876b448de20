package systemd

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// The names of the sockets that the agent's socket units hand over, as
// FileDescriptorName= gives them.
const (
	SocketName            = "signet"
	CredentialsSocketName = "credentials"
)

// Listeners are the listening sockets that the service manager has opened for
// the agent, by name. There are none if it was not started by a socket unit.
// The environment is cleared, so that no child takes them for its own; a second
// call finds nothing.
func Listeners() (map[string]net.Listener, error) {
	all, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets of the service manager: %w", err)
	}
	byName := map[string]net.Listener{}
	for name, listeners := range all {
		if len(listeners) != 1 || listeners[0] == nil {
			return nil, fmt.Errorf("sockets of the service manager: %d are called %q, want one that listens; see FileDescriptorName=", len(listeners), name)
		}
		byName[name] = listeners[0]
	}
	return byName, nil
}

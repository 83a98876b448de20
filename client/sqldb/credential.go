package sqldb

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/signet-agent/signet/client"
)

// A Credential is what the fields of a secret say of a login.
type Credential struct {
	Username string // field "username"; may be ""
	Password string // field "password"
	Host     string // field "host", "hostname" or "ip"; may be ""
	Port     int    // field "port"; may be 0
}

// Format keeps the password out of everything that prints a Credential.
func (c Credential) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "credential(%q)", c.Username)
}

// hostname is what may be put into a connection string as it is.
var hostname = regexp.MustCompile(`^[A-Za-z0-9._:%-]+$`)

// CredentialOf reads the fields of a secret.
func CredentialOf(s *client.Secret) (Credential, error) {
	password, ok := s.Fields["password"]
	if !ok || password == "" {
		return Credential{}, fmt.Errorf("secret %q: field %q: %w", s.Name, "password", errNoField)
	}
	c := Credential{Username: s.Fields["username"], Password: password}
	for _, field := range []string{"host", "hostname", "ip"} {
		if c.Host = s.Fields[field]; c.Host == "" {
			continue
		}
		if !hostname.MatchString(c.Host) {
			return Credential{}, fmt.Errorf("secret %q: field %q: not the name of a host", s.Name, field)
		}
		break
	}
	if text := s.Fields["port"]; text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return Credential{}, fmt.Errorf("secret %q: field %q: not a port", s.Name, "port")
		}
		c.Port = int(port)
	}
	return c, nil
}

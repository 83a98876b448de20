package credentials

import (
	"errors"
	"fmt"
	"strings"

	"github.com/signet-agent/signet/internal/access"
)

// An address is what the service manager connects from: a credential of a unit.
type address struct {
	unit string
	id   string // of the credential
}

var errAddress = errors.New("the connection is not one of LoadCredential=")

// parseAddress reads "@RANDOM/unit/UNIT/ID". Units have no slash in their names.
func parseAddress(name string) (address, error) {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) != 4 || len(parts[0]) < 2 || parts[0][0] != '@' || strings.Trim(parts[0][1:], "0123456789abcdef") != "" ||
		parts[1] != "unit" || parts[2] == "" || parts[3] == "" {
		return address{}, errAddress
	}
	return address{unit: parts[2], id: parts[3]}, nil
}

// A credential is what an ID stands for.
type credential struct {
	kind access.Kind
	name string // of the item
	part string // field of the secret, or pem, crt or key; "" is all fields
}

// resolve finds what an ID stands for: a secret, NAME.FIELD of a secret, or
// NAME.pem, .crt or .key of a certificate, which come before fields. What
// stands for nothing is taken for a secret, so that policy is asked about it.
func (s *Server) resolve(id string) (credential, error) {
	if s.secrets[id] != nil {
		return credential{access.Secret, id, ""}, nil
	}
	if dot := strings.LastIndexByte(id, '.'); dot > 0 {
		name, part := id[:dot], id[dot+1:]
		if s.certificates[name] != nil && (part == "pem" || part == "crt" || part == "key") {
			return credential{access.Certificate, name, part}, nil
		}
	}
	for dot := len(id); dot > 0; { // the longest name that there is
		if dot = strings.LastIndexByte(id[:dot], '.'); dot > 0 && s.secrets[id[:dot]] != nil && dot+1 < len(id) {
			return credential{access.Secret, id[:dot], id[dot+1:]}, nil
		}
	}
	if s.certificates[id] != nil {
		return credential{access.Certificate, id, ""}, fmt.Errorf("%q is a certificate; its credentials are %[1]s.pem, %[1]s.crt and %[1]s.key", id)
	}
	return credential{access.Secret, id, ""}, fmt.Errorf("nothing is called %q; credentials are SECRET, SECRET.FIELD, CERTIFICATE.pem, .crt or .key", id)
}

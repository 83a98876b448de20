package senhasegura

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/signet-agent/signet/internal/secret"
)

// A scalar is a string, number, bool or null of JSON. The vault writes numbers
// and flags as strings in one release and bare in the next, so every single
// value is read as one of these. Null and a missing value are the zero scalar.
//
// It may hold a password, which is why it is not simply a string.
type scalar struct {
	value secret.Value
	given bool
}

// errNotScalar names neither the value nor its place: both may be secret.
var errNotScalar = errors.New("a list or a map where a single value is expected")

// UnmarshalJSON keeps numbers as they are written: 007 cannot come, but 1e3 and
// 20-digit serial numbers can.
func (s *scalar) UnmarshalJSON(b []byte) error {
	*s = scalar{}
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0 || string(b) == "null":
		return nil
	case b[0] == '{' || b[0] == '[':
		return errNotScalar
	case b[0] == '"':
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return errNotScalar
		}
		*s = scalar{secret.New([]byte(text)), true}
	default:
		*s = scalar{secret.New(bytes.Clone(b)), true}
	}
	return nil
}

// text is for scalars that are not secret, such as ids and dates.
func (s scalar) text() string { return string(s.value.Reveal()) }

// empty reports whether there is nothing in it.
func (s scalar) empty() bool { return len(s.value.Reveal()) == 0 }

// truth reads the flags "error" and "erro".
func (s scalar) truth() bool {
	switch s.text() {
	case "", "0", "false", "False":
		return false
	}
	return true
}

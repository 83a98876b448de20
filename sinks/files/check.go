package files

import (
	"fmt"
	"strings"
)

// Check reports why New would refuse the file. It looks at the configuration and
// at the users of this host, not at what is at the path.
func (f File) Check() error {
	_, err := compileFile(f)
	return err
}

// Check is File.Check for a Set.
func (s Set) Check() error {
	_, err := compileSet(s)
	return err
}

// Missing are the users and groups of the file that this host does not have, as
// before the consumer is installed: the file cannot be written until then.
func (f File) Missing() []string {
	var missing []string
	note := func(kind, name string, lookup func(string) (int, error)) {
		if name == "" {
			return
		}
		if _, err := lookup(name); err != nil {
			missing = append(missing, fmt.Sprintf("%s %q", kind, name))
		}
	}
	note("user", f.Owner, lookupUser)
	note("group", f.Group, lookupGroup)
	for _, text := range f.ACL {
		switch parts := strings.Split(text, ":"); {
		case len(parts) != 3:
		case strings.HasPrefix(parts[0], "u"):
			note("user", parts[1], lookupUser)
		default:
			note("group", parts[1], lookupGroup)
		}
	}
	return missing
}

package files

import (
	"fmt"
	"os"
	"strings"
)

// Check reports why New would refuse the file. It does not look at what is at the
// path; for users and groups that are not there see Missing.
func (f File) Check() error {
	_, err := compileFile(f)
	return err
}

// Check is File.Check for a Set.
func (s Set) Check() error {
	_, err := compileSet(s)
	return err
}

// Items are what is in the file, in the order of its text; without their versions.
func (f File) Items() []Item {
	e, err := compileEntry(f)
	if err != nil {
		return nil // it was refused by Check
	}
	out := make([]Item, 0, len(e.needs))
	for _, r := range e.needs {
		if r.Kind == kindSecret {
			out = append(out, Item{Secret: r.Name})
		} else {
			out = append(out, Item{Certificate: r.Name})
		}
	}
	return out
}

// IDs are the numbers of the owner and the group; -1 is one that this host does
// not have.
func (f File) IDs() (uid, gid int) {
	number := func(name string, own int, lookup func(string) (int, error)) int {
		if name == "" {
			return own
		}
		id, err := lookup(name)
		if err != nil {
			return -1
		}
		return id
	}
	return number(f.Owner, os.Geteuid(), lookupUser), number(f.Group, os.Getegid(), lookupGroup)
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

package files

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// An entry is one file of a target, checked.
type entry struct {
	File
	name  string // in its directory
	attr  attributes
	tmpl  *template.Template // nil without a template
	needs []ref              // the items in it
	// missing is why attr is not known yet, or nil: guarded by the target's mu
	// once it is compiled, and so is attr.
	missing error
}

// compileFile checks a File and resolves what can be known before there is an
// item.
func compileFile(f File) (*target, error) {
	e, err := compileEntry(f)
	if err == nil {
		err = checkPath(f.Path)
	}
	if err != nil {
		return nil, &Error{Path: f.Path, Op: "configuration", Err: err}
	}
	return newTarget(f.Path, []*entry{e}), nil
}

// compileSet is compileFile for a Set.
func compileSet(s Set) (*target, error) {
	fault := func(err error) (*target, error) {
		return nil, &Error{Path: s.Dir, Op: "configuration", Err: err}
	}
	if err := checkPath(s.Dir); err != nil {
		return fault(err)
	}
	if len(s.Entries) == 0 {
		return fault(errors.New("the set has no files"))
	}
	var entries []*entry
	for _, f := range s.Entries {
		if f.Path != filepath.Base(f.Path) || f.Path == "." || f.Path == ".." || f.Path == "/" {
			return fault(fmt.Errorf("%q is not the name of a file", f.Path))
		}
		if slices.ContainsFunc(entries, func(e *entry) bool { return e.name == f.Path }) {
			return fault(fmt.Errorf("%q is there twice", f.Path))
		}
		e, err := compileEntry(f)
		if err != nil {
			return fault(fmt.Errorf("%s: %w", f.Path, err))
		}
		entries = append(entries, e)
	}
	t := newTarget(s.Dir, entries)
	t.set = &setState{keep: s.Keep}
	return t, nil
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return errors.New("the path is not absolute and clean")
	}
	return nil
}

func compileEntry(f File) (*entry, error) {
	e := &entry{File: f, name: filepath.Base(f.Path), attr: attributes{mode: f.Mode, uid: os.Geteuid(), gid: os.Getegid(), label: f.SELinux}}
	if f.Secret != "" && f.Certificate != "" || f.Secret == "" && f.Certificate == "" && f.Template == "" {
		return nil, errors.New("needs either a secret or a certificate")
	}
	if e.attr.mode == 0 {
		e.attr.mode = 0o600
	}
	if e.attr.mode&^0o777 != 0 {
		return nil, fmt.Errorf("mode %v has more than permission bits", e.attr.mode)
	}
	err := e.checkFormat()
	if err != nil {
		return nil, err
	}
	if f.Secret != "" {
		e.needs = append(e.needs, secretRef(f.Secret))
	}
	if f.Certificate != "" {
		e.needs = append(e.needs, certificateRef(f.Certificate))
	}
	if f.Template != "" {
		if err := e.parseTemplate(); err != nil {
			return nil, err
		}
	}
	if e.missing = e.resolve(); e.missing != nil && !isAbsent(e.missing) {
		return nil, e.missing
	}
	return e, nil
}

// resolve finds who may do what with the file. An error that isAbsent is about
// somebody who may yet come, with the package of the consumer; any other is a
// mistake.
func (e *entry) resolve() (err error) {
	var absent error
	take := func(id *int, name string, lookup func(string) (int, error)) {
		if name == "" {
			return
		}
		n, fault := lookup(name)
		switch {
		case fault == nil:
			*id = n
		case isAbsent(fault):
			absent = cmp.Or(absent, fault)
		default:
			err = cmp.Or(err, fault)
		}
	}
	take(&e.attr.uid, e.Owner, lookupUser)
	take(&e.attr.gid, e.Group, lookupGroup)
	acl, fault := parseACL(e.ACL, e.attr.mode)
	switch {
	case fault == nil:
		e.attr.acl = acl
	case isAbsent(fault):
		absent = cmp.Or(absent, fault)
	default:
		err = cmp.Or(err, fault)
	}
	return cmp.Or(err, absent)
}

// An absentError is a user or group that this host does not have.
type absentError struct{ kind, name string }

func (e *absentError) Error() string {
	return fmt.Sprintf("there is no %s %q on this host", e.kind, e.name)
}

func isAbsent(err error) bool {
	_, ok := errors.AsType[*absentError](err)
	return ok
}

func (e *entry) checkFormat() error {
	if e.Template != "" {
		if e.Field != "" || e.Format != "" {
			return errors.New("a template goes without field and format")
		}
		return nil
	}
	if e.Secret != "" {
		switch e.Format {
		case "", "raw", "json", "env":
			return nil
		}
		return fmt.Errorf("format %q is not one of a secret: raw, json, env", e.Format)
	}
	if e.Field != "" {
		return errors.New("certificates have no fields")
	}
	switch e.Format {
	case "", "pem-bundle", "pem-bundle-key-first", "pem-chain", "pem-key":
		return nil
	case "pkcs12":
		if e.Password == nil {
			return errors.New("a pkcs12 file needs a password")
		}
		return nil
	}
	return fmt.Errorf("format %q is not one of a certificate: %s", e.Format,
		strings.Join([]string{"pem-bundle", "pem-bundle-key-first", "pem-chain", "pem-key", "pkcs12"}, ", "))
}

func lookupUser(name string) (int, error) {
	if u, err := user.Lookup(name); err == nil {
		name = u.Uid
	}
	return parseID("user", name)
}

func lookupGroup(name string) (int, error) {
	if g, err := user.LookupGroup(name); err == nil {
		name = g.Gid
	}
	return parseID("group", name)
}

// parseID is the number of somebody. What is not a number is a name of nobody.
func parseID(kind, text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if errors.Is(err, strconv.ErrRange) || n == 1<<32-1 { // "no change" to the kernel
		return 0, fmt.Errorf("%s %s is not a number that anybody can have", kind, text)
	}
	if err != nil {
		return 0, &absentError{kind, text}
	}
	return int(n), nil
}

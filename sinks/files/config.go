package files

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"text/template"
	"time"
)

// A File is one file and what is in it.
type File struct {
	Path string
	// Secret or Certificate is the item; exactly one of them.
	Secret      string
	Certificate string
	// Field is the field of the secret for raw; for json and env it may be
	// left out, which means all.
	Field string
	// Format is raw, json or env for a secret ("" is raw), and pem-bundle,
	// pem-bundle-key-first, pem-chain or pem-key for a certificate ("" is
	// pem-bundle).
	Format string
	// Template is a text/template, in place of Field and Format.
	Template string
	// Owner and Group are names or numbers; "" is the agent's own.
	Owner string
	Group string
	// Mode has permission bits only; 0 is 0600.
	Mode fs.FileMode
}

// A Delivery is a version of an item in a file.
type Delivery struct {
	Path        string
	Secret      string
	Certificate string
	Version     string // of the secret, or the serial number of the certificate
	Repaired    bool   // written because of a Drift, not because the item changed
}

// A Drift is a change to a file that the agent did not make.
type Drift struct {
	Path string
	What string // deleted, content, mode, owner, type
	// UID, GID and Mode are what was found; not set for deleted.
	UID, GID uint32
	Mode     fs.FileMode
	At       time.Time
}

// Config configures Files.
type Config struct {
	Files []File
	// Writing is called before a file is replaced, and an error keeps that from
	// happening. What has to follow the replacement even after a crash, such as
	// a reload, is noted here. It may be nil.
	Writing func(Delivery) error
	// Written is called after a file was replaced, before Publish returns. It
	// may be nil.
	Written func(Delivery)
	// Drifted is called once for each drift that was found; it may be nil.
	Drifted func(Drift)
	// Log is told of repairs and failures; nil is nobody.
	Log *slog.Logger
}

// An Error is a file that could not be written.
type Error struct {
	Path   string
	Op     string // "open directory", "render", "write"
	Remedy string
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("file %q: %s: %v", e.Path, e.Op, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Hint says what an operator can do about it, or "".
func (e *Error) Hint() string { return e.Remedy }

// compile checks a File and resolves what can be known before there is an item.
func compile(f File) (*target, error) {
	t := &target{File: f, dir: filepath.Dir(f.Path), base: filepath.Base(f.Path), mode: f.Mode, uid: os.Geteuid(), gid: os.Getegid()}
	fault := func(format string, args ...any) error {
		return &Error{Path: f.Path, Op: "configuration", Err: fmt.Errorf(format, args...)}
	}
	if !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path || f.Path == "/" {
		return nil, fault("the path is not absolute and clean")
	}
	if (f.Secret == "") == (f.Certificate == "") {
		return nil, fault("needs either a secret or a certificate")
	}
	if t.mode == 0 {
		t.mode = 0o600
	}
	if t.mode&^0o777 != 0 {
		return nil, fault("mode %v has more than permission bits", t.mode)
	}
	if err := t.checkFormat(); err != nil {
		return nil, fault("%w", err)
	}
	var err error
	if f.Template != "" {
		t.tmpl, err = template.New(t.base).Option("missingkey=error").Funcs(functions).Parse(f.Template)
		if err != nil {
			return nil, fault("%w", err)
		}
	}
	if f.Owner != "" {
		if t.uid, err = lookupUser(f.Owner); err != nil {
			return nil, fault("there is no user %q on this host", f.Owner)
		}
	}
	if f.Group != "" {
		if t.gid, err = lookupGroup(f.Group); err != nil {
			return nil, fault("there is no group %q on this host", f.Group)
		}
	}
	return t, nil
}

func (t *target) checkFormat() error {
	if t.Template != "" {
		if t.Field != "" || t.Format != "" {
			return errors.New("a template goes without field and format")
		}
		return nil
	}
	if t.Secret != "" {
		switch t.Format {
		case "", "raw", "json", "env":
			return nil
		}
		return fmt.Errorf("format %q is not one of a secret: raw, json, env", t.Format)
	}
	if t.Field != "" {
		return errors.New("certificates have no fields")
	}
	switch t.Format {
	case "", "pem-bundle", "pem-bundle-key-first", "pem-chain", "pem-key":
		return nil
	}
	return fmt.Errorf("format %q is not one of a certificate: pem-bundle, pem-bundle-key-first, pem-chain, pem-key", t.Format)
}

func lookupUser(name string) (int, error) {
	if u, err := user.Lookup(name); err == nil {
		name = u.Uid
	}
	return parseID(name)
}

func lookupGroup(name string) (int, error) {
	if g, err := user.LookupGroup(name); err == nil {
		name = g.Gid
	}
	return parseID(name)
}

func parseID(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err == nil && n == 1<<32-1 { // "no change" to the kernel
		err = strconv.ErrRange
	}
	return int(n), err
}

// Package tokenuri reads PKCS#11 URIs (RFC 7512) that choose a token. The check of
// the configuration and the HSM read them alike with it, so that what is let pass
// opens a token.
package tokenuri

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// A URI is what a PKCS#11 URI (RFC 7512) says of a token.
type URI struct {
	Label, Serial, Manufacturer, Model string
	Module                             string // module-path
	PINFile                            string // pin-source
}

// Chooses reports whether the URI says which token is meant.
func (u URI) Chooses() bool { return u.Label+u.Serial+u.Manufacturer+u.Model != "" }

// How many bytes PKCS#11 has for what a token says of itself.
const (
	MaxLabel  = 32
	MaxSerial = 16
)

var sizes = map[string]int{"token": MaxLabel, "serial": MaxSerial, "manufacturer": 32, "model": 16}

// Parse reads a PKCS#11 URI that chooses a token. What would be misread in
// silence is refused: attributes of objects, slot numbers, which change, and a
// PIN in plain sight.
func Parse(s string) (URI, error) {
	var u URI
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return u, errors.New("it does not start with pkcs11: as a PKCS#11 URI does; write it like pkcs11:token=LABEL")
	}
	path, query, _ := strings.Cut(rest, "?")
	seen := map[string]bool{}
	for attr := range strings.SplitSeq(path, ";") {
		if attr != "" {
			if err := u.set(attr, seen, u.pathField); err != nil {
				return URI{}, err
			}
		}
	}
	if query != "" {
		for attr := range strings.SplitSeq(query, "&") {
			if err := u.set(attr, seen, u.queryField); err != nil {
				return URI{}, err
			}
		}
	}
	return u, nil
}

// set takes one attribute.
func (u *URI) set(attr string, seen map[string]bool, field func(string) (*string, error)) error {
	name, value, ok := strings.Cut(attr, "=")
	if !ok {
		return fmt.Errorf("%q is not name=value", name)
	}
	if seen[name] {
		return fmt.Errorf("%s is there twice", name)
	}
	seen[name] = true
	to, err := field(name)
	if err != nil {
		return err
	}
	// PathUnescape, because a plus sign is a plus sign here.
	if value, err = url.PathUnescape(value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if value == "" {
		return fmt.Errorf("%s is empty", name)
	}
	if most, ok := sizes[name]; ok && len(value) > most {
		return fmt.Errorf("%s has %d bytes; that of a token has %d at most", name, len(value), most)
	}
	switch name {
	case "pin-source":
		value, err = pinFile(value)
	case "module-path":
		if !filepath.IsAbs(value) {
			err = fmt.Errorf("module-path %q is not an absolute path", value)
		}
	}
	*to = value
	return err
}

func (u *URI) pathField(name string) (*string, error) {
	switch name {
	case "token":
		return &u.Label, nil
	case "serial":
		return &u.Serial, nil
	case "manufacturer":
		return &u.Manufacturer, nil
	case "model":
		return &u.Model, nil
	case "slot-id", "slot-manufacturer", "slot-description":
		return nil, fmt.Errorf("%s: tokens are not chosen by slot, which changes; use token or serial", name)
	case "object", "id", "type":
		return nil, fmt.Errorf("%s names an object; this chooses a token", name)
	}
	return nil, fmt.Errorf("%s is not supported; a token is chosen by token, serial, manufacturer and model", name)
}

func (u *URI) queryField(name string) (*string, error) {
	switch name {
	case "module-path":
		return &u.Module, nil
	case "pin-source":
		return &u.PINFile, nil
	case "pin-value":
		return nil, errors.New("pin-value: a PIN does not belong here; use pin-source")
	}
	return nil, fmt.Errorf("%s is not supported; only module-path and pin-source are", name)
}

// pinFile is the file of a pin-source: a path, or a file: URI.
func pinFile(s string) (string, error) {
	if strings.HasPrefix(s, "|") {
		return "", errors.New("pin-source: commands are not run")
	}
	path := s
	if strings.HasPrefix(s, "file:") {
		f, err := url.Parse(s)
		if err != nil || f.Host != "" && f.Host != "localhost" {
			return "", fmt.Errorf("pin-source %q is not a local file", s)
		}
		path = f.Path
		if f.Opaque != "" {
			path = f.Opaque
		}
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("pin-source %q is not an absolute path", s)
	}
	return path, nil
}

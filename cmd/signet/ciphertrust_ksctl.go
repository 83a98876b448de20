package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The keys of ksctl's configuration that a login is about.
const (
	ksctlURL    = "KSCTL_URL"
	ksctlUser   = "KSCTL_USERNAME"
	ksctlToken  = "KSCTL_REFRESHTOKEN" // #nosec G101 -- a key
	ksctlClient = "KSCTL_CLIENTID"
)

// A ksctlFile is the configuration file of Thales' ksctl: one key and its value
// per line. What this program does not know in it stays as it is.
type ksctlFile struct {
	path  string
	lines []string
}

// readKsctl reads a configuration file of ksctl. One that is not there yet is
// begun as ksctl begins it.
func readKsctl(path string) (*ksctlFile, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &ksctlFile{path, []string{"KSCTL_VERBOSITY: false", "KSCTL_RESP: json", "KSCTL_NOSSLVERIFY: false"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ksctl configuration: %w", err)
	}
	f := &ksctlFile{path: path}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if _, _, ok := pair(line); !ok && !blank(line) {
			return nil, fmt.Errorf("ksctl configuration %s: line %d is not KEY: value", path, len(f.lines)+1)
		}
		f.lines = append(f.lines, line)
	}
	return f, nil
}

// pair takes a line apart.
func pair(line string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(line, ":")
	if !ok || key == "" || strings.TrimLeft(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" || value != "" && value[0] != ' ' {
		return "", "", false
	}
	value = strings.TrimSpace(value)
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		plain, err := strconv.Unquote(value)
		return key, plain, err == nil
	}
	if len(value) > 1 && value[0] == '\'' && value[len(value)-1] == '\'' {
		return key, strings.ReplaceAll(value[1:len(value)-1], "''", "'"), true
	}
	value, _, _ = strings.Cut(value, " #")
	return key, strings.TrimSpace(value), true
}

// get is the value of a key, or "".
func (f *ksctlFile) get(key string) string {
	for _, line := range f.lines {
		if k, v, ok := pair(line); ok && k == key {
			return v
		}
	}
	return ""
}

// set gives a key a value; an empty one removes it.
func (f *ksctlFile) set(key, value string) {
	if value == "" {
		f.remove(key)
		return
	}
	line := key + ": " + value
	if strings.Trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@") != "" || strings.HasSuffix(value, ":") {
		line = key + ": '" + strings.ReplaceAll(value, "'", "''") + "'"
	}
	for i := range f.lines {
		if k, _, ok := pair(f.lines[i]); ok && k == key {
			f.lines[i] = line
			return
		}
	}
	f.lines = append(f.lines, line)
}

func (f *ksctlFile) remove(key string) {
	f.lines = slices.DeleteFunc(f.lines, func(line string) bool {
		k, _, ok := pair(line)
		return ok && k == key
	})
}

// write puts the file in place as a whole, for its owner alone: it holds a
// token.
func (f *ksctlFile) write() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	return replaceFile(f.path, strings.Join(f.lines, "\n")+"\n", 0o600)
}

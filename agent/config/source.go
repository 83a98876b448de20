package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signet-agent/signet/internal/secret"
)

// Source says where a secret is read from. Exactly one of its fields is set;
// the secret itself cannot be written into the configuration.
type Source struct {
	// File holds the secret and nothing else; one newline at its end is not
	// part of it.
	File string `yaml:"file"`
	// Credential is a systemd credential of the agent's unit.
	Credential string `yaml:"credential"`
	// Env is an environment variable of the process that reads it.
	Env string `yaml:"env"`
}

// IsZero reports that no source is given.
func (s Source) IsZero() bool { return s == Source{} }

// String names the source, never what it holds.
func (s Source) String() string {
	switch {
	case s.File != "":
		return s.File
	case s.Credential != "":
		return "systemd credential " + s.Credential
	case s.Env != "":
		return "environment variable " + s.Env
	}
	return "none"
}

// Read reads the secret as it now is. An empty one is an error: it is nearly
// always a file that something failed to write.
func (s Source) Read() (secret.Value, error) {
	b, err := s.read()
	if err != nil {
		return secret.Value{}, err
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return secret.Value{}, fmt.Errorf("%v: is empty", s)
	}
	return secret.New(b), nil
}

func (s Source) read() ([]byte, error) {
	switch {
	case s.File != "":
		return os.ReadFile(s.File)
	case s.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, fmt.Errorf("%v: the unit was given no credentials; see LoadCredential=", s)
		}
		b, err := os.ReadFile(filepath.Join(dir, s.Credential))
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%v: not given to the unit; see LoadCredential=", s)
		}
		return b, err
	case s.Env != "":
		v, ok := os.LookupEnv(s.Env)
		if !ok {
			return nil, fmt.Errorf("%v: is not set", s)
		}
		return []byte(v), nil
	}
	return nil, errors.New("no source given for a secret")
}

// TextOrSource is a value that is secret for some and public for others, so
// that it may be written as it is or come from a Source.
type TextOrSource struct {
	Text string
	Source
}

// IsZero reports that there is neither.
func (t TextOrSource) IsZero() bool { return t.Text == "" && t.Source.IsZero() }

// Read returns the text, or reads the source.
func (t TextOrSource) Read() (secret.Value, error) {
	if t.Text != "" {
		return secret.New([]byte(t.Text)), nil
	}
	return t.Source.Read()
}

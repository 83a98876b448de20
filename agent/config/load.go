package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"

	"github.com/signet-agent/signet/internal/secret"
)

// maxSize is far more than a configuration of ten thousand secrets needs.
const maxSize = 8 << 20

// Load is Read and Parse. An error is an [*Errors] if the file could be read at
// all.
func Load(path string) (*Config, error) {
	data, err := Read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Read is the text of the file at path, or of its beginning if it is too long to
// be a configuration.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return data, nil
}

// Parse reads a configuration and looks at it alone: it opens no file and asks
// no one. The name is that of the file, for the faults. An error is an
// [*Errors].
func Parse(name string, data []byte) (*Config, error) {
	c, k := read(name, data)
	if len(k.d.faults) > 0 {
		return nil, sorted(k.d.faults)
	}
	return c, nil
}

// Examine is Parse that also looks at what only the host itself can answer:
// whether the users and groups exist that a policy names, and whether the agent on
// it serves the types of the upstreams. More adds what other packages find, and may
// be nil; where there are faults already it is given what could be read. No network
// connection is opened. An error is an [*Errors].
func Examine(name string, data []byte, more func(*Config, *Report)) (c *Config, warnings []Fault, err error) {
	c, k := read(name, data)
	r := &Report{k: k, unsound: map[string]bool{}}
	if c != nil {
		k.host()
		r.look()
		if more != nil {
			more(c, r)
		}
	}
	warnings = sorted(r.warnings).Faults
	if len(k.d.faults) > 0 {
		return nil, warnings, sorted(k.d.faults)
	}
	return c, warnings, nil
}

// read returns no Config if nothing in the file can be made out.
func read(name string, data []byte) (*Config, *checker) {
	c, d := decode(name, data)
	if len(data) > maxSize {
		d.faults = []Fault{{File: name, What: "is larger than 8 MiB"}}
	}
	if len(d.faults) > 0 && d.faults[0].Path == "" {
		c = nil
	}
	k := newChecker(c, d)
	if c != nil {
		k.all()
	}
	return c, k
}

// decode returns no Config if the file is not YAML.
func decode(name string, data []byte) (*Config, *decoder) {
	d := newDecoder(name)
	if len(data) > maxSize {
		return nil, d
	}
	c := &Config{}
	if !d.into(data, c) {
		return nil, d
	}
	return c, d
}

// into decodes a file into what v points to, and reports whether it is YAML.
func (d *decoder) into(data []byte, v any) bool {
	if root := d.parse(data); root != nil {
		d.places = make(map[string]place, bytes.Count(data, []byte(":"))) // it takes long to grow
		d.value("", root, reflect.ValueOf(v).Elem())
	} else if len(d.faults) > 0 {
		return false
	}
	return true
}

// sorted puts faults in the order of the file.
func sorted(faults []Fault) *Errors {
	sort.SliceStable(faults, func(i, j int) bool {
		a, b := faults[i], faults[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Col < b.Col
	})
	return &Errors{Faults: faults}
}

// A Report takes what others than this package know of a configuration.
type Report struct {
	k        *checker
	warnings []Fault
	unsound  map[string]bool // places of faults, and what they are in
}

// look notes where the faults are.
func (r *Report) look() {
	for _, f := range r.k.d.faults {
		for p := f.Path; p != ""; p = parent(p) {
			r.unsound[p] = true
		}
	}
}

// Sound reports whether nothing was wrong with what is at path: more can be said of
// it then.
func (r *Report) Sound(path string) bool { return !r.unsound[path] }

// At is the place of a key in what is at path.
func (r *Report) At(path, key string) string { return join(path, key) }

// Fault says what keeps an agent with this configuration from starting.
func (r *Report) Fault(path, what string) { r.k.unless(false, path, "%s", what) }

// Warning says what will not work, while everything else will.
func (r *Report) Warning(path, what string) {
	r.warnings = append(r.warnings, r.k.d.faultOf(path, what, ""))
}

// ParseEnrolment reads the one-time user name and password of a first
// registration, {"username": .., "password": ..} in YAML or JSON. Its errors
// have the place but never a part of what the file holds.
func ParseEnrolment(name string, data []byte) (username string, password secret.Value, err error) {
	var e struct {
		Username string `yaml:"username"`
		Password string `yaml:"password"`
	}
	d := newDecoder(name)
	d.into(data, &e)
	switch {
	case len(d.faults) > 0:
		err = fmt.Errorf(`credentials file %s: line %d: is not {"username": .., "password": ..}`, name, d.faults[0].Line)
	case e.Username == "" || e.Password == "":
		err = fmt.Errorf("credentials file %s: needs username and password", name)
	default:
		return e.Username, secret.New([]byte(e.Password)), nil
	}
	return "", secret.Value{}, err
}

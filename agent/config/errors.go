package config

import (
	"fmt"
	"strings"
)

// A Fault is one thing that is wrong with a configuration.
type Fault struct {
	File      string
	Line, Col int    // from 1; 0 if the fault has no place
	Path      string // "upstreams.pam.url"; "" for the file as a whole
	What      string // "http is not encrypted"
	Hint      string // "write https://"; may be empty
}

// Error is FILE:LINE:COL: path.to.key: what is wrong; what to do.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Col)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.What)
	if f.Hint != "" {
		b.WriteString("; " + f.Hint)
	}
	return b.String()
}

// Errors is everything that is wrong with a configuration, in the order of the
// file.
type Errors struct{ Faults []Fault }

// Error is one line for each fault.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/files"
)

// CheckConfig holds a configuration against this host, with the code that Run makes
// its parts with: what it lets pass starts, but for what the warnings say. It
// makes and opens nothing. An error is a *config.Errors.
func CheckConfig(c *config.Config) (warnings []config.Fault, err error) {
	return c.Check(func(r *config.Report) {
		checkPolicy(c, r)
		for name, u := range c.Upstreams {
			checkRoots(r.At("upstreams", name)+".ca_file", u.CAFile, r)
		}
		for i, f := range c.Files {
			checkFile(fmt.Sprintf("files[%d]", i), f, r)
		}
	})
}

func checkPolicy(c *config.Config, r *config.Report) {
	few := rules(c.Policy)
	for i := range few {
		few[i].Allow.Secrets, few[i].Allow.Certificates = nil, nil // there can be many, and no name is wrong
	}
	_, err := access.Compile(few)
	for _, e := range each(err) {
		at, what, _ := strings.Cut(e.Error(), ": ")
		r.Fault(at, what)
	}
}

// checkRoots warns of a file that cannot be read: it may yet come, or be for the
// agent's user alone.
func checkRoots(at, path string, r *config.Report) {
	_, err := readRoots(path)
	if _, unread := errors.AsType[*fs.PathError](err); unread {
		r.Warning(at, fmt.Sprintf("%v; the agent does not start without it", err))
	} else if err != nil {
		r.Fault(at, err.Error())
	}
}

// checkFile tells what keeps a file, or a set, from being written at all, and
// whom it waits for.
func checkFile(at string, f config.File, r *config.Report) {
	var all []files.File
	var err error
	if f.Dir == "" {
		all = append(all, fileOf(f.Path, f, f.Content, f.Access))
		err = all[0].Check()
	} else {
		s := setOf(f)
		all, err = s.Entries, s.Check()
	}
	if e, ok := errors.AsType[*files.Error](err); ok {
		err = e.Err // the place says which file
	}
	if err != nil {
		r.Fault(at, err.Error())
		return
	}
	var missing []string
	for _, f := range all {
		missing = append(missing, f.Missing()...)
	}
	slices.Sort(missing)
	for _, who := range slices.Compact(missing) {
		r.Warning(at, "there is no "+who+" on this host; it is not written until there is")
	}
}

// each are the errors that were joined.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

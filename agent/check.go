package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/consumers"
	"github.com/signet-agent/signet/sinks/files"
)

// CheckConfig reads a configuration and holds it against this host, with the code
// that Run makes its parts with: what it lets pass starts, but for what the warnings
// say. It makes nothing, and of what it opens it says nothing but whether it could.
// An error is a *config.Errors.
func CheckConfig(name string, text []byte) (c *config.Config, warnings []config.Fault, err error) {
	return config.Examine(name, text, func(c *config.Config, r *config.Report) {
		checkPolicy(c, r)
		for name, u := range c.Upstreams {
			checkRoots(r.At("upstreams", name)+".ca_file", u.CAFile, r)
		}
		checkTokens(c, r)
		for at, path := range c.SecretFiles(r) {
			warn(r, at, readable(path), "what needs it does not work")
		}
		programs := map[string]error{} // by command: many files can have the same
		for i, f := range c.Files {
			at := fmt.Sprintf("files[%d]", i)
			if r.Sound(at) {
				checkFile(at, f, r)
				checkConsumer(at, f, programs, r)
			}
		}
		checkDirs(c, r)
	})
}

func checkPolicy(c *config.Config, r *config.Report) {
	few := rules(c.Policy)
	for i := range few {
		few[i].Allow.Secrets, few[i].Allow.Certificates = nil, nil // there can be many, and no name is wrong
	}
	_, err := access.Compile(few)
	for _, e := range each(err) {
		if at, what, _ := strings.Cut(e.Error(), ": "); r.Sound(at) {
			r.Fault(at, what)
		}
	}
}

// checkRoots refuses what the agent does not start with. That the file is not for
// who checks does not tell whether it is for the agent's user.
func checkRoots(at, path string, r *config.Report) {
	if !r.Sound(at) {
		return
	}
	_, err := readRoots(path)
	if errors.Is(err, fs.ErrPermission) {
		r.Warning(at, fmt.Sprintf("%v; the agent does not start unless its user may read it", err))
	} else if err != nil {
		r.Fault(at, err.Error()+"; the agent does not start without it")
	}
}

// checkTokens warns of files that may yet be installed: until then the token stays
// closed, and all else goes on.
func checkTokens(c *config.Config, r *config.Report) {
	for at, h := range c.Tokens(r) {
		if path := h.ModulePath(); path != "" {
			place := at + ".module"
			if h.Module == "" {
				place = at + ".uri"
			}
			warn(r, place, readable(path), "the token stays closed")
		}
		if h.Worker != "" {
			warn(r, at+".worker", consumers.Exec{Argv: []string{h.Worker}}.Check(context.Background()), "the token stays closed")
		}
	}
}

// checkConsumer warns of programs that are not installed yet.
func checkConsumer(at string, f config.File, programs map[string]error, r *config.Report) {
	look := func(at string, argv []string) {
		if len(argv) == 0 {
			return
		}
		err, known := programs[argv[0]]
		if !known {
			err = consumers.Exec{Argv: argv}.Check(context.Background())
			programs[argv[0]] = err
		}
		warn(r, at, err, "the reload fails")
	}
	look(at+".test", f.Test)
	look(at+".reload.exec", f.Reload.Exec)
	if path := f.Reload.Redis.CAFile; path != "" {
		warn(r, at+".reload.redis.ca_file", readable(path), "the reload fails")
	}
}

// checkDirs looks at where the agent makes files of its own. What lies in the way of
// a directory is a fault; one that is missing can be made by systemd at each start.
func checkDirs(c *config.Config, r *config.Report) {
	for at, dir := range map[string]string{"state_dir": c.StatePath(), "runtime_dir": c.RuntimePath()} {
		err := directory(dir)
		for ; errors.Is(err, fs.ErrNotExist); err = directory(dir) {
			dir = filepath.Dir(dir) // which is made with it
		}
		if errors.Is(err, syscall.ENOTDIR) && r.Sound(at) {
			r.Fault(at, err.Error()+"; the agent does not start without a directory there")
		}
	}
	for at, path := range map[string]string{"audit.file": c.Audit.File, "socket.path": c.Socket.Path, "credentials_socket.path": c.CredentialsSocket.Path} {
		if dir := filepath.Dir(path); path != "" && dir != c.RuntimePath() && dir != c.StatePath() {
			warn(r, at, directory(dir), "the agent does not start")
		}
	}
}

// warn says what is so until what was looked for is there, if it is not.
func warn(r *config.Report, at string, err error, so string) {
	if err == nil || !r.Sound(at) {
		return
	}
	end := "until that is mended"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		end = "until it is there"
	case errors.Is(err, fs.ErrPermission):
		end = "unless the agent's user may use it"
	}
	r.Warning(at, fmt.Sprintf("%v; %s %s", err, so, end))
}

// readable is why a file cannot be read, or nil. It is not opened: that waits for
// ever if it is a pipe, and what is in it is nobody's business here.
func readable(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return unopened(path, errors.Unwrap(err))
	case st.IsDir():
		return unopened(path, syscall.EISDIR)
	}
	return unopened(path, unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS))
}

// directory is why there is no directory, or nil.
func directory(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return unopened(path, errors.Unwrap(err))
	case !st.IsDir():
		return unopened(path, syscall.ENOTDIR)
	}
	return nil
}

func unopened(path string, why error) error {
	if why == nil {
		return nil
	}
	return &fs.PathError{Op: "open", Path: path, Err: why}
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

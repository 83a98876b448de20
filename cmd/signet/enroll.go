package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/client"
)

// maxCredentials is more than a user name and a password need.
const maxCredentials = 64 << 10

// newEnroll is `signet enroll`.
func newEnroll(p *program) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "enroll IDENTITY",
		Short: "Register an identity for the first time, with one-time credentials",
		Long: `Register an identity for the first time. The one-time credentials are read from a
file, {"username": .., "password": ..} in YAML or JSON, or from the standard
input, and on a terminal asked for.

When the identity has its certificate, the file is overwritten and deleted. If
anything fails before, it stays as it is.`,
		Example: `  signet enroll host --credentials-file /run/signet/once.json`,
		Args:    exactly("IDENTITY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			with, once, err := p.credentials(cmd, file)
			if err != nil {
				return err
			}
			defer once.close()
			if err := p.agent().Enroll(cmd.Context(), args[0], with); err != nil {
				return err
			}
			if err := once.shred(); err != nil {
				return fmt.Errorf("enroll %q: done, but the one-time credentials are still there: %w", args[0], err)
			}
			_, err = fmt.Fprintf(p.stdout, "%s: enrolled\n", printable(args[0]))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "credentials-file", "", "`file` with the one-time credentials, - for the standard input")
	return cmd
}

// credentials reads credentials from file, from the standard input for "-" and
// for "" without a terminal, and else from the person at the terminal. The
// second result is the file, open; nil if there is none.
func (p *program) credentials(cmd *cobra.Command, file string) (client.Credentials, *onceFile, error) {
	fd, people := terminal(p.stdin)
	switch {
	case file != "" && file != "-":
		once, data, err := openOnce(file)
		if err != nil {
			return client.Credentials{}, nil, err
		}
		with, err := parseCredentials(file, data)
		if err != nil {
			once.close()
			return with, nil, err
		}
		return with, once, nil
	case file == "" && people:
		with, err := p.askCredentials(cmd.Context(), fd)
		return with, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(p.stdin, maxCredentials))
	if err != nil {
		return client.Credentials{}, nil, fmt.Errorf("credentials: standard input: %w", err)
	}
	with, err := parseCredentials("-", data)
	return with, nil, err
}

// parseCredentials reads {"username": .., "password": ..}.
func parseCredentials(name string, data []byte) (client.Credentials, error) {
	username, password, err := config.ParseEnrolment(name, data)
	if err != nil {
		return client.Credentials{}, &usageError{err: err}
	}
	return client.Credentials{Username: username, Password: string(password.Reveal())}, nil
}

// askCredentials asks the person at the terminal. The password is not echoed.
func (p *program) askCredentials(ctx context.Context, fd int) (client.Credentials, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return client.Credentials{}, fmt.Errorf("terminal: %w", err)
	}
	type answer struct {
		with client.Credentials
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		_, _ = fmt.Fprint(p.stderr, "username: ")
		name, err := bufio.NewReader(p.stdin).ReadString('\n')
		if err != nil {
			answers <- answer{err: fmt.Errorf("terminal: %w", err)}
			return
		}
		_, _ = fmt.Fprint(p.stderr, "password: ")
		password, err := term.ReadPassword(fd)
		_, _ = fmt.Fprintln(p.stderr)
		answers <- answer{client.Credentials{Username: strings.TrimSpace(name), Password: string(password)}, err}
	}()
	select {
	case a := <-answers:
		if a.err == nil && (a.with.Username == "" || a.with.Password == "") {
			a.err = &usageError{err: errors.New("credentials: user name and password are needed")}
		}
		return a.with, a.err
	case <-ctx.Done(): // interrupted, perhaps with the echo off
		_ = term.Restore(fd, before)
		return client.Credentials{}, ctx.Err()
	}
}

// A onceFile is a file that is destroyed after use.
type onceFile struct {
	f    *os.File
	name string // without symbolic links
	link string // as it was named, if that is a symbolic link
	size int
}

// openOnce opens a file for reading, and for overwriting: credentials that could
// not be destroyed afterwards are not used in the first place.
func openOnce(name string) (*onceFile, []byte, error) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, nil, fmt.Errorf("credentials: %w", err)
	}
	f, err := os.OpenFile(real, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("credentials: %w", err)
	}
	once := &onceFile{f: f, name: real}
	if filepath.Clean(name) != real {
		if info, err := os.Lstat(name); err == nil && info.Mode()&os.ModeSymlink != 0 {
			once.link = name
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err == nil && len(data) > maxCredentials {
		err = fmt.Errorf("%s is too large", name)
	}
	if err != nil {
		once.close()
		return nil, nil, fmt.Errorf("credentials: %w", err)
	}
	once.size = len(data)
	return once, data, nil
}

func (o *onceFile) close() {
	if o != nil {
		_ = o.f.Close()
	}
}

// shred overwrites the file and deletes it.
func (o *onceFile) shred() error {
	if o == nil {
		return nil
	}
	if _, err := o.f.WriteAt(make([]byte, o.size), 0); err != nil {
		return err
	}
	if err := o.f.Sync(); err != nil {
		return err
	}
	if err := os.Remove(o.name); err != nil {
		return err
	}
	if o.link != "" {
		if err := os.Remove(o.link); err != nil {
			return err
		}
	}
	dir, err := os.Open(filepath.Dir(o.name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

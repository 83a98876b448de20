package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/client"
)

// filesVariable tells the program where its files are.
const filesVariable = "SIGNET_FILES"

// What `signet exec` runs. Its flags say how.
type execution struct {
	p        *program
	agent    *client.Client
	argv     []string
	env      []fieldVariable // --env
	secrets  []string        // --secret: all fields of these, in files or as variables
	dir      string          // --files; "" is none
	onChange string          // as given
	signal   syscall.Signal  // that onChange names; 0 where it names none
	grace    time.Duration   // between SIGTERM and SIGKILL
	interval time.Duration   // between two restarts or signals, at least
}

// A fieldVariable is a variable that holds one field of a secret.
type fieldVariable struct{ name, secret, field string }

// newExec is `signet exec`.
func newExec(p *program) *cobra.Command {
	x := &execution{p: p}
	var env []string
	cmd := &cobra.Command{
		Use:   "exec [--env NAME=SECRET/FIELD]... [--secret SECRET]... [--files DIR] -- COMMAND [ARGUMENT]...",
		Short: "Run a program with secrets in its environment or in private files",
		Long: `Run a program that knows nothing of the agent, with secrets as environment
variables or as files, and restart or signal it when they change.

--env gives the program one field as a variable. --secret gives it all fields: as
variables like DB_USERNAME and DB_PASSWORD, or with --files as files like
DIR/db/username and DIR/db/password, which always change together.

The files are in memory only. If this user may mount (as root may), DIR is a tmpfs
that this program and its children see, and nobody else; it ends with them.
Otherwise DIR is a directory of mode 0700 that has to be on a tmpfs; it is
removed at the end, and what was left of a run that was killed is removed at the
next start. A DIR without a slash at its beginning is one below XDG_RUNTIME_DIR,
or without that below /dev/shm. The program finds the path in SIGNET_FILES.

Signals are passed on, and the exit status is the program's: 128 and the signal's
number if a signal ended it, 127 if it was not found, 126 if it could not be
started.`,
		Example: `  signet exec --env PGPASSWORD=db/password -- psql -h db.example shop
  signet exec --secret db -- /usr/bin/app
  signet exec --secret db --files /run/app/secrets --on-change HUP -- /usr/sbin/appd`,
		DisableFlagsInUseLine: true,
		Args:                  func(cmd *cobra.Command, args []string) error { return x.check(cmd, env, args) },
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return x.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringArrayVar(&env, "env", nil, "`NAME=SECRET/FIELD`: a variable with one field")
	f.StringArrayVar(&x.secrets, "secret", nil, "`name` of a secret, all of whose fields are given")
	f.StringVar(&x.dir, "files", "", "`directory` in which the program finds the fields of each --secret")
	f.StringVar(&x.onChange, "on-change", "restart", "what happens when a value changes: `restart`, ignore, or the signal to send, such as HUP")
	f.DurationVar(&x.grace, "grace", 10*time.Second, "how long a program that is restarted may take to end before it is killed")
	f.DurationVar(&x.interval, "interval", 10*time.Second, "the least time between two restarts or signals")
	return cmd
}

// check makes sense of the command line.
func (x *execution) check(cmd *cobra.Command, env, args []string) error {
	x.argv = args
	for _, e := range env {
		name, ref, ok := strings.Cut(e, "=")
		slash := strings.LastIndexByte(ref, '/')
		if !ok || name == "" || slash <= 0 || slash == len(ref)-1 {
			return usage(cmd, "--env %q: want NAME=SECRET/FIELD", e)
		}
		x.env = append(x.env, fieldVariable{name, ref[:slash], ref[slash+1:]})
	}
	if x.onChange != "restart" && x.onChange != "ignore" {
		x.signal = unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(x.onChange), "SIG"))
	}
	switch {
	case len(args) == 0 || args[0] == "":
		return usage(cmd, "COMMAND is missing")
	case len(x.env) == 0 && len(x.secrets) == 0:
		return usage(cmd, "no secret is named: --secret or --env")
	case x.dir != "" && len(x.secrets) == 0:
		return usage(cmd, "--files is for the fields of a --secret, and none is named")
	case x.onChange != "restart" && x.onChange != "ignore" && x.signal == 0:
		return usage(cmd, "--on-change %q: want restart, ignore, or the name of a signal", x.onChange)
	case x.signal != 0 && (x.dir == "" || len(x.env) > 0):
		return usage(cmd, "--on-change %s: a signal brings no new environment to a program; use --files, or restart", x.onChange)
	case x.grace <= 0 || x.interval < 0:
		return usage(cmd, "--grace and --interval: want durations above nothing")
	}
	return nil
}

// names are the secrets that the program is given something of.
func (x *execution) names() []string {
	all := slices.Clone(x.secrets)
	for _, v := range x.env {
		all = append(all, v.secret)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// A content is what the program is given.
type content struct {
	env   []string                     // NAME=value
	files map[string]map[string]string // by secret and field
}

func (c content) equal(d content) bool {
	return slices.Equal(c.env, d.env) && maps.EqualFunc(c.files, d.files, maps.Equal[map[string]string, map[string]string])
}

// content works out what the program is given of these secrets.
func (x *execution) content(secrets map[string]*client.Secret) (content, error) {
	c := content{files: map[string]map[string]string{}}
	taken := map[string]bool{}
	add := func(v assignment) error {
		if taken[v.name] {
			return fmt.Errorf("variable %s: given twice", v.name)
		}
		if strings.ContainsRune(v.value, 0) {
			return fmt.Errorf("variable %s: the value holds a NUL byte, which no environment variable can", v.name)
		}
		taken[v.name] = true
		c.env = append(c.env, v.name+"="+v.value)
		return nil
	}
	for _, name := range x.secrets {
		if x.dir != "" {
			c.files[name] = secrets[name].Fields
			continue
		}
		vars, err := variables(name, secrets[name].Fields)
		if err != nil {
			return c, err
		}
		for _, v := range vars {
			if err := add(v); err != nil {
				return c, err
			}
		}
	}
	for _, v := range x.env {
		value, ok := secrets[v.secret].Fields[v.field]
		if !ok {
			return c, &client.Error{
				What: fmt.Sprintf("secret %q", v.secret), Code: client.NotFound, Detail: fmt.Sprintf("no field %q", v.field),
				Hint: "it has " + strings.Join(slices.Sorted(maps.Keys(secrets[v.secret].Fields)), ", "),
			}
		}
		if err := add(assignment{v.name, value}); err != nil {
			return c, err
		}
	}
	return c, nil
}

// environ is the environment of the program.
func (c content) environ(dir string) []string {
	env := append(os.Environ(), c.env...)
	if dir != "" {
		env = append(env, filesVariable+"="+dir)
	}
	return env
}

// read asks the agent for all secrets.
func (x *execution) read(ctx context.Context) (map[string]*client.Secret, error) {
	secrets := map[string]*client.Secret{}
	for _, name := range x.names() {
		s, err := x.agent.ReadSecret(ctx, name)
		if err != nil {
			return nil, err
		}
		if s.Stale {
			x.p.warnStale(name)
		}
		secrets[name] = s
	}
	return secrets, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/client"
)

// The statuses of a shell for a program that was not started.
const (
	exitNotStarted = 126
	exitNoProgram  = 127
	exitSignal     = 128 // and the number of the signal
)

// settle is the time in which changes of several secrets are taken as one.
const settle = 100 * time.Millisecond

// agentPatience is how long the start waits for an agent that does not listen
// yet.
const agentPatience = 5 * time.Second

// An exited is a program that has ended. What there was to say it has said.
type exited struct{ status int }

func (e *exited) Error() string { return "exit status " + strconv.Itoa(e.status) }

// A notice is news of one secret.
type notice struct {
	name   string
	secret *client.Secret
	err    error // where it can not be had any more
}

// A supervisor runs one program after the other until one ends of itself. All
// of it belongs to the goroutine of run.
type supervisor struct {
	*execution
	path    string
	files   *privateFiles // nil without --files
	secrets map[string]*client.Secret
	told    content // what the running program was given or signaled of
	cmd     *exec.Cmd
	ended   chan error
	act     *time.Timer // when to act on a change; stopped if there is none
	due     bool        // act runs
	kill    *time.Timer // when to kill a program that was asked to end
	acted   time.Time   // last restart or signal
	restart bool        // the program was asked to end and is to be started again
	final   bool        // somebody wants all of this to end
}

// run runs the program until it ends.
func (x *execution) run(ctx context.Context) (err error) {
	// The program dies with the thread that started it, and sees the mounts of
	// that thread. This one lives as long as the process.
	runtime.LockOSThread()
	x.agent = &client.Client{Socket: x.p.socket, Patience: agentPatience}
	defer x.agent.Close()
	s := &supervisor{execution: x, ended: make(chan error, 1), act: stoppedTimer(), kill: stoppedTimer()}
	if s.path, err = exec.LookPath(x.argv[0]); err != nil {
		return notStarted(x.p, err)
	}
	if s.secrets, err = x.read(ctx); err != nil {
		return err
	}
	if x.dir != "" {
		if s.files, err = openPrivateFiles(x.dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.files.close()) }()
		for _, name := range x.secrets {
			if err := s.files.write(name, s.secrets[name].Fields); err != nil {
				return err
			}
		}
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.start(); err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	return s.loop(signals, s.watch(watching))
}

// loop does what there is to do until the program has ended for good.
func (s *supervisor) loop(signals <-chan os.Signal, notices <-chan notice) error {
	for {
		select {
		case err := <-s.ended:
			s.kill.Stop()
			if !s.restart || s.final {
				return exitOf(err)
			}
			if err := s.start(); err != nil {
				return err
			}
		case sig := <-signals:
			s.forward(sig)
		case n := <-notices:
			if err := s.take(n); err != nil {
				report(s.p.stderr, err) // and the program goes on with what it has
			}
		case <-s.act.C:
			s.change()
		case <-s.kill.C:
			_ = s.cmd.Process.Kill() // one that has ended meanwhile needs none
		}
	}
}

// start starts the program with what is known now.
func (s *supervisor) start() error {
	c, err := s.content(s.secrets)
	if err != nil {
		return err
	}
	dir := ""
	if s.files != nil {
		dir = s.files.dir
	}
	cmd := exec.Command(s.path)
	cmd.Args, cmd.Env = s.argv, c.environ(dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.p.stdin, s.p.stdout, s.p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return notStarted(s.p, err)
	}
	s.cmd, s.told, s.restart = cmd, c, false
	go func() { s.ended <- cmd.Wait() }()
	return nil
}

// take takes up news of a secret: the files change at once, the program learns
// of it when change is called.
func (s *supervisor) take(n notice) error {
	inFiles := s.files != nil && s.told.files[n.name] != nil
	if n.err != nil {
		if inFiles {
			return errors.Join(n.err, s.files.remove(n.name))
		}
		return n.err
	}
	next := maps.Clone(s.secrets)
	next[n.name] = n.secret
	c, err := s.content(next)
	if err != nil {
		return err
	}
	if inFiles {
		if err := s.files.write(n.name, n.secret.Fields); err != nil {
			return err
		}
	}
	s.secrets = next
	if !c.equal(s.told) && s.onChange != "ignore" && !s.due {
		s.due = true
		s.act.Reset(max(settle, time.Until(s.acted.Add(s.interval))))
	}
	return nil
}

// change tells the program of what has changed since it was told last.
func (s *supervisor) change() {
	s.due = false
	c, err := s.content(s.secrets)
	if err != nil || c.equal(s.told) || s.restart || s.final {
		return
	}
	s.acted = time.Now()
	if s.signal != 0 {
		s.told = c
		_ = s.cmd.Process.Signal(s.signal) // one that has ended needs none
		return
	}
	s.restart = true
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	s.kill.Reset(s.grace)
}

// forward passes a signal on, unless the terminal has sent it to the program as
// well.
func (s *supervisor) forward(sig os.Signal) {
	switch sig {
	case syscall.SIGTERM:
		s.final = true
	case syscall.SIGINT, syscall.SIGQUIT:
		s.final = s.final || s.restart
		if s.foreground() {
			return
		}
	case syscall.SIGWINCH:
		if s.foreground() {
			return
		}
	}
	_ = s.cmd.Process.Signal(sig) // one that has ended needs none
}

// foreground reports whether keys of a terminal become signals to this process
// and the program.
func (s *supervisor) foreground() bool {
	fd, ok := terminal(s.p.stdin)
	if !ok {
		return false
	}
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// forwarded are the signals that are passed on. One that is ignored, as nohup
// has it, stays so for the program.
func forwarded() []os.Signal {
	var out []os.Signal
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH} {
		if !signal.Ignored(sig) {
			out = append(out, sig)
		}
	}
	return out
}

// watch yields what becomes of the secrets.
func (s *supervisor) watch(ctx context.Context) <-chan notice {
	notices := make(chan notice)
	for name, secret := range s.secrets {
		go func() {
			for next, err := range s.agent.Watch(ctx, name, secret.Version) {
				select {
				case notices <- notice{name, next, err}:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return notices
}

// exitOf is how the program has ended, as a shell would say it.
func exitOf(err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case !ok:
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &exited{exitSignal + int(ws.Signal())}
	}
	return &exited{exit.ExitCode()}
}

// notStarted reports a program that could not be started.
func notStarted(p *program, err error) error {
	status := exitNotStarted
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		status = exitNoProgram
	}
	report(p.stderr, fmt.Errorf("start the program: %w", err))
	return &exited{status}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

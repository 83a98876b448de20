package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A child is a process of the host that is started again when it ends.
type child struct {
	name  string
	log   string // the file that takes what it prints
	argv  []string
	env   []string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process that was started last has ended
	err   error         // how; valid then
}

func (h *host) child(name string, argv ...string) *child {
	return &child{name: name, log: h.path("log", name+".log"), argv: argv, env: h.environ()}
}

// start starts the process. It must be called on a thread that lives as long as
// the process is to.
func (c *child) start() error {
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, out, out
	cmd.Dir = filepath.Dir(c.log)
	// Its own group, so that a Ctrl-C at the terminal reaches only this program,
	// which stops the rest in order; and killed when this program is.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	ended := make(chan struct{})
	c.cmd, c.ended = cmd, ended
	go func() {
		defer close(ended)
		if c.err = cmd.Wait(); c.err == nil {
			c.err = errors.New("exit status 0")
		}
	}()
	return nil
}

// stop asks the process to end, and kills it if it has not in two seconds. One
// that has ended, or was never started, needs nothing.
func (c *child) stop() {
	if c.ended == nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-c.ended:
	case <-time.After(2 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

package main

import (
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
	ended chan error // one value each time it ends
}

func (h *host) child(name string, argv ...string) *child {
	return &child{name: name, log: h.path("log", name+".log"), argv: argv, env: h.environ(), ended: make(chan error, 1)}
}

// start starts the process. It must be called on a thread that lives as long as
// the process is to.
func (c *child) start() error {
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	c.cmd = exec.Command(c.argv[0], c.argv[1:]...)
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = c.env, out, out
	c.cmd.Dir = filepath.Dir(c.log)
	// Its own group, so that a Ctrl-C at the terminal reaches only this program,
	// which stops the rest in order; and killed when this program is.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	go func(cmd *exec.Cmd) {
		err := cmd.Wait()
		if err == nil {
			err = fmt.Errorf("exit status 0")
		}
		c.ended <- err
	}(c.cmd)
	return nil
}

// stop asks the process to end, and kills it if it has not in two seconds.
func (c *child) stop() {
	if c.cmd == nil || c.cmd.Process == nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // one that has ended needs none
	select {
	case <-c.ended:
	case <-time.After(2 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

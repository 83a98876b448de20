package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTerminal is a pseudo-terminal: the side of a person, and that of a program.
func newTerminal(t *testing.T) (person, tty *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return person, tty
}

// echoes reports whether a terminal shows what is typed.
func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode.Lflag&unix.ECHO != 0
}

// typed runs a command at a terminal and types keys when it asks, if hidden as
// soon as that is not shown. It returns the exit status, what was printed, and
// what the terminal has shown.
func (h *trustHost) typed(prompt, keys string, hidden bool, args ...string) (status int, stdout, screen string) {
	h.Helper()
	person, tty := newTerminal(h.T)
	cmd := exec.Command(h.signet, args...)
	var out bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = h.env, tty, &out, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	stuck := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() }) // which ends the wait below
	defer stuck.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
		fmt.Fprint(tty, "\n\x04") // the last that is read
	}()
	shown, one := "", make([]byte, 1)
	for !strings.HasSuffix(shown, "\x04") {
		if _, err := person.Read(one); err != nil {
			h.Fatal(err)
		}
		if shown += string(one); !strings.HasSuffix(shown, prompt) {
			continue
		}
		if hidden {
			h.until("the terminal shows nothing of what is typed", func() bool { return !echoes(h.T, tty) })
		}
		if _, err := person.WriteString(keys); err != nil {
			h.Fatal(err)
		}
	}
	<-ended
	if !echoes(h.T, tty) {
		h.Errorf("signet %q: the terminal still shows nothing of what is typed", args)
	}
	return cmd.ProcessState.ExitCode(), out.String(), shown
}

// atATerminal holds that a password is asked for at a terminal, which never shows
// it and is afterwards as it was, also for somebody who thinks better of it; and
// that what destroys something asks there, and does nothing but for a yes.
func (h *trustHost) atATerminal() {
	h.Helper()
	status, out, screen := h.typed("password of admin: ", "Adm1n-passw0rd\n", true, "login", "cm", "--user", "admin", "--days", "4")
	if status != exitDone || out != "this login will expire in 4 days\n" || strings.Contains(screen, "Adm1n") {
		h.Errorf("exit status %d, %q; on the screen %q", status, out, screen)
	}
	before := h.server.Tokens()
	status, out, screen = h.typed("password of admin: ", "Adm1n-\x03", true, "login", "cm", "--user", "admin")
	if status == exitDone || out != "" || strings.Contains(screen, "Adm1n") || len(h.server.Tokens()) != len(before) {
		h.Errorf("interrupted: exit status %d, %q; on the screen %q", status, out, screen)
	}
	for _, tt := range []struct{ answer, printed string }{{"\n", ""}, {"y\n", "mypass: deleted\n"}} {
		if _, out, screen = h.typed("[y/N] ", tt.answer, false, "ciphertrust", "secrets", "delete", "mypass"); out != tt.printed {
			h.Errorf("answer %q: %q; on the screen %q", tt.answer, out, screen)
		}
	}
}

package hsm_test

import (
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// daemonEnv holds the configuration of a daemon that this test binary is then.
const daemonEnv = "HSM_TEST_DAEMON"

// A daemon is what it needs to know.
type daemon struct {
	Worker, Module, Label, PINFile string
	Env                            []string
}

// TestWorkerDiesWithTheDaemon holds that no worker outlives a daemon that is
// killed, not even one in a call that hangs.
func TestWorkerDiesWithTheDaemon(t *testing.T) {
	t.Parallel()
	if config := os.Getenv(daemonEnv); config != "" {
		beTheDaemon(t, config)
	}
	s := hsmtest.NewShim(t)
	s.Rules("C_Sign 2 hang")
	config, err := json.Marshal(daemon{s.Worker, s.Path, s.Label, s.PINFile, s.Env})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWorkerDiesWithTheDaemon$") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), daemonEnv+"="+string(config))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // it was killed
	defer cmd.Process.Kill()
	var worker int
	if _, err := fmt.Fscanf(out, "worker %d\n", &worker); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(worker, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(ended, int(patience.Milliseconds()))
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(ended, int(patience.Milliseconds()))
	}
	if n != 1 {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		t.Errorf("the worker is still there (%v)", err)
	}
}

// beTheDaemon opens the token, tells its worker, and has it hang.
func beTheDaemon(t *testing.T, config string) {
	var d daemon
	if err := json.Unmarshal([]byte(config), &d); err != nil {
		t.Fatal(err)
	}
	token, _ := open(t, hsm.Config{
		Worker: d.Worker, Env: d.Env, Module: d.Module, Label: d.Label, PIN: hsm.PINSource{File: d.PINFile},
		Ledger: &hsmtest.Ledger{}, Log: slog.New(slog.DiscardHandler), Timeout: 2 * patience,
	})
	key := newKey(t, token, "host", hsm.ECDSAP256)
	go func() { _, _ = key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256) }()
	fmt.Printf("worker %d\n", token.Status().PID)
	select {}
}

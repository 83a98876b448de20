package hsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/hsm"
)

// Need finds programs and libraries that not everyone has. It skips the test where
// one is missing, unless SIGNET_NEED_SERVERS is 1: then it fails it.
func Need(t testing.TB, globs ...string) (found []string) {
	t.Helper()
	for _, g := range globs {
		path := ""
		if !strings.Contains(g, "/") {
			path, _ = exec.LookPath(g)
		} else if all, _ := filepath.Glob(g); len(all) > 0 {
			path = all[0]
		}
		if path == "" && os.Getenv("SIGNET_NEED_SERVERS") == "1" {
			t.Fatalf("%s is not installed, and SIGNET_NEED_SERVERS=1", g)
		}
		if path == "" {
			t.Skipf("%s is not installed", g)
		}
		found = append(found, path)
	}
	return found
}

// NSS is a configuration for a fresh NSS database. It is a module that must be
// told by its initialisation where its token is.
func NSS(t testing.TB) hsm.Config {
	t.Helper()
	lib := Need(t, "/usr/lib/*/libsoftokn3.so", "certutil")[0]
	dir := tempDir(t)
	pin := pinFile(t, dir)
	run(t, nil, "certutil", "-N", "-d", "sql:"+dir, "-f", pin)
	return hsm.Config{
		Name: "default", Worker: Worker(t), Module: lib, Label: "NSS Certificate DB", PIN: hsm.PINSource{File: pin},
		InitArgs: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags=noModDB", dir),
	}
}

// TPM is a configuration for a token in a fresh software TPM, behind a resource
// manager on a bus of its own.
func TPM(t testing.TB) hsm.Config {
	t.Helper()
	lib := Need(t, "/usr/lib/*/libtpm2_pkcs11.so.1", "swtpm", "tpm2-abrmd", "tpm2_ptool", "dbus-daemon")[0]
	dir := tempDir(t)
	for _, d := range []string{"tpm", "store"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	port := twoPorts(t)
	spawn(t, nil, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir+"/tpm", "--flags", "not-need-init,startup-clear",
		"--server", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", port), "--ctrl", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", port+1))
	listens(t, port+1)
	bus := "unix:path=" + dir + "/bus"
	spawn(t, nil, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+bus)
	exists(t, dir+"/bus")
	env := []string{"DBUS_SESSION_BUS_ADDRESS=" + bus, "TPM2_PKCS11_TCTI=tabrmd:bus_type=session", "TPM2TOOLS_TCTI=tabrmd:bus_type=session",
		"TPM2_PKCS11_STORE=" + dir + "/store", "TSS2_LOG=all+NONE"}
	// More transient objects than usual, because each key that is in use is one.
	spawn(t, env, "tpm2-abrmd", fmt.Sprintf("--tcti=swtpm:host=127.0.0.1,port=%d", port), "--session", "--allow-root", "--flush-all", "--max-transients=100")
	owned(t, bus, env)
	run(t, env, "tpm2_ptool", "init", "--path", dir+"/store")
	run(t, env, "tpm2_ptool", "addtoken", "--pid", "1", "--label", "tpm", "--sopin", SOPIN, "--userpin", PIN, "--path", dir+"/store")
	return hsm.Config{Name: "default", Worker: Worker(t), Env: env, Module: lib, Label: "tpm", PIN: hsm.PINSource{File: pinFile(t, dir)}}
}

// Bring has another program put an object with this label on a token: data, or where
// the module keeps none, as that of NSS, the certificate that file has to be.
func Bring(t testing.TB, cfg hsm.Config, file, label string) {
	t.Helper()
	if _, args, ok := strings.Cut(cfg.InitArgs, "'"); ok {
		db, _, _ := strings.Cut(args, "'")
		run(t, nil, "certutil", "-A", "-d", db, "-f", cfg.PIN.File, "-n", label, "-t", ",,", "-i", file)
		return
	}
	run(t, cfg.Env, "pkcs11-tool", "--module", cfg.Module, "--token-label", cfg.Label, "--login", "--pin", PIN,
		"--write-object", file, "--type", "data", "--label", label, "--private")
}

func pinFile(t testing.TB, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "pin")
	if err := os.WriteFile(name, []byte(PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func run(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// spawn starts a program that runs until the test ends.
func spawn(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() && out.Len() > 0 {
			t.Logf("%s said:\n%s", name, out.String())
		}
	})
}

// await waits for something that a program brings about.
func await(t testing.TB, what string, good func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for {
		err := good()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func exists(t testing.TB, name string) {
	t.Helper()
	await(t, name, func() error { _, err := os.Stat(name); return err })
}

func listens(t testing.TB, port int) {
	t.Helper()
	await(t, "port", func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err
	})
}

// owned waits until the resource manager has its name on the bus.
func owned(t testing.TB, bus string, env []string) {
	t.Helper()
	await(t, "tpm2-abrmd", func() error {
		cmd := exec.Command("dbus-send", "--bus="+bus, "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus",
			"org.freedesktop.DBus.NameHasOwner", "string:com.intel.tss2.Tabrmd")
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err == nil && !bytes.Contains(out, []byte("boolean true")) {
			err = errors.New("not on the bus yet")
		}
		return err
	})
}

// twoPorts finds a free port whose successor is free too: the simulator wants
// its control channel there.
func twoPorts(t testing.TB) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		l.Close()
		if err == nil {
			next.Close()
			return port
		}
	}
	t.Fatal("no two free ports side by side")
	return 0
}

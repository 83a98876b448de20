package systemd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bed is a running systemd; see testbed.sh.
type bed struct {
	t    *testing.T
	name string
	root string // as it is seen from here
}

// newBed boots a bed with the agent's units and user in it, over the machine's own
// root or the one that SIGNET_TESTBED_ROOT names. Where that cannot be done the
// test is skipped, unless SIGNET_NEED_SYSTEMD=1.
func newBed(t *testing.T) *bed {
	t.Helper()
	cannot := t.Skipf
	if os.Getenv("SIGNET_NEED_SYSTEMD") == "1" {
		cannot = t.Fatalf
	}
	if os.Getuid() != 0 {
		cannot("a systemd can be booted by root only")
	}
	for _, need := range []string{"/lib/systemd/systemd", "/usr/bin/dbus-daemon", "/usr/bin/nsenter", "/usr/bin/unshare"} {
		if _, err := os.Stat(need); err != nil {
			cannot("no systemd to boot: %v", err)
		}
	}
	b := &bed{t: t, name: fmt.Sprintf("test-%d-%s", os.Getpid(), strings.ToLower(t.Name()))}
	up := []string{"up", "-n", b.name}
	if root := os.Getenv("SIGNET_TESTBED_ROOT"); root != "" {
		up = append(up, "-r", root)
	}
	if out, err := exec.Command("./testbed.sh", up...).CombinedOutput(); err != nil {
		cannot("systemd does not boot here: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("journal:\n%s", b.try("journalctl", "--no-pager", "-o", "short-monotonic", "-u", "signet*"))
		}
		if out, err := exec.Command("./testbed.sh", "down", "-n", b.name).CombinedOutput(); err != nil {
			t.Errorf("bed does not go down: %v\n%s", err, out)
		}
	})
	root, err := exec.Command("./testbed.sh", "root", "-n", b.name).Output()
	if err != nil {
		t.Fatal(err)
	}
	b.root = strings.TrimSpace(string(root))
	b.install()
	return b
}

// install does what the package does.
func (b *bed) install() {
	b.t.Helper()
	for _, unit := range []string{"signet.service", "signet.socket", "signet-credentials.socket"} {
		b.copy(unit, "/lib/systemd/system/"+unit, 0o644)
	}
	b.copy("../packaging/sysusers.d/signet.conf", "/usr/lib/sysusers.d/signet.conf", 0o644)
	b.copy("../packaging/tmpfiles.d/signet.conf", "/usr/lib/tmpfiles.d/signet.conf", 0o644)
	b.run("systemd-sysusers", "signet.conf")
	b.run("systemd-tmpfiles", "--create", "signet.conf")
}

// build builds a command of this repository into the bed.
func (b *bed) build(pkg, to, cgo string) {
	b.t.Helper()
	bin := filepath.Join(b.t.TempDir(), "bin")
	cmd := exec.Command("go", "build", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	b.copy(bin, to, 0o755)
}

func (b *bed) copy(from, to string, mode os.FileMode) {
	b.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		b.t.Fatal(err)
	}
	b.write(to, string(data), mode)
}

func (b *bed) write(path, text string, mode os.FileMode) {
	b.t.Helper()
	path = b.root + path
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		b.t.Fatal(err)
	}
}

// dropIn changes signet.service as an administrator does.
func (b *bed) dropIn(lines ...string) {
	b.t.Helper()
	b.write("/etc/systemd/system/signet.service.d/test.conf", "[Service]\n"+strings.Join(lines, "\n")+"\n", 0o644)
	b.run("systemctl", "daemon-reload")
}

// run runs a command in the bed, which must succeed.
func (b *bed) run(args ...string) string {
	b.t.Helper()
	cmd := exec.Command("./testbed.sh", append([]string{"exec", "-n", b.name}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// try runs a command in the bed and returns all that it says.
func (b *bed) try(args ...string) string {
	out, _ := exec.Command("./testbed.sh", append([]string{"exec", "-n", b.name}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// property is one of signet.service.
func (b *bed) property(name string) string {
	b.t.Helper()
	return b.run("systemctl", "show", "--value", "-p", name, "signet.service")
}

// await waits until a property is as wanted.
func (b *bed) await(name, want string) {
	b.t.Helper()
	b.awaitText(name+" is "+want, func() string { return b.property(name) }, func(got string) bool { return got == want })
}

// awaitText waits until what can be read somewhere is as wanted.
func (b *bed) awaitText(what string, read func() string, wanted func(string) bool) {
	b.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		got := read()
		if wanted(got) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("never seen: %s; it is %q", what, got)
		}
	}
}

// ask connects to a socket in the bed and reads what it answers.
func (b *bed) ask(path, send string) string {
	b.t.Helper()
	// By a short name of its own: the path through /proc may be too long.
	link := filepath.Join(b.t.TempDir(), "s")
	if err := os.Symlink(b.root+path, link); err != nil {
		b.t.Fatal(err)
	}
	c, err := net.Dial("unix", link)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	if send != "" {
		if _, err := io.WriteString(c, send); err != nil {
			b.t.Fatal(err)
		}
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(answer)
}

package files

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mountFile mounts a file over path, as containers do, and returns the file
// behind it.
func mountFile(t *testing.T, path, text string) string {
	t.Helper()
	behind := filepath.Join(tempDir(t), "behind")
	for _, p := range []string{behind, path} {
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(behind, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mounts: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return behind
}

// A target that cannot be renamed onto is written in place, never to nothing,
// and a marker that a crash has left goes when it is right.
func TestMountIsWrittenInPlace(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "pw")
	behind := mountFile(t, path, "old")
	r := start(t, File{Path: path, Secret: "db", Field: "password", Mode: 0o640, KeepPrevious: true})
	for _, s := range []string{"a longer one", "short"} {
		if err := r.PublishSecret(db(s, s)); err != nil {
			t.Fatal(err)
		}
		if !holds(path, s, 0o640) || !holds(behind, s, 0o640) {
			t.Errorf("%s is not in the file", s)
		}
	}
	marker := filepath.Join(dir, ".signet-writing-pw")
	if _, err := os.Stat(marker); !os.IsNotExist(err) {
		t.Errorf("the marker is left: %v", err)
	}
	if err := rollBack(r, path); err != nil || !holds(path, "a longer one", 0o640) {
		t.Errorf("not rolled back: %v", err)
	}

	// As a crash in the middle leaves it.
	r.stop()
	if err := errors.Join(os.WriteFile(behind, []byte("shonger one"), 0o640), os.WriteFile(marker, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	again := start(t, File{Path: path, Secret: "db", Field: "password", Mode: 0o640})
	if err := again.PublishSecret(db("short", "short")); err != nil || !holds(path, "short", 0o640) {
		t.Errorf("not right after a crash: %v", err)
	}
	if _, err := os.Stat(marker); !os.IsNotExist(err) {
		t.Errorf("the marker is left: %v", err)
	}
	eventually(t, time.Second, "the mounted file is watched", func() bool { return len(again.watched()) == 1 })
	if err := os.WriteFile(behind, []byte("other"), 0o640); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "the repair", func() bool { return again.repaired() && holds(path, "short", 0o640) })

	err := again.WithdrawSecret("db")
	if err == nil || !strings.Contains(err.Error(), "mounted") || !holds(path, "short", 0o640) {
		t.Errorf("a withdrawn file that cannot be removed: %v", err)
	}
}

func TestMountIsRefusedIfSoConfigured(t *testing.T) {
	path := filepath.Join(tempDir(t), "pw")
	mountFile(t, path, "old")
	r := start(t, File{Path: path, Secret: "db", Field: "password", RefuseInPlace: true})
	err := r.PublishSecret(db("1", "new"))
	if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(err.Error(), "in_place: refuse") || e.Hint() == "" || !holds(path, "old", 0o600) {
		t.Errorf("error %v", err)
	}
}

func TestSetCannotBeAMount(t *testing.T) {
	dir := tempDir(t)
	if err := os.Mkdir(filepath.Join(dir, "tls"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "tls"), "tmpfs", 0, "mode=755"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "tls"), unix.MNT_DETACH) })
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}})
	if err := r.PublishSecret(both(1)); err == nil || !strings.Contains(err.Error(), "it is a mount") {
		t.Errorf("error %v", err)
	}
}

// The ACL is there before the name is, and nothing else than it: not what the
// directory would give.
func TestACL(t *testing.T) {
	dir := tempDir(t)
	inherited, err := parseACL([]string{"u:1:rw"}, 0o750)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir, "system.posix_acl_default", inherited, 0); err != nil {
		t.Skipf("no ACLs here: %v", err)
	}
	path, plain := filepath.Join(dir, "pw"), filepath.Join(dir, "plain")
	r := start(t, File{Path: path, Secret: "db", Field: "password", Mode: 0o600, ACL: []string{"u:65534:r", "g:7:rw-", "u:3:---"}},
		File{Path: plain, Secret: "db", Field: "password", Mode: 0o640})
	if err := r.PublishSecret(db("1", "x")); err != nil {
		t.Fatal(err)
	}
	if !holds(path, "x", 0o660) || !holds(plain, "x", 0o640) { // the mask shows in the mode
		t.Error("content or mode")
	}
	buf := make([]byte, 200)
	if n, err := unix.Getxattr(plain, xattrACL, buf); err == nil {
		t.Errorf("inherited ACL of %d bytes", n)
	}
	want := map[string]string{"user::rw-": "", "user:65534:r--": "", "user:3:---": "", "group::---": "", "group:7:rw-": "", "mask::rw-": "", "other::---": ""}
	if out, err := exec.CommandContext(t.Context(), "getfacl", "-nE", "--absolute-names", "-c", path).Output(); err == nil { // the real tool reads the same
		for line := range strings.FieldsSeq(string(out)) {
			if _, ok := want[line]; !ok {
				t.Errorf("getfacl says %s", line)
			}
			delete(want, line)
		}
		if len(want) != 0 {
			t.Errorf("getfacl lacks %v", want)
		}
	}
	n, err := unix.Getxattr(path, xattrACL, buf)
	if err != nil || !bytes.Equal(buf[:n], r.targets[path].entries[0].attr.acl) {
		t.Errorf("%x, %v", buf[:n], err)
	}
	if err := unix.Removexattr(path, xattrACL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "the ACL is put right", func() bool {
		n, err := unix.Getxattr(path, xattrACL, buf)
		return err == nil && n > 0 && r.repaired()
	})
}

func TestACLFaults(t *testing.T) {
	for _, text := range []string{"u:app", "x:1:r", "u:no-such-user:r", "g::r", "u:1:rq"} {
		if _, err := parseACL([]string{text}, 0o600); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := parseACL([]string{"u:1:r", "user:1:w"}, 0o600); err == nil {
		t.Error("an entry that is there twice is taken")
	}
}

// The label is there before the name is, and is put right; one that cannot be
// set keeps the file from appearing.
func TestLabel(t *testing.T) {
	dir := memDir(t)
	path, bad := filepath.Join(dir, "pw"), filepath.Join(dir, "bad")
	const label, other = testLabel, "system_u:object_r:tmp_t:s0"
	labelled(t, dir)
	r := start(t, File{Path: path, Secret: "db", Field: "password", SELinux: label},
		File{Path: bad, Secret: "db", Field: "password", SELinux: strings.Repeat("x", 1<<16)})
	err := r.PublishSecret(db("1", "x"))
	if e, ok := errors.AsType[*Error](err); !ok || e.Path != bad || strings.Contains(err.Error(), path+`"`) || !strings.Contains(err.Error(), "set SELinux label") {
		t.Errorf("error %v", err)
	}
	eventually(t, time.Second, "nothing else is left", func() bool { // the bad one may just be tried again
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) == 1 && holds(path, "x", 0o600)
	})
	is := func() bool {
		buf := make([]byte, 100)
		n, err := unix.Getxattr(path, xattrLabel, buf)
		return err == nil && string(buf[:n]) == label+"\x00"
	}
	if !is() {
		t.Error("not labelled")
	}
	if err := unix.Setxattr(path, xattrLabel, []byte(other), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "the label is put right", func() bool { return is() && r.repaired() })
}

// No directory on the way may be somebody else's to exchange.
func TestForeignParentsAreRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	top := tempDir(t)
	dir := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pw")
	r := start(t, File{Path: path, Secret: "db", Field: "password"})
	for _, tt := range []struct {
		uid  int
		mode os.FileMode
		want string
	}{
		{61777, 0o755, top + "/a: it belongs to user 61777"},
		{0, 0o777, top + "/a: everyone can write to it"},
		{0, 0o755, ""},
		{0, os.ModeSticky | 0o777, ""}, // whose b is stays root's affair
	} {
		if err := errors.Join(os.Chown(filepath.Join(top, "a"), tt.uid, 0), os.Chmod(filepath.Join(top, "a"), tt.mode)); err != nil {
			t.Fatal(err)
		}
		err := r.PublishSecret(db("1", tt.want+"x"))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d, %v: error %v", tt.uid, tt.mode, err)
		}
	}
	if err := os.Chown(filepath.Join(top, "a"), 61777, 0); err != nil {
		t.Fatal(err)
	}
	// Who owns what the agent's state lies in could do worse.
	trusting := startWith(t, Config{Files: []File{{Path: path, Secret: "db", Field: "password"}}, Trusted: filepath.Join(top, "a", "state", "signet")})
	if err := trusting.PublishSecret(db("1", "x")); err != nil {
		t.Error(err)
	}
}

// A link that a consumer plants where the agent writes leads it nowhere.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	dir, elsewhere := tempDir(t), tempDir(t)
	victim := filepath.Join(elsewhere, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pw")
	for _, name := range []string{"pw", ".signet-next-pw", ".signet-prev-pw", ".signet-writing-pw"} {
		if err := os.Symlink(victim, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := start(t, File{Path: path, Secret: "db", Field: "password", KeepPrevious: true})
	for _, s := range []string{"1", "2"} {
		if err := r.PublishSecret(db(s, s)); err != nil || !holds(path, s, 0o600) {
			t.Errorf("not written: %v", err)
		}
	}
	if err := rollBack(r, path); err != nil || !holds(path, "1", 0o600) {
		t.Errorf("not rolled back: %v", err)
	}
	if !holds(victim, "precious", 0o600) {
		t.Error("a planted link was followed")
	}
}

// A full disk, a missing right and a bad template are one clear line each.
func TestSetKeepsTheLastGoodGeneration(t *testing.T) {
	dir := tempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=755"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	r := startWith(t, Config{Sets: []Set{pairSet(dir, 1)}})
	if err := r.PublishSecret(both(1)); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600) // as much as fits
	err := r.PublishSecret(both(20000))
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, unix.ENOSPC) || e.Hint() == "" || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
	if u, p, err := readSet(filepath.Join(dir, "tls")); err != nil || u != p || !strings.HasPrefix(u, "1\n") {
		t.Errorf("the last good generation is not in place: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "it is written once there is room", func() bool {
		u, _, err := readSet(filepath.Join(dir, "tls"))
		return err == nil && strings.HasPrefix(u, "20000")
	})
}

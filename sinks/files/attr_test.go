package files

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const testLabel = "system_u:object_r:cert_t:s0"

// labelled skips a test where files in a directory cannot have an SELinux
// label. Kernels without SELinux let root set what they do not know.
func labelled(t *testing.T, dir string) {
	t.Helper()
	switch err := unix.Setxattr(dir, xattrLabel, []byte(testLabel+"\x00"), 0); {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL): // EINVAL: a policy that does not know it
		t.Skipf("no labels here: %v", err)
	case err != nil:
		t.Fatal(err)
	}
}

// Whoever opens a file by its name finds it with its label, its ACL, its owner
// and its mode, at the first moment that the name is there and at any other.
func TestNobodySeesAFileWithoutItsAttributes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := memDir(t)
	labelled(t, dir)
	with := func(f File) File {
		f.Secret, f.Field, f.Owner, f.Group, f.Mode = "db", "password", "61777", "61778", 0o640
		f.ACL, f.SELinux = []string{"u:61779:r"}, testLabel
		return f
	}
	want, err := parseACL([]string{"u:61779:r"}, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	plain, kept, set := filepath.Join(dir, "plain"), filepath.Join(dir, "kept"), filepath.Join(dir, "set")
	f, err := New(Config{Files: []File{with(File{Path: plain}), with(File{Path: kept, KeepPrevious: true})},
		Sets: []Set{{Dir: set, Keep: 1, Entries: []File{with(File{Path: "pw"})}}}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	looks := map[string]int{}
	var mu sync.Mutex
	for _, path := range []string{plain, kept, filepath.Join(set, "pw")} {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					mu.Lock()
					looks[filepath.Base(path)] += n
					mu.Unlock()
					return
				default:
				}
				if what := undressed(path, want); what != "" {
					t.Errorf("%s: seen with %s", path, what)
					return
				}
			}
		})
	}
	for i := range 300 {
		if i%2 == 0 { // the name comes anew as well
			if err := errors.Join(os.RemoveAll(plain), os.RemoveAll(kept), os.RemoveAll(set)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.PublishSecret(db(strconv.Itoa(i), strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("looked at: %v", looks)
}

// undressed says what a file lacks, or "" if it has all or is not there.
func undressed(path string, acl []byte) string {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	} else if err != nil {
		return err.Error()
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err.Error()
	}
	label, has := xattr(int(f.Fd()), xattrLabel), xattr(int(f.Fd()), xattrACL)
	switch {
	case string(label) != testLabel+"\x00":
		return "label " + strconv.Quote(string(label))
	case !bytes.Equal(has, acl):
		return "another ACL"
	case st.Uid != 61777 || st.Gid != 61778 || st.Mode&0o7777 != 0o640:
		return "another owner or mode"
	}
	return ""
}

// What cannot be given to a file keeps what it held in its place, a set its
// generation, and leaves nothing behind; the others are written.
func TestAttributesThatCannotBeSet(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fs    string // mounted for the test
		file  File
		want  error
		words string
	}{
		{"Label", "tmpfs", File{SELinux: strings.Repeat("x", 1<<16)}, nil, "set SELinux label"}, // longer than any value may be
		{"LabelWhereThereAreNone", "ramfs", File{SELinux: testLabel}, unix.ENOTSUP, "set SELinux label"},
		{"ACLWhereThereAreNone", "ramfs", File{ACL: []string{"u:61779:r"}}, unix.ENOTSUP, "set ACL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, elsewhere := tempDir(t), filepath.Join(tempDir(t), "pw")
			if err := unix.Mount(tt.fs, dir, tt.fs, 0, "mode=755"); err != nil {
				t.Skipf("no %s: %v", tt.fs, err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			path, set := filepath.Join(dir, "pw"), filepath.Join(dir, "tls")
			config := func(f File) Config {
				f.Secret, f.Field, f.Path = "db", "password", path
				in, other := f, File{Path: elsewhere, Secret: "db", Field: "password"}
				in.Path = "pw"
				return Config{Files: []File{f, other}, Sets: []Set{{Dir: set, Keep: 1, Entries: []File{in}}}}
			}
			before, err := New(config(File{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := before.PublishSecret(db("1", "first")); err != nil {
				t.Fatal(err)
			}
			f, err := New(config(tt.file))
			if err != nil {
				t.Fatal(err)
			}
			err = f.PublishSecret(db("2", "second"))
			if e, ok := errors.AsType[*Error](err); !ok || tt.want != nil && (!errors.Is(err, tt.want) || e.Hint() == "") {
				t.Errorf("error %v", err)
			}
			if err == nil || strings.Count(err.Error(), tt.words) != 2 || strings.Contains(err.Error(), "second") || strings.Contains(err.Error(), elsewhere) {
				t.Errorf("error %v, want %q of the file and of the set", err, tt.words)
			}
			if !holds(path, "first", 0o600) || !holds(filepath.Join(set, "pw"), "first", 0o600) || !holds(elsewhere, "second", 0o600) {
				t.Error("the last good files are gone, or the other one was not written")
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 3 || len(generations(t, dir)) != 1 {
				t.Errorf("left in the directory: %v, %v", left, err)
			}
		})
	}
}

// A directory that gives its group to what is made in it does not give it to the
// agent's files, and a start finds them right.
func TestAFileHasTheAgentsGroupInADirectoryThatGivesItsOwn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := tempDir(t)
	if err := errors.Join(os.Chown(dir, 0, 61778), os.Chmod(dir, os.ModeSetgid|0o750)); err != nil {
		t.Fatal(err)
	}
	path, set := filepath.Join(dir, "pw"), filepath.Join(dir, "tls")
	written := 0
	for range 3 {
		f, err := New(Config{Files: []File{{Path: path, Secret: "db", Field: "password", Mode: 0o640}}, Sets: []Set{pairSet(dir, 1)},
			Written: func(ds []Delivery) { written += len(ds) }})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.PublishSecret(both(1)); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, filepath.Join(set, "password")} {
			var st unix.Stat_t
			if err := unix.Stat(p, &st); err != nil || int(st.Gid) != os.Getegid() || st.Mode&0o7777 != 0o640 {
				t.Errorf("%s: group %d, mode %o, %v", p, st.Gid, st.Mode, err)
			}
		}
	}
	if written != 2 {
		t.Errorf("written %d times in 3 starts, want each once", written)
	}
}

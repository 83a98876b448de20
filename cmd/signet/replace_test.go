package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file is replaced and never written to: who has the old one open still reads
// all of it. A link stays a link, what is no file stays, and nothing is left
// beside it.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link, socket := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "socket")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := replaceFile(file, "old", 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := replaceFile(link, "new", 0o644); err != nil {
		t.Fatal(err)
	}
	mode := func(path string) os.FileMode {
		t.Helper()
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}
	before := make([]byte, 10)
	if n, err := old.Read(before); err != nil || string(before[:n]) != "old" {
		t.Errorf("the old file has %q, %v", before[:n], err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "new" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if got := mode(file); got != 0o644 {
		t.Errorf("the file is %v", got)
	}
	if to, err := os.Readlink(link); err != nil || to != "file" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	for _, path := range []string{socket, dir} {
		if err := replaceFile(path, "x", 0o600); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := mode(socket); got.Type() != os.ModeSocket {
		t.Errorf("the socket is %v", got)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 3 {
		t.Errorf("left are %v, %v", all, err)
	}
}

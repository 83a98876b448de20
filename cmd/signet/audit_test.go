package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-agent/signet/internal/access"
)

// run runs a command line in this process.
func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = signet(args, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// auditFile is an audit file of three reads.
func auditFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	a, err := access.OpenAudit(access.AuditConfig{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "three"} {
		if err := a.Append(&access.Entry{Event: "secret.read", Kind: access.Secret, Name: name, Outcome: "ok"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAuditVerifyFindsAChange(t *testing.T) {
	file := auditFile(t)
	if status, out, errs := run(t, "audit", "verify", "--file", file); status != exitDone || !strings.Contains(out, ": ok: ") {
		t.Errorf("as written: status %d, %q, %q", status, out, errs)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"changed": bytes.Replace(data, []byte("two"), []byte("tow"), 1),
		"cut":     data[:len(data)-3],
		"removed": removeLine(data, "two"),
	} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if status, out, errs := run(t, "audit", "verify", "--file", file); status != exitFailed || out != "" || !strings.Contains(errs, file+": line ") {
			t.Errorf("%s: status %d, %q, %q", name, status, out, errs)
		}
	}
}

func removeLine(data []byte, with string) []byte {
	var out []byte
	for line := range bytes.Lines(data) {
		if !bytes.Contains(line, []byte(with)) {
			out = append(out, line...)
		}
	}
	return out
}

func TestAuditTail(t *testing.T) {
	file := auditFile(t)
	status, out, errs := run(t, "audit", "tail", "--file", file, "-n", "2")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(data), "\n")
	want := strings.Join(lines[len(lines)-3:], "")
	if status != exitDone || out != want {
		t.Errorf("the last two: status %d, %q, want %q; %q", status, out, want, errs)
	}
	if _, out, _ := run(t, "audit", "tail", "--file", file, "-n", "1000"); out != string(data) {
		t.Errorf("more than there are: %q", out)
	}
	if _, out, _ := run(t, "audit", "tail", "--file", file, "-n", "0"); out != "" {
		t.Errorf("none: %q", out)
	}
	if status, _, errs := run(t, "audit", "tail", "--file", file+"x"); status != exitFailed || !strings.Contains(errs, "no such file") {
		t.Errorf("no file: status %d, %q", status, errs)
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
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

// The signatures are checked by the keys beside the file, through all files.
func TestAuditVerifyChecksSignatures(t *testing.T) {
	t.Setenv("SIGNET_SOCKET", filepath.Join(t.TempDir(), "none"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	a, err := access.OpenAudit(access.AuditConfig{Path: file, MaxSize: 2000,
		Sign: func(_ context.Context, digest [32]byte) ([]byte, string, error) {
			sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
			return sig, "audit#1", err
		}})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := errors.Join(a.Append(&access.Entry{Event: "secret.read", Outcome: "ok"}), a.SignHead(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if status, out, _ := run(t, "audit", "verify", "--file", file); status != exitDone || !strings.Contains(out, "no signature was checked") {
		t.Errorf("without a key: status %d, %q", status, out)
	}
	for _, tt := range []struct {
		name string
		key  *ecdsa.PrivateKey
		want int
		says string
	}{{"right", key, exitDone, "files, ends with"}, {"wrong", otherKey(t), exitFailed, "the signature is not one of key"}} {
		der, err := x509.MarshalPKIXPublicKey(tt.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{"Key": "audit#1"}, Bytes: der})
		if err := os.WriteFile(access.AuditKeysFile(file), text, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"audit", "verify", "--file", file}, {"key", "verify-audit", "--file", file, "--keys", access.AuditKeysFile(file)}} {
			if status, out, errs := run(t, args...); status != tt.want || !strings.Contains(out+errs, tt.says) {
				t.Errorf("%s key, %v: status %d, %q, %q", tt.name, args[0], status, out, errs)
			}
		}
	}
}

func otherKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
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
}

// What cannot be verified says what, why and what to do, with the status of its
// kind.
func TestAuditBadInput(t *testing.T) {
	t.Setenv("SIGNET_SOCKET", filepath.Join(t.TempDir(), "none"))
	file := auditFile(t)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	headless := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(headless, data[bytes.IndexByte(data, '\n')+1:], 0o600); err != nil {
		t.Fatal(err)
	}
	none := file + "x"
	for _, tt := range []struct {
		args   string
		status int
		says   string
	}{
		{"tail --file " + none, exitNotFound, "signet: audit file " + none + ": there is none; name it with --file"},
		{"verify --file " + none, exitNotFound, "signet: audit file " + none + ": there is none; name it with --file"},
		{"verify --config " + none, exitUsage, "signet: "},
		{"tail -n -1", exitUsage, "signet: --lines is negative; see `signet audit tail --help`"},
		{"verify " + file, exitUsage, "is one argument too many"},
		{"verify --file " + file + " --keys " + none, exitFailed, "signet: public keys: open " + none},
		{"verify --file " + file + " --keys " + file, exitFailed, "holds none in PEM"},
		{"verify --file " + file + " --after " + strings.Repeat("1", 64), exitFailed, "line 1: does not follow"},
		{"verify --file " + headless, exitDone, "what came before the first line is in none of them"},
	} {
		status, out, errs := run(t, append([]string{"audit"}, strings.Fields(tt.args)...)...)
		if status != tt.status || !strings.Contains(out+errs, tt.says) || strings.Count(out+errs, "\n") != 1 {
			t.Errorf("%s: status %d, %q, %q; want %d, %q", tt.args, status, out, errs, tt.status, tt.says)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
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
		"changed":           bytes.Replace(data, []byte("two"), []byte("tow"), 1),
		"cut":               data[:len(data)-3],
		"removed":           removeLine(data, "two"),
		"first":             removeLine(data, "audit.opened"),
		"last":              removeLine(data, "three"),
		"changed last line": bytes.Replace(data, []byte("three"), []byte("threw"), 1),
	} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if status, out, errs := run(t, "audit", "verify", "--file", file); status != exitFailed || out != "" || !strings.Contains(errs, file+": line ") {
			t.Errorf("%s: status %d, %q, %q", name, status, out, errs)
		}
	}
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := run(t, "audit", "verify", "--file", file); status != exitFailed || out != "" || !strings.Contains(errs, "there is no line in it") {
		t.Errorf("emptied: status %d, %q, %q", status, out, errs)
	}
}

// agentWith is an agent that answers about its audit, for as long as the test
// lasts.
func agentWith(t *testing.T, status int, answer any) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/audit" { // lines are asked for only where the file is not named
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.Header().Set("Content-Type", map[bool]string{true: "application/json", false: "application/problem+json"}[status == 200])
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer)
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	t.Setenv("SIGNET_SOCKET", path)
}

// signedFile is an audit file of some reads, whose end a key has signed.
func signedFile(t *testing.T, key *ecdsa.PrivateKey, name string, reads int) (file, head string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "audit.jsonl")
	a, err := access.OpenAudit(access.AuditConfig{Path: file, Sign: func(_ context.Context, digest [32]byte) ([]byte, string, error) {
		sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		return sig, name, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range reads {
		if err := a.Append(&access.Entry{Event: "secret.read", Outcome: "ok"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(a.SignHead(t.Context()), a.Close()); err != nil {
		t.Fatal(err)
	}
	return file, a.Head().Hash
}

// publicPEM is the public half of a key as it lies beside an audit.
func publicPEM(t *testing.T, key *ecdsa.PrivateKey, name string) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "PUBLIC KEY", Bytes: der}
	if name != "" {
		block.Headers = map[string]string{"Key": name}
	}
	return string(pem.EncodeToMemory(block))
}

// What lies beside the file, who can write it has made, down to a key of the next
// generation: while the agent answers, only its own word counts, for the keys and
// for the end.
func TestAuditVerifyBelievesTheAgentAlone(t *testing.T) {
	mine, theirs := otherKey(t), otherKey(t)
	type answer struct {
		File string           `json:"file"`
		Head string           `json:"head"`
		Keys []map[string]any `json:"keys"`
	}
	public := func(generation int, key *ecdsa.PrivateKey) map[string]any {
		return map[string]any{"name": "audit", "generation": generation, "public_key": publicPEM(t, key, "")}
	}
	good, head := signedFile(t, mine, "audit#2", 20)
	own := answer{good, head, []map[string]any{public(1, otherKey(t)), public(2, mine)}}

	agentWith(t, 200, own)
	if err := os.WriteFile(access.AuditKeysFile(good), []byte("nothing at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := run(t, "audit", "verify", "--file", good); status != exitDone || !strings.Contains(out, "by the keys of the agent") || !strings.Contains(out, "by the word of the agent") {
		t.Errorf("as written: status %d, %q, %q", status, out, errs)
	}

	// Made anew with another key, which is named beside it.
	forged, end := signedFile(t, theirs, "audit#9", 8)
	if err := os.WriteFile(access.AuditKeysFile(forged), []byte(publicPEM(t, mine, "audit#2")+publicPEM(t, theirs, "audit#9")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, head, says string
	}{
		{"the agent knows another end", head, "audit#9"},
		{"the agent was made to believe in this end", end, "signed with key \"audit#9\", whose public key is not known here (by the keys of the agent)"},
	} {
		agentWith(t, 200, answer{forged, tt.head, own.Keys})
		if status, out, errs := run(t, "audit", "verify", "--file", forged); status != exitFailed || out != "" || !strings.Contains(errs, tt.says) {
			t.Errorf("%s: status %d, %q, %q", tt.name, status, out, errs)
		}
	}

	// Lines after the last signature made anew, and what is beside with them.
	agentWith(t, 200, own)
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if err := os.WriteFile(good, bytes.Join(lines[:10], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(bytes.TrimSuffix(lines[9], []byte("\n")))
	if err := os.WriteFile(access.AuditEndFile(good), fmt.Appendf(nil, "%x\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := run(t, "audit", "verify", "--file", good); status != exitFailed || out != "" || !strings.Contains(errs, "its end is missing: the line with the hash "+head) {
		t.Errorf("cut: status %d, %q, %q", status, out, errs)
	}

	// An agent that does not tell is not silently replaced by what is beside.
	agentWith(t, 403, map[string]any{"code": "denied", "detail": "no rule allows it", "status": 403})
	if err := os.WriteFile(access.AuditKeysFile(forged), []byte(publicPEM(t, theirs, "audit#9")), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := run(t, "audit", "verify", "--file", forged); status != exitDone || !strings.Contains(out, "by the keys of "+access.AuditKeysFile(forged)) || !strings.Contains(out, "the agent does not say more: ") {
		t.Errorf("denied: status %d, %q, %q", status, out, errs)
	}
}

// Nothing is known of a copy but what it is told with: the end has to be named.
func TestAuditVerifyDemandsAnEnd(t *testing.T) {
	t.Setenv("SIGNET_SOCKET", filepath.Join(t.TempDir(), "none"))
	file := auditFile(t)
	end, err := access.ReadAuditEnd(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(access.AuditEndFile(file)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, exitFailed, "whether others followed is not known: no agent answers for this file"},
		{[]string{"--head", end}, exitDone, "by the word of --head"},
		{[]string{"--head", strings.Repeat("0", 64)}, exitFailed, "its end is missing"},
		{[]string{"--after", strings.Repeat("0", 64)}, exitDone, "by the word of nothing"},
	} {
		status, out, errs := run(t, append([]string{"audit", "verify", "--file", file}, tt.args...)...)
		if status != tt.status || !strings.Contains(out+errs, tt.says) {
			t.Errorf("%q: status %d, %q, %q", tt.args, status, out, errs)
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
	if status, _, errs := run(t, "audit", "verify", "--file", file); status != exitFailed || !strings.Contains(errs, "its signatures cannot be checked: no agent answers") {
		t.Errorf("without a key: status %d, %q", status, errs)
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
		{"verify --file " + headless + " --head " + strings.Repeat("2", 64), exitFailed, "line 1: its beginning is missing"},
	} {
		status, out, errs := run(t, append([]string{"audit"}, strings.Fields(tt.args)...)...)
		if status != tt.status || !strings.Contains(out+errs, tt.says) || strings.Count(out+errs, "\n") != 1 {
			t.Errorf("%s: status %d, %q, %q; want %d, %q", tt.args, status, out, errs, tt.status, tt.says)
		}
	}
}

// givingAgent is an agent that answers administrators with an audit, and everybody
// else with a refusal. Nobody can reach the file itself.
func givingAgent(t *testing.T, key *ecdsa.PrivateKey, file, head string, admin bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !admin:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(403)
			_, _ = io.WriteString(w, `{"code":"denied","detail":"administration: no rule of the policy allows it to this caller","status":403}`)
		case r.URL.Path == "/v1/audit":
			_ = json.NewEncoder(w).Encode(map[string]any{"file": "/nowhere/audit.jsonl", "head": head,
				"keys": []map[string]any{{"name": "audit", "generation": 1, "public_key": publicPEM(t, key, "")}}})
		case r.URL.Path == "/v1/audit/lines":
			var lines io.ReadCloser
			if last, err := strconv.Atoi(r.URL.Query().Get("last")); err == nil {
				lines, err = access.OpenAuditTail(file, last)
				must(t, err)
			} else {
				lines, err = access.OpenAuditLines(file, r.URL.Query().Get("after"))
				must(t, err)
			}
			defer lines.Close()
			_, _ = io.Copy(w, lines)
		}
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	t.Setenv("SIGNET_SOCKET", path)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// An administrator needs no right to the files: the agent gives the lines. Who is
// none is refused by the agent, and not by the lack of a configuration.
func TestAuditOfTheRunningAgent(t *testing.T) {
	key := otherKey(t)
	file, head := signedFile(t, key, "audit#1", 20)
	givingAgent(t, key, file, head, true)
	data, err := os.ReadFile(file)
	must(t, err)
	lines := bytes.SplitAfter(data, []byte("\n"))
	want := string(bytes.Join(lines[len(lines)-4:], nil))
	if status, out, errs := run(t, "audit", "tail", "-n", "3"); status != exitDone || out != want {
		t.Errorf("tail: status %d, %q, want %q; %s", status, out, want, errs)
	}
	for _, verify := range []string{"audit verify", "key verify-audit"} {
		status, out, errs := run(t, strings.Fields(verify)...)
		if status != exitDone || !strings.HasPrefix(out, "/nowhere/audit.jsonl: ok: 22 lines as the agent reads them, ends with "+head) ||
			!strings.Contains(out, "by the keys of the agent") || !strings.Contains(out, "by the word of the agent") {
			t.Errorf("%s: status %d, %q, %q", verify, status, out, errs)
		}
	}

	must(t, os.WriteFile(file, bytes.Join(append(lines[:5:5], lines[6:]...), nil), 0o600))
	status, out, errs := run(t, "audit", "verify")
	if status != exitFailed || out != "" || !strings.Contains(errs, "/nowhere/audit.jsonl, as the agent reads it: line 6: does not follow") {
		t.Errorf("with a line removed: status %d, %q, %q", status, out, errs)
	}
	must(t, os.WriteFile(file, bytes.Join(lines[:10], nil), 0o600))
	if status, out, errs := run(t, "audit", "verify"); status != exitFailed || out != "" || !strings.Contains(errs, "its end is missing") {
		t.Errorf("cut: status %d, %q, %q", status, out, errs)
	}

	if _, err := os.Stat(defaultConfig); err == nil {
		return // the audit that it names would be read instead
	}
	givingAgent(t, key, file, head, false)
	for _, args := range []string{"audit tail", "audit verify", "key verify-audit"} {
		if status, out, errs := run(t, strings.Fields(args)...); status != exitDenied || out != "" || !strings.Contains(errs, "no rule of the policy allows it") {
			t.Errorf("%s by nobody: status %d, %q, %q", args, status, out, errs)
		}
	}
	t.Setenv("SIGNET_SOCKET", filepath.Join(t.TempDir(), "none"))
	if status, _, errs := run(t, "audit", "tail"); status != exitUnavailable || !strings.Contains(errs, "is the agent running?") {
		t.Errorf("without an agent: status %d, %q", status, errs)
	}
}

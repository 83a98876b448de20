package agent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-agent/signet/internal/access"
)

// editAudit changes what is remembered of the audit.
func editAudit(t *testing.T, d memShelf, change func(*auditKept)) {
	t.Helper()
	var kept auditKept
	if err := json.Unmarshal(d[metaAudit], &kept); err != nil {
		t.Fatal(err)
	}
	change(&kept)
	text, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	d[metaAudit] = text
}

// auditRun is a life of an agent as far as its audit goes.
func auditRun(t *testing.T, d memShelf, s *sealer, path string, unlock bool, during func(*auditMemory)) *access.CutError {
	t.Helper()
	m, err := openAuditMemory(d, path)
	if err != nil {
		t.Fatal(err)
	}
	audit, err := access.OpenAudit(access.AuditConfig{Path: path, Known: m.head(), Remember: m.remember})
	if err != nil {
		t.Fatal(err)
	}
	if unlock {
		d[metaDataKey] = []byte("wrapped")
		if err := m.unlock(s, audit); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		if err := audit.Append(&access.Entry{Event: "secret.read", Outcome: "ok"}); err != nil {
			t.Fatal(err)
		}
	}
	during(m)
	if err := audit.Close(); err != nil {
		t.Fatal(err)
	}
	return audit.Cut()
}

// Who can write all of the agent's files, but cannot use its HSM, cannot make it
// believe that nothing was cut off the audit, nor in a key of their own.
func TestWhatIsRememberedOfTheAuditIsSealed(t *testing.T) {
	s, err := newSealer(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer(bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(*auditMemory) {}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, d memShelf, path string)
		cut    string
		keys   int
	}{
		{"nothing", func(*testing.T, memShelf, string) {}, "", 1},
		{"the HSM was away", func(t *testing.T, d memShelf, path string) { auditRun(t, d, s, path, false, nothing) }, "", 1},
		{"cut, and the plain end with it", func(t *testing.T, d memShelf, path string) {
			cutTo(t, path, 5)
			editAudit(t, d, func(k *auditKept) { k.Head = "" })
		}, "lines at its end are missing", 1},
		{"what is sealed was removed", func(t *testing.T, d memShelf, _ string) {
			editAudit(t, d, func(k *auditKept) { k.Sealed = nil })
		}, "removed or changed", 0},
		{"all of it was removed", func(t *testing.T, d memShelf, _ string) { delete(d, metaAudit) }, "removed or changed", 0},
		{"sealed with another key", func(t *testing.T, d memShelf, path string) {
			editAudit(t, d, func(k *auditKept) { k.Sealed = other.seal(sealedAudit, []byte(`{"Path":"`+path+`"}`)) })
		}, "removed or changed", 0},
		{"another file was configured", func(t *testing.T, d memShelf, path string) {
			elsewhere := filepath.Join(t.TempDir(), "other.jsonl")
			auditRun(t, d, s, elsewhere, true, nothing)
		}, "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, path := memShelf{}, filepath.Join(t.TempDir(), "audit.jsonl")
			if cut := auditRun(t, d, s, path, true, func(m *auditMemory) {
				if err := errors.Join(m.addKey(1, key.Public()), m.addKey(1, key.Public())); err != nil {
					t.Fatal(err)
				}
			}); cut != nil {
				t.Fatalf("the first start: %v", cut)
			}
			tt.change(t, d, path)
			cut := auditRun(t, d, s, path, true, func(m *auditMemory) {
				if keys, err := m.keys(); err != nil || len(keys) != tt.keys {
					t.Errorf("%d keys, %v; want %d", len(keys), err, tt.keys)
				}
			})
			if (cut != nil) != (tt.cut != "") || cut != nil && !strings.Contains(cut.Error(), tt.cut) {
				t.Errorf("cut: %v, want %q", cut, tt.cut)
			}
		})
	}
}

// cutTo leaves the first n lines of a file.
func cutTo(t *testing.T, path string, n int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	if err := os.WriteFile(path, bytes.Join(lines[:n], nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

package credentials

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// A line is what a test looks at of a line of the audit.
type line struct {
	ID       string
	Time     time.Time
	Resource string
	Path     string
	Event    string
	Outcome  string
}

// audited has a server write an audit, and returns what reads its lines about
// credentials; each has to have the time at which it was asked and an ID of its own.
func audited(t *testing.T, s *Server) func() []line {
	t.Helper()
	file, began := filepath.Join(t.TempDir(), "audit"), time.Now()
	audit, err := access.OpenAudit(access.AuditConfig{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Audit = audit
	return func() (lines []line) {
		t.Helper()
		if err := audit.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for row := range strings.Lines(string(text)) {
			var l line
			if err := json.Unmarshal([]byte(row), &l); err != nil {
				t.Fatalf("%v: %s", err, row)
			}
			if l.Event != "credential.read" {
				continue
			}
			if l.Time.Before(began.Add(-time.Second)) || l.Time.After(time.Now()) {
				t.Errorf("a line of another time: %s", row)
			}
			if l.ID == "" || ids[l.ID] {
				t.Errorf("a line without an ID of its own: %s", row)
			}
			ids[l.ID] = true
			lines = append(lines, l)
		}
		return lines
	}
}

// Whoever is not the service manager starting the unit is refused, and a
// refusal is longer than a credential can be. The audit says what was asked for.
func TestForgedAddressIsRefused(t *testing.T) {
	s := server(t, fetch(away))
	read := audited(t, s)
	path := serve(t, s)
	want := []line{
		{Resource: "secret/db", Path: "db.password"},
		{Resource: "certificate/web", Path: "web.pem"},
		{}, {}, // of nothing that could be named
	}
	for _, from := range []string{"@aaaabbbbccccdddd/unit/app.service/db.password", "@aaaabbbbccccdddd/unit/app.service/web.pem", "@not-a-credential", ""} {
		d := net.Dialer{}
		if from != "" {
			d.LocalAddr = &net.UnixAddr{Name: from, Net: "unix"}
		}
		c, err := d.DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(c)
		c.Close()
		if len(b) <= maxCredential || strings.Contains(string(b), "hunter2") {
			t.Errorf("%q: answered %d bytes, want more than %d", from, len(b), maxCredential)
		}
	}
	got := read()
	if len(got) != len(want) {
		t.Fatalf("%d lines in the audit, want %d: %+v", len(got), len(want), got)
	}
	for i, l := range got {
		if l.Outcome != "denied" || l.Resource != want[i].Resource || l.Path != want[i].Path {
			t.Errorf("line %d is %+v, want denied of %+v", i, l, want[i])
		}
	}
}

// What is delivered is in the audit: what it was, and when.
func TestDeliveriesAreInTheAudit(t *testing.T) {
	s := server(t, fetch(away))
	read := audited(t, s)
	for _, id := range []string{"db.username", "db.nope"} {
		here, there := net.Pipe()
		q := s.newCall(Held{Conn: here})
		go func() {
			q.about(address{"app.service", id})
			q.deliver(t.Context())
			here.Close()
		}()
		if _, err := io.ReadFull(there, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		there.Close()
	}
	got := read()
	if len(got) != 2 || got[0].Outcome != "ok" || got[1].Outcome != "invalid" {
		t.Fatalf("in the audit: %+v", got)
	}
	for _, l := range got {
		if l.Resource != "secret/db" || !strings.HasPrefix(l.Path, "db.") {
			t.Errorf("a line that does not say of what: %+v", l)
		}
	}
}

package socket

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// What is counted is written within ten seconds, if nobody asks any more too, and
// how many events there are does not matter for how much waits.
func TestRefusalsAreWrittenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		audit, err := access.OpenAudit(access.AuditConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer audit.Close()
		r := newRefusals(audit, func(string, ...any) { t.Error("not recorded") })
		r.limit = access.NewLimiter(access.Limit{PerSecond: 0.001, Burst: 1})
		waiting := func() int {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.held)
		}
		const many, each = 2*maxRefusals + 1, 4
		for uid := range uint32(many) {
			for range each {
				e := access.Entry{Time: time.Now(), Peer: &access.Peer{UID: uid}, Event: "secret.read", Outcome: CodeDenied}
				if err := r.add(&e); err != nil {
					t.Fatal(err)
				}
			}
			if n := waiting(); n > maxRefusals {
				t.Fatalf("%d wait", n)
			}
		}
		if waiting() == 0 {
			t.Fatal("nothing is counted")
		}
		time.Sleep(refusalsHeld + time.Second)
		synctest.Wait()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for line := range strings.Lines(string(text)) {
			var l struct {
				Event string
				Count int
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			if l.Event == "secret.read" {
				total += max(1, l.Count)
			}
		}
		if want := many * each; total != want {
			t.Errorf("%d are recorded, want %d", total, want)
		}
		if n := waiting(); n != 0 {
			t.Errorf("%d wait still", n)
		}
	})
}

// While nothing can be written, refusals are counted on, in a bounded place.
func TestRefusalsAreCountedWhileTheAuditFails(t *testing.T) {
	audit, err := access.OpenAudit(access.AuditConfig{Path: filepath.Join(t.TempDir(), "a")})
	if err != nil {
		t.Fatal(err)
	}
	audit.Close() // as good as a full disk
	r := newRefusals(audit, func(string, ...any) {})
	r.limit = access.NewLimiter(access.Limit{PerSecond: 0.001, Burst: 1})
	defer func() { r.tick.Stop() }()
	now, total := time.Now(), 0
	for uid := range uint32(2 * maxRefusals) {
		for range 3 {
			e := access.Entry{Time: now, Peer: &access.Peer{UID: uid}, Event: "secret.read", Outcome: CodeDenied}
			if r.add(&e) == nil {
				total++
			}
		}
	}
	counted := 0
	for _, e := range r.held {
		counted += e.Count
	}
	if counted != total || total != 2*2*maxRefusals || len(r.held) > maxRefusals+1 {
		t.Errorf("%d counted of %d, in %d places", counted, total, len(r.held))
	}
}

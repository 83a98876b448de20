package agent

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
)

// A said is a log that a test reads.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// lines are those with all of the words.
func (s *said) lines(words ...string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
lines:
	for line := range strings.Lines(s.b.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		found = append(found, line)
	}
	return found
}

// That a file cannot be written is said once by the agent as a whole, however
// often its secret changes.
func TestAFileThatCannotBeWrittenIsSaidOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := newConsumerRig(t, dir, config.File{}, config.File{Path: filepath.Join(dir, "none", "pw"), Content: config.Content{Secret: "db", Field: "password"}})
	defer r.close()
	var log said
	r.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := r.makeFiles(); err != nil { // with the log
		t.Fatal(err)
	}
	for _, version := range []string{"1", "2", "3", "4"} {
		r.publish(version)
	}
	if got := log.lines(filepath.Join(dir, "none")); len(got) != 1 {
		t.Errorf("said %d times:\n%s", len(got), strings.Join(got, ""))
	}
	if b, err := os.ReadFile(r.file); string(b) != "4" || err != nil {
		t.Errorf("the file that can be written has %q, %v", b, err)
	}
}

// A time that there is not is not said.
func TestWhenASecretRotatesIsSaidIfItDoes(t *testing.T) {
	for rotates, want := range map[time.Duration]bool{0: false, time.Hour: true} {
		synctest.Test(t, func(t *testing.T) {
			var log said
			b := newCacheBench(t, secretSpec{TTL: time.Hour}, nil, func() (upstream.Secret, error) {
				s := upstream.Secret{Fields: value("one")}
				if rotates > 0 {
					s.Expires = time.Now().Add(rotates)
				}
				return s, nil
			})
			b.log = slog.New(slog.NewTextHandler(&log, nil))
			defer b.start(t)()
			synctest.Wait()
			if got := log.lines("secret changed"); len(got) != 1 || strings.Contains(got[0], "rotates_at=") != want || strings.Contains(got[0], "0001-") {
				t.Errorf("rotates in %v: %q", rotates, got)
			}
		})
	}
}

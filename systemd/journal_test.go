package systemd

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
)

type entry struct {
	Message  string
	Priority journal.Priority
	Vars     map[string]string
}

// redacted logs as something else than it is, as a secret does.
type redacted string

func (redacted) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// TestJournal holds that levels become priorities and attributes fields, that
// no field can pass for one of the journal's own, and that no secret is in any.
func TestJournal(t *testing.T) {
	var got []entry
	send := func(m string, p journal.Priority, v map[string]string) error {
		got = append(got, entry{m, p, v})
		return nil
	}
	log := slog.New(newJournalHandler(slog.LevelDebug, send, slog.DiscardHandler))
	log.Info("secret changed", "secret", "db", "version", 7)
	log.With("certificate", "web").WithGroup("retry").Warn("not renewed", "in", time.Second, slog.Group("of", "n", 3))
	log.Error("odd", "_PID", "1", "MESSAGE", "x", "über", "ü", "value", redacted("hunter2"))
	log.Debug("bare")
	want := []entry{
		{"secret changed secret=db version=7", journal.PriInfo, map[string]string{"SIGNET_SECRET": "db", "SIGNET_VERSION": "7"}},
		{"not renewed certificate=web retry.in=1s retry.of.n=3", journal.PriWarning,
			map[string]string{"SIGNET_CERTIFICATE": "web", "SIGNET_RETRY_IN": "1s", "SIGNET_RETRY_OF_N": "3"}},
		{"odd _PID=1 MESSAGE=x über=ü value=[redacted]", journal.PriErr,
			map[string]string{"SIGNET__PID": "1", "SIGNET_MESSAGE": "x", "SIGNET__BER": "ü", "SIGNET_VALUE": "[redacted]"}},
		{"bare", journal.PriDebug, map[string]string{}},
	}
	for i := range want {
		want[i].Vars["SYSLOG_IDENTIFIER"] = "signet"
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
}

// TestJournalAway holds that nothing is lost when the journal does not take it.
func TestJournalAway(t *testing.T) {
	var out bytes.Buffer
	send := func(string, journal.Priority, map[string]string) error { return errors.New("away") }
	log := slog.New(newJournalHandler(nil, send, slog.NewTextHandler(&out, nil)))
	log.With("secret", "db").Info("changed")
	log.Debug("not this")
	if !strings.Contains(out.String(), "msg=changed secret=db") || strings.Contains(out.String(), "not this") {
		t.Errorf("standard error: %q", out.String())
	}
}

// TestLogFormats holds which handler is chosen.
func TestLogFormats(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	for format, want := range map[string]string{"": "msg=x", "text": "msg=x", "json": `"msg":"x"`} {
		var out bytes.Buffer
		slog.New(NewLogHandler(&out, LogOptions{Format: format})).Info("x")
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q: %q", format, out.String())
		}
	}
	if NewLogger(LogOptions{Level: slog.LevelError}).Enabled(t.Context(), slog.LevelInfo) {
		t.Error("the level is not obeyed")
	}
}

// TestListenersAbsent holds that without socket activation there are none.
func TestListenersAbsent(t *testing.T) {
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	if l, held, err := Listeners(); len(l)+len(held) != 0 || err != nil {
		t.Errorf("%v, %v", l, err)
	}
}

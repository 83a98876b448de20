package main

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-agent/signet/agent/config"
)

// That units are not told of new credentials, as systemd does not answer, is in
// the log with what to do; where units get none it is no matter.
func TestNoAnswerOfSystemdIsSaid(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "bus"))
	for path, want := range map[string]string{"": "", "/run/signet/credentials.sock": "systemctl reload signet"} {
		var log strings.Builder
		cfg := &config.Config{CredentialsSocket: config.CredentialsSocket{Path: path}}
		if refreshes(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil))) != nil {
			t.Errorf("socket %q: units are asked without a bus", path)
		}
		if got := log.String(); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("socket %q: the log is %q, want %q in it", path, got, want)
		}
	}
}

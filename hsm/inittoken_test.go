package hsm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestInitToken holds that a token is made once, with PINs from files, is not
// touched again, and that one left half-made is finished.
func TestInitToken(t *testing.T) {
	t.Parallel()
	s, ledger, guard := fresh(t)
	soPIN, empty := filepath.Join(s.Dir, "so-pin"), filepath.Join(s.Dir, "empty")
	write(t, soPIN, hsmtest.SOPIN+"\n")
	write(t, empty, "\n")
	text := filepath.Join(s.Dir, "text.so")
	write(t, text, "no library")
	initToken := func(module, label, pin, so string) (string, int) {
		cmd := exec.Command(s.Worker, "init-token", "--module", module, "--label", label, "--pin-file", pin, "--so-pin-file", so)
		cmd.Env = append(os.Environ(), s.Env...)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, status := initToken(s.Module, "made", s.PINFile, soPIN); status != 0 || out != "" {
		t.Fatalf("status %d: %s", status, out)
	}
	cfg := s.Config(ledger, guard)
	cfg.Label = "made"
	_, stop := open(t, cfg)
	stop()
	s.Run("pkcs11-tool", "--module", s.Module, "--slot-index", "2", "--init-token", "--label", "half", "--so-pin", hsmtest.SOPIN)
	for _, tt := range []struct {
		name, module, label, pin, so string
		status                       int
		want                         string
	}{
		{"there already", s.Module, "made", s.PINFile, soPIN, 1, `"made": there is a token with this label already`},
		{"no PIN", s.Module, "other", empty, soPIN, 1, "PIN_EMPTY"},
		{"no PIN file", s.Module, "other", s.Dir + "/nosuch", soPIN, 1, "PIN_UNREADABLE"},
		{"no library", text, "other", s.PINFile, soPIN, 1, "NOT_A_PKCS11_MODULE"},
		{"half-made, wrong officer", s.Module, "half", s.PINFile, s.PINFile, 1, "CKR_PIN_INCORRECT"},
		{"half-made", s.Module, "half", s.PINFile, soPIN, 0, ""},
		{"no label", s.Module, "", s.PINFile, soPIN, 2, "are all needed"},
	} {
		out, status := initToken(tt.module, tt.label, tt.pin, tt.so)
		if status != tt.status || !strings.Contains(out, tt.want) || tt.want == "" && out != "" {
			t.Errorf("%s: status %d, %q; want %d, %q", tt.name, status, out, tt.status, tt.want)
		}
	}
	cfg.Label = "half"
	open(t, cfg)
}

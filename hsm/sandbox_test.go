package hsm_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestSandbox holds what a library can do in the worker, and that it can be let do
// more; and that nobody can look into the worker.
func TestSandbox(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*hsm.Config)
		want   string
	}{
		{"as usual", func(*hsm.Config) {}, "network refused local allowed program refused files refused namespace refused dump refused kernel refused"},
		{"network HSM", func(c *hsm.Config) { c.Network = true },
			"network allowed local allowed program refused files refused namespace refused dump refused kernel refused"},
		{"switched off", func(c *hsm.Config) { c.NoSandbox = true },
			"network allowed local allowed program allowed files allowed namespace allowed dump refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := hsmtest.NewShim(t)
			escape := filepath.Join(s.Dir, "escape")
			if err := os.WriteFile(escape, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := s.Config(&hsmtest.Ledger{}, nil)
			tt.change(&cfg)
			token, _ := open(t, cfg)
			b, err := os.ReadFile(escape)
			if got := strings.Join(strings.Fields(string(b)), " "); err != nil || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
			status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(token.Status().PID), "status"))
			if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1") {
				t.Errorf("the worker may gain privileges; %v", err)
			}
			listensNowhere(t, token.Status().PID)
			limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(token.Status().PID), "limits"))
			if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
				t.Errorf("the worker may dump core; %v", err)
			}
		})
	}
}

// listensNowhere checks that no socket of a process has an address.
func listensNowhere(t *testing.T, pid int) {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	open, err := filepath.Glob(filepath.Join(proc, "fd", "*"))
	if err != nil || len(open) == 0 {
		t.Fatalf("open files of the worker: %v, %v", open, err)
	}
	own := map[string]bool{}
	for _, fd := range open {
		name, _ := os.Readlink(fd)
		if inode, ok := strings.CutPrefix(name, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	if len(own) == 0 {
		t.Error("the worker has no sockets at all")
	}
	// The inode is in this column, and a path in one after it.
	for table, column := range map[string]int{"unix": 6, "tcp": 9, "tcp6": 9, "udp": 9, "udp6": 9} {
		b, err := os.ReadFile(filepath.Join(proc, "net", table))
		if err != nil {
			continue // such as a host without IPv6
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > column && own[f[column]] && (table != "unix" || len(f) > column+1) {
				t.Errorf("the worker has an address: %s", line)
			}
		}
	}
}

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The file that the documentation of `ksctl login` prints.
const ksctlExample = `KSCTL_VERBOSITY: false
KSCTL_RESP: json
KSCTL_URL: https://kylo-system
KSCTL_USERNAME: admin
KSCTL_REFRESHTOKEN: icmtiodYvNfCAr5XXXODlgJjATkYPpYs3oHRXXXCdGWhGpSXXX70x3AQF1tkcpGO
KSCTL_CLIENTID: ffbbd794-68a3-4da9-83bc-9b0dd7a3ee48
KSCTL_NOSSLVERIFY: true
`

func TestKsctlFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte("# mine\n"+ksctlExample), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := readKsctl(path)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		ksctlURL: "https://kylo-system", ksctlUser: "admin", ksctlClient: "ffbbd794-68a3-4da9-83bc-9b0dd7a3ee48",
		ksctlToken: "icmtiodYvNfCAr5XXXODlgJjATkYPpYs3oHRXXXCdGWhGpSXXX70x3AQF1tkcpGO", "KSCTL_RESP": "json", "NOSUCH": "",
	} {
		if got := f.get(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	// What is not about the login stays, comments too.
	f.set(ksctlToken, "NEW")
	f.set(ksctlUser, "it's: me #1")
	f.remove(ksctlClient)
	f.set("KSCTL_DOMAIN", "root")
	if err := f.write(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	want := `# mine
KSCTL_VERBOSITY: false
KSCTL_RESP: json
KSCTL_URL: https://kylo-system
KSCTL_USERNAME: 'it''s: me #1'
KSCTL_REFRESHTOKEN: NEW
KSCTL_NOSSLVERIFY: true
KSCTL_DOMAIN: root
`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	if f, err = readKsctl(path); err != nil || f.get(ksctlUser) != "it's: me #1" {
		t.Errorf("%+v, %v", f, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: the file holds a token", info.Mode())
	}
}

func TestKsctlFileThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	for _, text := range []string{"- a\n", "KSCTL_URL https://x\n", "nested:\n  KSCTL_URL: x\n", "KSCTL_URL:x\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := readKsctl(path); err == nil {
			t.Errorf("%q: %+v", text, f)
		}
	}
	f, err := readKsctl(filepath.Join(t.TempDir(), "new", "config.yaml"))
	if err != nil || f.get("KSCTL_NOSSLVERIFY") != "false" {
		t.Errorf("%+v, %v", f, err)
	}
	f.set(ksctlToken, "x")
	if err := f.write(); err != nil {
		t.Error(err)
	}
}

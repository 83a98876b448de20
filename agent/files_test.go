package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// What is written where, whose it is and who is told shows in the plan, entries
// of sets with what they take from the set; and what the upstream refuses is
// removed everywhere.
func TestPlannedFilesAndRefusal(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	cfg := &config.Config{StateDir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run"), Files: []config.File{
		{Path: filepath.Join(dir, "pw"), Content: config.Content{Secret: "db", Field: "password"}, Access: config.Access{Mode: "0640", ACL: []string{"u:0:r"}},
			Reload: config.Reload{Exec: []string{"/bin/true"}}, Test: []string{"/bin/true", "-t"}, Prove: config.Prove{TLS: "127.0.0.1:1"}},
		{Dir: filepath.Join(dir, "set"), Access: config.Access{Owner: "0", Mode: "0644"}, Keep: 2, Entries: map[string]config.Entry{
			"pw":     {Content: config.Content{Secret: "db", Field: "password"}, Access: config.Access{Mode: "0600"}},
			"db.url": {Content: config.Content{Template: `db://{{ secret "db" "password" | url }}{{ (secret "user").name }}`}},
		}},
	}}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.DiscardHandler)}, st)
	if err != nil {
		t.Fatal(err)
	}
	defer a.audit.Close()
	plan := func() map[string]PlannedFile {
		out := map[string]PlannedFile{}
		for _, f := range (backend{a}).Plan().(Plan).Files {
			rel, err := filepath.Rel(dir, f.Path)
			if err != nil {
				t.Fatal(err)
			}
			out[rel] = f
		}
		return out
	}
	got := plan()
	if f := got["pw"]; f.Content != "secret db, field password" || f.Mode != "0640" || f.Reload != "/bin/true" || len(f.Test) != 2 ||
		f.Action != "wait for the item" || f.Removed == "" {
		t.Errorf("pw: %+v", f)
	}
	if f := got["pw"]; f.Owner != "" || f.UID != os.Geteuid() || f.GID != os.Getegid() || f.Prove != "127.0.0.1:1" || len(f.ACL) != 1 {
		t.Errorf("pw: %+v", f)
	}
	if f := got["set/pw"]; f.Owner != "0" || f.UID != 0 || f.Mode != "0600" {
		t.Errorf("set/pw: %+v", f)
	}
	if f := got["set/db.url"]; f.Content != "template of secret db, secret user" || f.Owner != "0" || f.Mode != "0644" || len(got) != 3 {
		t.Errorf("set/db.url: %+v", f)
	}

	a.publishSecret(&sinks.Secret{Name: "user", UsableUntil: time.Now().Add(time.Hour)})
	a.publishSecret(&sinks.Secret{Name: "db", Version: "1", UsableUntil: time.Now().Add(time.Hour), Fields: sinks.FieldsOf(map[string]secret.Value{"password": secret.New([]byte("p@ss"))})})
	if b, err := os.ReadFile(filepath.Join(dir, "set", "db.url")); err != nil || string(b) != "db://p%40ssuser" {
		t.Errorf("%q, %v", b, err)
	}
	if f := plan()["pw"]; f.Action != "nothing" {
		t.Errorf("pw: %+v", f)
	}
	a.withdrawSecret("db", upstream.Denied, "deactivated")
	for _, name := range []string{"pw", "set"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

// A key's URI is one that a PKCS#11 URI can be: nothing in a label ends it early.
func TestKeyURI(t *testing.T) {
	for _, tt := range []struct{ label, serial, id, want string }{
		{"signet", "c2c7", "8df60a", "pkcs11:token=signet;serial=c2c7;id=%8d%f6%0a;type=private"},
		{"My token;id=x+1", "", "01", "pkcs11:token=My%20token%3Bid%3Dx%2B1;id=%01;type=private"},
		{"", "", "01", ""},
	} {
		if got := keyURI(tt.label, tt.serial, tt.id); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}

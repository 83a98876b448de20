package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// due are the actions of the plan, by the name of the file.
func (r *consumerRig) due() map[string]string {
	out := map[string]string{}
	for _, f := range r.plannedFiles() {
		out[filepath.Base(f.Path)] = f.Action
	}
	return out
}

// What is not as it should be is due: of a set the entry alone whose secret is
// refused, and what was rolled back.
func TestWhatIsDueOfFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := newConsumerRig(t, dir, config.File{}, config.File{Dir: filepath.Join(dir, "set"), Entries: map[string]config.Entry{
		"a": {Content: config.Content{Secret: "db", Field: "password"}}, "b": {Content: config.Content{Secret: "other", Field: "value"}}}})
	defer r.close()
	other := &held{Secret: sinks.Secret{Name: "other"}}
	r.refresher.items["other"] = &secretItem{name: "other", held: other}
	r.publish("1")
	r.publishSecret(&sinks.Secret{Name: "other", Fields: sinks.FieldsOf(map[string]secret.Value{"value": secret.New([]byte("x"))})})
	if got := r.due(); got["a"] != actionNothing || got["b"] != actionNothing || got["password"] != actionNothing {
		t.Errorf("delivered: %v", got)
	}
	refused := &upstream.Error{Upstream: "pam", Code: upstream.Denied}
	r.refresher.items["other"].held = other.failed(refused, wallNow(), 0)
	r.withdrawSecret("other", upstream.Denied, "deactivated")
	if got := r.due(); got["a"] != actionNothing || got["b"] != actionWait {
		t.Errorf("one of the secrets is refused: %v", got)
	}
}

// A file that was rolled back is due to be tried again, and its status does not
// show the version that is not there.
func TestARolledBackFileIsDue(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := newConsumerRig(t, dir, config.File{Reload: config.Reload{Exec: []string{"/bin/true"}}})
	defer r.close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.consumers.Run(ctx) }()
	r.publish("1")
	r.await(stateReloaded) // it is worth going back to
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.publish("2")
	if it := r.fileItems()[0]; it.State != stateWritten || it.Version != "2" {
		t.Errorf("written: %+v", it)
	}
	gen, err := r.files.Generation(r.file)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := r.files.Rollback(r.file, gen); !done || err != nil {
		t.Fatal(done, err)
	}
	if got := r.due()["password"]; got != actionTryAgain {
		t.Errorf("rolled back, due is %q", got)
	}
	if it := r.fileItems()[0]; it.State != stateRolledBack || it.Version != "" {
		t.Errorf("rolled back: %+v", it)
	}
}

// A file holds a secret if its template names one, whatever it is a file of.
func TestFilesOfSecretsAreCounted(t *testing.T) {
	t.Parallel()
	c := &config.Config{Files: []config.File{
		{Path: "/a", Content: config.Content{Secret: "db", Field: "password"}},
		{Path: "/b", Content: config.Content{Certificate: "web"}},
		{Path: "/c", Content: config.Content{Template: `{{ (certificate "web").chain }}`}},
		{Path: "/d", Content: config.Content{Certificate: "web", Template: `{{ secret "db" "password" }}`}},
		{Dir: "/e", Entries: map[string]config.Entry{
			"f": {Content: config.Content{Certificate: "web"}}, "g": {Content: config.Content{Secret: "db", Field: "password"}}}},
	}}
	if n := SecretFiles(c); n != 3 {
		t.Errorf("%d files hold secrets, want 3", n)
	}
}

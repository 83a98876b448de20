package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/sinks/files"
)

// PlannedFile is a file as `signet plan` shows it: what is written where, whose
// it is then, and who is told.
type PlannedFile struct {
	Path    string `json:"path"`
	Content string `json:"content"` // "secret db, field password", "certificate web, pem-chain"
	Owner   string `json:"owner"`   // as configured; "" is the agent
	Group   string `json:"group"`
	// UID and GID are the numbers of those; -1 is one that the host does not have.
	UID     int      `json:"uid"`
	GID     int      `json:"gid"`
	Mode    string   `json:"mode"`
	ACL     []string `json:"acl,omitempty"`
	SELinux string   `json:"selinux,omitempty"`
	// Action is what is due: write, nothing, wait for the item, or try again what
	// was rolled back.
	Action string `json:"action"`
	// Test, Reload and Prove follow a change of the file.
	Test   []string `json:"test,omitempty"`
	Reload string   `json:"reload,omitempty"`
	Prove  string   `json:"prove,omitempty"`
	// Removed is when the file is removed.
	Removed string `json:"removed,omitempty"`
}

// The actions of files in the plan.
const (
	actionWrite    = "write"
	actionNothing  = "nothing"
	actionWait     = "wait for the item"
	actionTryAgain = "try again what was rolled back"
)

// plannedFiles are all configured files, the entries of sets among them.
func (a *Agent) plannedFiles() []PlannedFile {
	actions := map[string]string{}
	for _, st := range a.files.Status() {
		switch {
		case st.Err != nil:
			actions[st.Path] = actionWrite
		case st.RolledBack:
			actions[st.Path] = actionTryAgain
		case st.Generation != 0:
			actions[st.Path] = actionNothing
		default:
			actions[st.Path] = actionWait
		}
	}
	out := []PlannedFile{}
	for _, f := range a.cfg.Files {
		for _, sink := range filesOf(f) {
			action := actions[f.Target()]
			if slices.ContainsFunc(sink.Items(), a.withdrawn) {
				action = actionWait // an entry of a set alone; the others stay
			}
			out = append(out, planned(sink, f, action))
		}
	}
	return out
}

// filesOf are a file, or those of a set with their paths.
func filesOf(f config.File) []files.File {
	if f.Dir == "" {
		return []files.File{fileOf(f.Path, f, f.Content, f.Access)}
	}
	entries := setOf(f).Entries
	for i := range entries {
		entries[i].Path = f.Dir + "/" + entries[i].Path
	}
	return entries
}

// SecretFiles counts the files that a refused secret takes away.
func SecretFiles(c *config.Config) (n int) {
	for _, f := range c.Files {
		for _, sink := range filesOf(f) {
			if holdsSecret(sink) {
				n++
			}
		}
	}
	return n
}

func holdsSecret(f files.File) bool {
	return slices.ContainsFunc(f.Items(), func(it files.Item) bool { return it.Secret != "" })
}

// withdrawn reports whether an item is a secret that its upstream refuses.
func (a *Agent) withdrawn(it files.Item) bool {
	if a.refresher.items[it.Secret] == nil {
		return false
	}
	h, _ := a.refresher.snapshot(it.Secret)
	return h != nil && h.failures().Gone != ""
}

func planned(sink files.File, f config.File, action string) PlannedFile {
	p := PlannedFile{
		Path: sink.Path, Content: contentOf(sink), Owner: sink.Owner, Group: sink.Group, Mode: fmt.Sprintf("%04o", sink.Mode), ACL: sink.ACL, SELinux: sink.SELinux,
		Action: action, Test: f.Test, Reload: f.Reload.Consumer(), Prove: f.Prove.TLS,
	}
	p.UID, p.GID = sink.IDs()
	if holdsSecret(sink) {
		p.Removed = "when the upstream refuses the secret"
	}
	return p
}

// contentOf is what is in a file: of a template all that it names.
func contentOf(f files.File) string {
	var names []string
	for _, it := range f.Items() {
		if it.Secret != "" {
			names = append(names, "secret "+it.Secret)
		} else {
			names = append(names, "certificate "+it.Certificate)
		}
	}
	what := strings.Join(names, ", ")
	switch {
	case f.Template != "":
		what = "template of " + what
	case f.Format != "":
		what += ", " + f.Format
	}
	if f.Field != "" {
		what += ", field " + f.Field
	}
	return what
}

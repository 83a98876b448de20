package agent

import (
	"fmt"
	"io/fs"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/sinks/files"
)

// The states of files in `signet status`.
const (
	stateWritten = "written"
	stateFailed  = "failed"
)

// makeFiles makes the file sinks.
func (a *Agent) makeFiles() (err error) {
	c := files.Config{Log: a.log, Drifted: a.onDrift}
	for _, f := range a.cfg.Files {
		switch {
		case f.Dir != "":
			return fmt.Errorf("file set %q: sets are not served by this version", f.Dir)
		case !f.Reload.IsZero() || !f.Prove.IsZero():
			return fmt.Errorf("file %q: reload and prove are not served by this version", f.Path)
		}
		c.Files = append(c.Files, singleFile(f))
	}
	a.files, err = files.New(c)
	return err
}

func singleFile(f config.File) files.File {
	return files.File{
		Path: f.Path, Secret: f.Secret, Certificate: f.Certificate, Field: f.Field, Format: f.Format, Template: f.Template,
		Owner: f.Owner, Group: f.Group, Mode: fs.FileMode(f.Mode.Or(0o600)),
	}
}

func (a *Agent) onDrift(d files.Drift) {
	a.emit(event{Type: eventFileRepaired, Name: d.Path, Error: d.What, At: d.At})
}

func (a *Agent) fileItems() []Item {
	var items []Item
	for _, st := range a.files.Status() {
		it := Item{Kind: "file", Name: st.Path, State: stateMissing, Version: st.Version}
		switch {
		case st.Err != nil:
			it.State, it.LastError, it.RetryAt, it.Hint = stateFailed, st.Err.Error(), st.RetryAt, hintOf(st.Err)
			it.NextAction, it.NextAt = "write", st.RetryAt
		case st.Version != "":
			it.State = stateWritten
		}
		items = append(items, it)
	}
	return items
}

package agent

import (
	"io/fs"
	"maps"
	"slices"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/sinks/files"
)

// The states of files in `signet status`.
const (
	stateWritten    = "written"
	stateFailed     = "failed"
	stateRolledBack = "rolled back"
)

// kindFiles is what the memory of the files is kept under.
const kindFiles = "files"

// makeFiles makes the file sinks.
func (a *Agent) makeFiles() (err error) {
	c := files.Config{Log: a.log, Drifted: a.onDrift, Trusted: a.cfg.StatePath(),
		InTurn: a.onDelivery, Writing: a.onWriting, Written: a.onWritten, Unwritten: a.onUnwritten,
		TakenUp:   func(target string, generation int64) bool { return a.consumers.TakenUp(target, generation) },
		Withdrawn: func(target string) { a.consumers.Withdrawn(target) }}
	if c.Remembered, err = a.store.Record(kindFiles, "memory"); err != nil {
		return err
	}
	c.Remember = func(blob []byte) error { return a.store.SaveRecord(kindFiles, "memory", blob) }
	for _, f := range a.cfg.Files {
		if f.Dir == "" {
			c.Files = append(c.Files, fileOf(f.Path, f, f.Content, f.Access))
			continue
		}
		c.Sets = append(c.Sets, setOf(f))
	}
	a.files, err = files.New(c)
	return err
}

// setOf is a set of files as the sink wants it.
func setOf(f config.File) files.Set {
	s := files.Set{Dir: f.Dir, Keep: f.Generations()}
	for _, name := range slices.Sorted(maps.Keys(f.Entries)) {
		e := f.Entries[name]
		s.Entries = append(s.Entries, fileOf(name, f, e.Content, accessOf(e, f)))
	}
	return s
}

// fileOf is one file as the sink wants it. What it held before is kept where
// there is somebody to find that the new content does not work.
func fileOf(path string, f config.File, c config.Content, acc config.Access) files.File {
	out := files.File{
		Path: path, Secret: c.Secret, Certificate: c.Certificate, Field: c.Field, Format: c.Format, Template: c.Template,
		Owner: acc.Owner, Group: acc.Group, Mode: fs.FileMode(acc.Mode.Or(0o600)), ACL: acc.ACL, SELinux: acc.SELinux,
		RefuseInPlace: f.InPlace == "refuse",
		KeepPrevious:  !f.Reload.IsZero() || !f.Prove.IsZero() || len(f.Test) > 0,
	}
	if !c.Password.IsZero() {
		out.Password = c.Password.Read
	}
	return out
}

// accessOf is who may read an entry of a set: as it says, or as the set says.
func accessOf(e config.Entry, f config.File) config.Access {
	acc := e.Access
	if acc.Owner == "" {
		acc.Owner = f.Owner
	}
	if acc.Group == "" {
		acc.Group = f.Group
	}
	if acc.Mode == "" {
		acc.Mode = f.Mode
	}
	if acc.ACL == nil {
		acc.ACL = f.ACL
	}
	if acc.SELinux == "" {
		acc.SELinux = f.SELinux
	}
	return acc
}

func (a *Agent) onDrift(d files.Drift) {
	a.emit(event{Type: eventFileRepaired, Name: d.Path, Error: d.String(), At: d.At})
}

func (a *Agent) fileItems() []Item {
	var items []Item
	for _, st := range a.files.Status() {
		it := Item{Kind: "file", Name: st.Path, State: stateMissing}
		switch {
		case st.Err != nil:
			it.State, it.LastError, it.RetryAt, it.Hint = stateFailed, st.Err.Error(), st.RetryAt, hintOf(st.Err)
			it.NextAction, it.NextAt = "write", st.RetryAt
		case st.RolledBack:
			it.State = stateRolledBack
		case st.Generation != 0:
			it.State, it.Version = stateWritten, st.Version // else it is what should be there
		}
		items = append(items, it)
	}
	return items
}

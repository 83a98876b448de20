package files

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// A model is a file as it should be in a target.
type model struct {
	name string // in its directory
	attr attributes
	content
	// entry is what it is made from; nil for what a roll-back has put back.
	entry *entry
	// unread is set if the content is not known, as the agent may not read it:
	// the file is right for as long as nothing about it changes.
	unread bool
}

// models are what should be in the target: what its items give or, after a
// roll-back, what that has put back. All that is compared and written goes by
// them.
func (t *target) models(entries []*entry) ([]model, error) {
	if t.held {
		return t.back, nil
	}
	out, err := modelsOf(entries, t.items)
	if err != nil {
		if t.set == nil {
			err = errors.Unwrap(err) // which file it is goes without saying
		}
		return nil, &Error{Path: t.path, Op: "render", Err: err, Remedy: "correct field, format, template or password of the file in the configuration"}
	}
	return out, nil
}

// modelsOf are the files that some items give.
func modelsOf(entries []*entry, its items) ([]model, error) {
	out := make([]model, len(entries))
	for i, e := range entries {
		c, err := e.make(its)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		out[i] = model{name: e.name, attr: e.attr, content: c, entry: e}
	}
	return out, nil
}

// hold takes what is in place for what should be there, as a roll-back has left
// it. What this process has delivered itself is known; of the rest the content is
// read, and who may read it is as found.
func (t *target) hold(d *dir, known Delivery) error {
	at := d
	gen, err := t.onDisk(d)
	if err == nil && t.set != nil {
		if at, err = t.below(d, t.linkTo(gen)); err == nil {
			defer at.close()
		}
	}
	if err != nil {
		return err
	}
	models, err := t.modelsAgain(known, gen)
	if err != nil || models == nil {
		models, err = t.modelsFound(at)
	}
	if err != nil {
		return err
	}
	t.back, t.marks, t.generation = models, map[string]mark{}, gen
	for _, m := range models {
		if st, err := at.stat(m.name); err == nil && (m.unread || st.Size == int64(len(m.bytes))) && m.attr.differ(-1, st) == "" {
			t.marks[m.name] = mark{m.sum, identify(st)}
		}
	}
	return nil
}

// modelsAgain are what a delivery was made of, if it is the one in place.
func (t *target) modelsAgain(known Delivery, gen int64) ([]model, error) {
	if known.items == nil || known.Generation != gen {
		return nil, nil
	}
	var entries []*entry
	for _, e := range t.entries {
		if !slices.ContainsFunc(e.needs, func(r ref) bool { _, ok := known.items[r]; return !ok }) {
			entries = append(entries, e)
		}
	}
	return modelsOf(entries, known.items)
}

// modelsFound are the files of the target that are in a directory.
func (t *target) modelsFound(d *dir) ([]model, error) {
	names := []string{t.base}
	if t.set != nil {
		var err error
		if names, err = d.f.Readdirnames(-1); err != nil {
			return nil, cause(err)
		}
		slices.Sort(names)
	}
	var out []model
	for _, name := range names {
		m, err := d.found(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if i := slices.IndexFunc(t.entries, func(e *entry) bool { return e.name == name }); i < 0 || t.entries[i].attr.label == "" {
			m.attr.label = "" // what the directory gives
		}
		out = append(out, m)
	}
	return out, nil
}

// found is a regular file as it is.
func (d *dir) found(name string) (m model, err error) {
	st, err := d.stat(name)
	if err != nil {
		return m, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return m, errors.New("it is not a regular file")
	}
	m = model{name: name, attr: attributes{uid: int(st.Uid), gid: int(st.Gid), mode: modeOf(st)}}
	f, err := d.open(name)
	if errors.Is(err, unix.EACCES) {
		m.unread = true
		return m, nil
	}
	if err != nil {
		return m, err
	}
	defer f.Close()
	b, err := readAll(f, maxRead)
	if err != nil {
		return m, cause(err)
	}
	m.content = contentOf(b)
	m.attr.acl, m.attr.label = xattr(int(f.Fd()), xattrACL), string(bytes.TrimRight(xattr(int(f.Fd()), xattrLabel), "\x00"))
	return m, nil
}

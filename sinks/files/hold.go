package files

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Wanted names what should be in a target: its items by their versions, and how
// they are written, none of their values. It is the same in any process, and ""
// while an item is missing.
func (fs *Files) Wanted(path string) (string, error) {
	t, err := fs.target(path)
	if err != nil {
		return "", err
	}
	if err := t.enter(); err != nil {
		return "", err
	}
	defer t.mu.Unlock()
	return t.wanted(), nil
}

// Hold leaves a target as it is for as long as what should be in it is wanted, as
// a Rollback of an earlier process has left it.
func (fs *Files) Hold(path, wanted string) error {
	t, err := fs.target(path)
	if err != nil {
		return err
	}
	if err := t.enter(); err != nil {
		return err
	}
	defer t.mu.Unlock()
	defer t.show()
	t.held, t.heldFrom, t.settled = true, wanted, false
	return nil
}

// wanted is for Wanted.
func (t *target) wanted() string {
	entries, ok := t.present()
	if !ok || len(entries) == 0 {
		return ""
	}
	h := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(h, "%q %q %q %o %s\n", e.name, e.Owner, e.Group, e.attr.mode, e.identity(t.items))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// release ends a Rollback or a Hold once something else is wanted than what did
// not work.
func (t *target) release() {
	if !t.held {
		return
	}
	if now := t.wanted(); now != "" && now != t.heldFrom {
		t.unhold()
	}
}

// unhold has the target be again what its items give.
func (t *target) unhold() {
	if t.held {
		t.held, t.back, t.settled, t.marks = false, nil, false, map[string]mark{}
	}
}

// Revives says what a Rollback would bring back that nobody can use: another version
// of a secret than the upstream has now, a certificate that is revoked, or what is not
// known to be neither.
func (fs *Files) Revives(path string) (why []string, err error) {
	t, err := fs.target(path)
	if err != nil {
		return nil, err
	}
	if err := t.enter(); err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	for _, r := range t.needs() {
		if r.Kind == kindSecret && !slices.Contains(t.previous.Items, Item{Secret: r.Name, Version: t.items[r].version()}) {
			why = append(why, "its upstream has replaced secret "+r.Name)
		}
	}
	for _, name := range t.revoked(t.previous) {
		why = append(why, "the previous certificate "+name+" is revoked")
	}
	return why, nil
}

package files

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Read is what is in place of a target; name says which file of a set. It is an
// error if that is not what was delivered, whoever has changed it: no link is
// followed, nothing but a regular file is read, and none that is another's.
//
// Of what an earlier process has left in place, or a Rollback, the content may
// not be known. It then has to belong to whom it should or to the agent, and to
// have no other name: the owner of the directory can put nothing there but what
// is theirs.
func (fs *Files) Read(path, name string) ([]byte, error) {
	return inPlace(fs, path, func(t *target, d *dir) ([]byte, error) {
		e := t.entries[0]
		if t.set != nil {
			i := slices.IndexFunc(t.entries, func(e *entry) bool { return e.name == name })
			if i < 0 {
				return nil, &Error{Path: t.path, Op: "read", Err: fmt.Errorf("no file of the set is called %q", name)}
			}
			e = t.entries[i]
			gen, err := t.onDisk(d)
			if err != nil {
				return nil, &Error{Path: t.path, Op: "read", Err: err}
			}
			if d, err = t.below(d, t.linkTo(gen)); err != nil {
				return nil, &Error{Path: t.path, Op: "read", Err: fmt.Errorf("generation %d: %w", gen, err)}
			}
			defer d.close()
		}
		content, err := t.readDelivered(d, e)
		if err != nil {
			err = &Error{Path: t.pathOf(e), Op: "read", Err: err, Remedy: readRemedy(err)}
		}
		return content, err
	})
}

// errNotDelivered is a file that somebody else has put where a delivered one was.
var errNotDelivered = errors.New("it is not what was delivered; it is put right first")

func (t *target) readDelivered(d *dir, e *entry) ([]byte, error) {
	f, err := d.open(e.name)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: a link is there", errNotDelivered)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return nil, errNotDelivered
	}
	m, known := t.marks[e.name]
	if uid := int(st.Uid); (t.held || !known) && uid != e.attr.uid && uid != os.Geteuid() {
		return nil, fmt.Errorf("it belongs to user %d", uid)
	}
	content, err := readAll(f, maxRead)
	if err != nil {
		return nil, cause(err)
	}
	if known && m.sum != sha256.Sum256(content) {
		return nil, errNotDelivered
	}
	return content, nil
}

// Leaves are those of the certificates in what is in place, in DER; nil if there
// are none, or if this process has not seen the target right yet.
func (fs *Files) Leaves(path string) [][]byte {
	t, err := fs.target(path)
	if err != nil || t.enter() != nil {
		return nil
	}
	defer t.mu.Unlock()
	return t.delivered.Leaves
}

func readRemedy(err error) string {
	if errors.Is(err, unix.EACCES) {
		return "the agent has to be able to read the file; give it a group and leave out the owner"
	}
	return ""
}

package files

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// attributes are who may do what with a file.
type attributes struct {
	uid, gid int
	mode     fs.FileMode
	acl      []byte // as in the extended attribute; nil is none
	label    string // SELinux; "" is what the directory gives
}

// The extended attributes of access.
const (
	xattrACL   = "system.posix_acl_access"
	xattrLabel = "security.selinux"
)

// dress gives an open file of the agent's its attributes. The group comes first
// and the owner last: whoever is not root may only do the rest while the file is
// its own. What the directory's default ACL gave goes, as who may read is what
// the configuration says.
func (a attributes) dress(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Gid != uint32(a.gid) { // also of a file of ours: a directory may give its own
		if err := unix.Fchown(fd, -1, a.gid); err != nil {
			return os.NewSyscallError(fmt.Sprintf("give to group %d", a.gid), err)
		}
	}
	if a.label != "" {
		if err := unix.Fsetxattr(fd, xattrLabel, append([]byte(a.label), 0), 0); err != nil {
			return os.NewSyscallError("set SELinux label", err)
		}
	}
	if err := unix.Fremovexattr(fd, xattrACL); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
		return os.NewSyscallError("remove ACL", err)
	}
	if err := unix.Fchmod(fd, uint32(a.mode)); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	if a.acl != nil {
		if err := unix.Fsetxattr(fd, xattrACL, a.acl, 0); err != nil {
			return os.NewSyscallError("set ACL", err)
		}
	}
	if st.Uid != uint32(a.uid) {
		if err := unix.Fchown(fd, a.uid, -1); err != nil {
			return os.NewSyscallError(fmt.Sprintf("give to user %d", a.uid), err)
		}
	}
	return nil
}

// differ says which attribute of an open file is not as it should be, or "".
func (a attributes) differ(fd int, st unix.Stat_t) string {
	switch {
	case st.Uid != uint32(a.uid) || st.Gid != uint32(a.gid):
		return "owner"
	case modeOf(st) != a.effective():
		return "mode"
	case fd >= 0 && !bytes.Equal(xattr(fd, xattrACL), a.acl):
		return "acl"
	case fd >= 0 && a.label != "" && string(bytes.TrimRight(xattr(fd, xattrLabel), "\x00")) != a.label:
		return "label"
	}
	return ""
}

// effective is the mode as stat shows it: with an ACL, its mask stands where
// the group was.
func (a attributes) effective() fs.FileMode {
	if a.acl == nil {
		return a.mode
	}
	return a.mode&^0o070 | fs.FileMode(maskOf(a.acl))<<3
}

func modeOf(st unix.Stat_t) fs.FileMode { return fs.FileMode(st.Mode & 0o7777) }

// xattr reads an extended attribute; nil if there is none.
func xattr(fd int, name string) []byte {
	b := make([]byte, 4096)
	n, err := unix.Fgetxattr(fd, name, b)
	if err != nil || n == 0 {
		return nil
	}
	return b[:n]
}

// The tags of ACL entries, in the order in which the kernel wants them.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclNoID    = 1<<32 - 1
	aclVersion = 2
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// parseACL encodes entries like u:app:r with those of the mode and the mask
// that lets all of them have effect. No entries are no ACL.
func parseACL(texts []string, mode fs.FileMode) ([]byte, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	perm := func(shift int) uint16 { return uint16(mode>>shift) & 7 }
	entries := []aclEntry{{aclUserObj, perm(6), aclNoID}, {aclGroupObj, perm(3), aclNoID}, {aclOther, perm(0), aclNoID}}
	mask := perm(3)
	var absent error
	for _, text := range texts {
		e, err := parseACLEntry(text)
		switch {
		case isAbsent(err):
			absent = cmp.Or(absent, fmt.Errorf("acl %q: %w", text, err))
			continue
		case err != nil:
			return nil, fmt.Errorf("acl %q: %w", text, err)
		case slices.ContainsFunc(entries, func(o aclEntry) bool { return o.tag == e.tag && o.id == e.id }):
			return nil, fmt.Errorf("acl %q: is there twice", text)
		}
		mask |= e.perm
		entries = append(entries, e)
	}
	if absent != nil {
		return nil, absent
	}
	entries = append(entries, aclEntry{aclMask, mask, aclNoID})
	slices.SortFunc(entries, func(a, b aclEntry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b, nil
}

func parseACLEntry(text string) (aclEntry, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return aclEntry{}, errors.New("want u:NAME:PERMISSIONS or g:NAME:PERMISSIONS")
	}
	e := aclEntry{tag: aclUser}
	for _, c := range parts[2] {
		switch c {
		case 'r':
			e.perm |= 4
		case 'w':
			e.perm |= 2
		case 'x':
			e.perm |= 1
		case '-':
		default:
			return e, errors.New("permissions are r, w, x and -")
		}
	}
	lookup := lookupUser
	switch parts[0] {
	case "u", "user":
	case "g", "group":
		e.tag, lookup = aclGroup, lookupGroup
	default:
		return e, errors.New("is neither of a user (u:) nor of a group (g:)")
	}
	if parts[1] == "" {
		return e, errors.New("says nobody")
	}
	id, err := lookup(parts[1])
	e.id = uint32(id)
	return e, err
}

// maskOf is the mask of an encoded ACL.
func maskOf(acl []byte) uint16 {
	for b := acl[4:]; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint16(b) == aclMask {
			return binary.LittleEndian.Uint16(b[2:])
		}
	}
	return 0
}

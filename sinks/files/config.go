package files

import (
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A File is one file and what is in it.
type File struct {
	// Path of the file; within a Set its name.
	Path string
	// Secret or Certificate is the item; exactly one of them, or none with a
	// Template that names all its items itself.
	Secret      string
	Certificate string
	// Field is the field of the secret for raw; for json and env it may be
	// left out, which means all.
	Field string
	// Format is raw, json or env for a secret ("" is raw), and pem-bundle,
	// pem-bundle-key-first, pem-chain, pem-key or pkcs12 for a certificate (""
	// is pem-bundle).
	Format string
	// Template is a text/template, in place of Field and Format.
	Template string
	// Password is that of a pkcs12 file.
	Password func() (secret.Value, error)
	// Owner and Group are names or numbers; "" is the agent's own.
	Owner string
	Group string
	// Mode has permission bits only; 0 is 0600.
	Mode fs.FileMode
	// ACL are entries of a POSIX ACL beside the mode: "u:app:r".
	ACL []string
	// SELinux is the label of the file; "" is what the directory gives.
	SELinux string
	// RefuseInPlace keeps a target that cannot be renamed onto, such as a bind
	// mount, from being written at all.
	RefuseInPlace bool
	// KeepPrevious keeps what the file held before, for a Rollback.
	KeepPrevious bool
}

// A Set is a directory of files that appear together.
type Set struct {
	// Dir is a symbolic link that the agent keeps; its parent has to exist.
	Dir     string
	Entries []File
	// Keep is how many previous generations stay for a Rollback.
	Keep int
}

// A Delivery is a generation of a target: of a file, or of a set.
type Delivery struct {
	// Target is the path of the file or of the set.
	Target string
	// Generation is a number that grows with each delivery to the target, over
	// restarts too. It can be read off from what is on disk.
	Generation int64
	// Items are what is in it.
	Items []Item
	// Leaves are those of its certificates in DER; nil if there is none.
	Leaves [][]byte
	// Repaired is set if it was written because of a Drift, and not because an
	// item changed.
	Repaired bool

	items items // what it is made of
}

// An Item is a version of a secret or of a certificate.
type Item struct {
	Secret      string
	Certificate string
	Version     string // of the secret, or the serial number of the certificate
}

// A Drift is a change to a file that the agent did not make.
type Drift struct {
	Target string
	Path   string // the target, the entry of the set, or one of its directories
	What   string // deleted, content, mode, owner, acl, label, type, link, added
	// UID, GID and Mode are what was found; not set for deleted.
	UID, GID uint32
	Mode     fs.FileMode
	At       time.Time
}

// String is what was changed, and whose and how readable it was found.
func (d Drift) String() string {
	if d.What == "deleted" {
		return d.What
	}
	return fmt.Sprintf("%s; found with owner %d:%d and mode %04o", d.What, d.UID, d.GID, d.Mode)
}

// Config configures Files.
type Config struct {
	Files []File
	Sets  []Set
	// InTurn is called when targets are to be given a newer version, before any of
	// them is locked. It has all of them delivered, each once, in as many parts as
	// it likes and when it likes: somebody may be reading them. Nothing else waits:
	// no first delivery, no withdrawal, no repair, no second try. It may be nil.
	InTurn func(targets []string, deliver func(targets []string))
	// TakenUp reports whether a generation of a target works, as far as is known. It
	// is asked of what is about to be replaced: what does not is not kept, and what
	// is kept stays for a Rollback. nil is yes.
	TakenUp func(target string, generation int64) bool
	// Writing is called before targets are replaced, with all that one change
	// of an item replaces; an error keeps that from happening. What has to
	// follow even after a crash, such as a reload, is noted here. It may be nil.
	Writing func([]Delivery) error
	// Written is called after targets were replaced and are on disk, before
	// Publish returns. It may be nil.
	Written func([]Delivery)
	// Unwritten is called with what Writing was called for and could not be
	// written, or not in full. It may be nil.
	Unwritten func([]Delivery)
	// Withdrawn is called when a target has no content any more: nothing that
	// Writing was called for is to be expected. It may be nil.
	Withdrawn func(target string)
	// Drifted is called once for each drift that was found; it may be nil.
	Drifted func(Drift)
	// Remembered is what Remember was given last; nil is nothing.
	Remembered []byte
	// Remember keeps over restarts what the agent knows of files that it may not
	// read. It may be nil.
	Remember func([]byte) error
	// Trusted is a directory whose parents' owners are trusted: they could
	// replace the agent's own state. It may be empty.
	Trusted string
	// Log is told of repairs and failures; nil is nobody.
	Log *slog.Logger
}

// A Status is the state of one target.
type Status struct {
	Path       string
	Set        bool
	Version    string // that should be in the file; "" if there is none yet
	Generation int64  // that is in place; 0 if this process has not seen it right
	RolledBack bool   // a previous generation is in place, until something changes
	Err        error  // why the target is not right, or nil
	RetryAt    time.Time
}

// An Error is a target that could not be written.
type Error struct {
	Path   string
	Op     string // "open directory", "render", "write"
	Remedy string
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("file %q: %s: %v", e.Path, e.Op, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Hint says what an operator can do about it, or "".
func (e *Error) Hint() string { return e.Remedy }

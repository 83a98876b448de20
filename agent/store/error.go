package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrClosed is the error of a write to a Store that has been closed.
var ErrClosed = errors.New("the store is closed")

// An Error is a failure to read or write the state.
type Error struct {
	Op   string // "open", "write key", "read records"
	Path string // of the file, or of the state directory
	Err  error  // syscall.ENOSPC if the disk is full, whoever noticed it
}

func (e *Error) Error() string { return fmt.Sprintf("state %s: %s: %v", e.Path, e.Op, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Hint says what an operator can do about it, or "".
func (e *Error) Hint() string {
	switch {
	case errors.Is(e.Err, syscall.ENOSPC), errors.Is(e.Err, syscall.EDQUOT):
		return "make room on the disk; the agent goes on with what it has and tries again"
	case errors.Is(e.Err, syscall.EROFS), errors.Is(e.Err, os.ErrPermission):
		return "the user that the agent runs as must own state_dir and be able to write there"
	case errors.Is(e.Err, errDamaged):
		return "restart the agent; it sets the damaged file aside and begins a new one"
	}
	return ""
}

// A LockedError says that another agent uses the directory.
type LockedError struct {
	Dir string
	PID int // 0 if it is not known
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("state %s: another signet runs with this state_dir", e.Dir)
	}
	return fmt.Sprintf("state %s: another signet runs with this state_dir, pid %d", e.Dir, e.PID)
}

// Hint says what an operator can do about it.
func (e *LockedError) Hint() string {
	return "stop the other one, or give each a state_dir of its own"
}

// Damage tells of a file that was set aside.
type Damage struct {
	File  string // that was found damaged
	Aside string // where it is now
	Why   string
	// Restored says that the agent goes on from the last copy.
	Restored bool
}

func (d *Damage) Error() string {
	if d.Restored {
		return fmt.Sprintf("state %s: is damaged (%s) and was set aside as %s; the agent goes on from its last copy", d.File, d.Why, d.Aside)
	}
	return fmt.Sprintf("state %s: is damaged (%s) and was set aside as %s; a new one was begun", d.File, d.Why, d.Aside)
}

// Hint says what an operator can do about it.
func (d *Damage) Hint() string {
	if d.Restored {
		return "keys and certificates are as they were at the last change of a certificate, and secrets are fetched anew; look for the cause on the disk"
	}
	return "keys in the HSM are left alone and listed by `signet key list`, identities have to be enrolled again, and secrets are fetched anew; look for the cause on the disk"
}

// errDamaged is what SQLite says of a file that is not, or no longer, its own.
var errDamaged = errors.New("the file is damaged")

// plain says what an error of SQLite means to somebody who knows nothing of
// SQLite.
func plain(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return syscall.ENOSPC
	case sqlite3.SQLITE_READONLY:
		return syscall.EROFS
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %s", errDamaged, sqlite.ErrorCodeString[e.Code()&0xff])
	}
	return err
}

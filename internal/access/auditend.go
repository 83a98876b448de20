package access

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// eventCut is the event of a line before which there were others once.
const eventCut = "audit.cut"

// A CutError says that the end of an audit was cut off while nobody wrote to it.
type CutError struct {
	Path string
	Hash string // of a line that was written
}

func (e *CutError) Error() string {
	return fmt.Sprintf("audit file %q: lines at its end are missing: that with the hash %s was there", e.Path, e.Hash)
}

// Hint says what an operator can do about it.
func (e *CutError) Hint() string {
	return "who could write the file removed them, or moved it to a name that is not looked at; compare it with a copy kept elsewhere"
}

// Cut is how the end of the audit was cut off before it was opened, or nil.
func (a *Audit) Cut() *CutError { return a.cut }

// lookForEnd holds what the files end with against the line that is known to be
// in them, and records that it is not.
func (a *Audit) lookForEnd() error {
	if a.cfg.Known == "" {
		return nil
	}
	there, err := a.w.has(a.cfg.Known)
	if err != nil {
		a.cfg.Log.Warn("whether the end of the audit was cut off cannot be seen", "file", a.cfg.Path, "err", err)
	}
	if there || err != nil {
		return nil
	}
	a.cut = &CutError{a.cfg.Path, a.cfg.Known}
	return a.Append(&Entry{Time: time.Now(), Event: eventCut, Outcome: "error", Error: a.cut.Error(), Hash: a.cfg.Known})
}

// An end is the line that was last remembered, or tried to be.
type end struct {
	hash  [sha256.Size]byte
	lines uint64 // that were written until then
	at    time.Time
}

// keepEnd has the last line on the disk remembered, if that is due.
func (a *Audit) keepEnd(now time.Time, last bool) {
	due := last || a.w.moved || a.w.lines-a.end.lines >= signLines || now.Sub(a.end.at) >= signEvery
	if a.cfg.Remember == nil || a.w.durable == a.end.hash || !due {
		return
	}
	a.w.moved = false
	a.end = end{a.w.durable, a.w.lines, now}
	if err := a.cfg.Remember(hex.EncodeToString(a.w.durable[:])); err != nil {
		a.cfg.Log.Warn("the end of the audit is not remembered", "file", a.cfg.Path, "err", err)
	}
}

// endFiles is how many files are looked through for the last line remembered,
// which is some 10,000 lines from the end.
const endFiles = 3

// has reports whether the line of that hash is in the chain: the last one, or
// one that another goes on from. It begins at the end, where it is expected.
func (w *writer) has(hash string) (bool, error) {
	if hash == hex.EncodeToString(w.prev[:]) {
		return true, nil
	}
	files, err := AuditFiles(w.path)
	if err != nil {
		return false, err
	}
	for _, name := range slices.Backward(files[max(0, len(files)-endFiles):]) {
		if found, err := mentions(name, []byte(`"prev":"`+hash+`"`)); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// mentions reports whether a file holds a text. It reads from the end.
func mentions(name string, text []byte) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, cause(err)
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, cause(err)
	}
	const block = 1 << 20
	buf := make([]byte, block+len(text)) // so that no place is cut in two
	for at := end; at > 0; {
		at = max(0, at-block)
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, cause(err)
		}
		if bytes.Contains(buf[:n], text) {
			return true, nil
		}
	}
	return false, nil
}

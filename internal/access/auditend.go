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
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// eventCut is the event of a line before which there were others once.
const eventCut = "audit.cut"

// A CutError says that the end of an audit was cut off while nobody wrote to it,
// or that nobody can tell any more.
type CutError struct {
	Path string
	Hash string // of a line that was written; "" if none is known
}

func (e *CutError) Error() string {
	if e.Hash == "" {
		return fmt.Sprintf("audit file %q: what was remembered of its end has been removed or changed, so that lines may be missing there", e.Path)
	}
	return fmt.Sprintf("audit file %q: lines at its end are missing: that with the hash %s was there", e.Path, e.Hash)
}

// Hint says what an operator can do about it.
func (e *CutError) Hint() string {
	return "who could write the file removed them, or moved it to a name that is not looked at; compare it with a copy kept elsewhere"
}

// Cut is how the end of the audit was cut off before it was opened, or nil.
func (a *Audit) Cut() *CutError {
	if a == nil {
		return nil
	}
	return a.cut.Load()
}

// Expect holds what the files have against a line that is known to be in them,
// such as by a memory that can be read only some time after the start. That it is
// not there, [Audit.Cut] says from then on, and the audit itself. A hash of ""
// stands for a memory that was removed or changed.
func (a *Audit) Expect(hash string) error {
	there, err := hash != "" && hash == a.Head().Hash, error(nil)
	if hash != "" && !there { // then another line goes on from it
		there, err = mentioned(a.cfg.Path, hash)
	}
	if err != nil {
		a.cfg.Log.Warn("whether the end of the audit was cut off cannot be seen", "file", a.cfg.Path, "err", err)
	}
	if there || err != nil {
		return nil
	}
	cut := &CutError{a.cfg.Path, hash}
	if !a.cut.CompareAndSwap(nil, cut) {
		return nil // it is known
	}
	return a.Append(&Entry{Time: time.Now(), Event: eventCut, Outcome: "error", Error: cut.Error(), Hash: hash})
}

// An end is the line that was last remembered, or tried to be. It is owned by
// Audit.run.
type end struct {
	hash   [sha256.Size]byte
	busy   bool // Remember is under way
	failed bool // the last time
	done   chan error
}

// keepEnd has the last line on the disk remembered, if it is another than the
// last time. Lines are written on meanwhile.
func (a *Audit) keepEnd() {
	if a.w.durable == a.end.hash || a.end.busy {
		return
	}
	a.end.hash, a.end.busy = a.w.durable, true
	hash := hex.EncodeToString(a.w.durable[:])
	go func() { a.end.done <- a.remember(hash) }()
}

func (a *Audit) remember(hash string) error {
	err := writeEnd(a.cfg.Path, hash)
	if a.cfg.Remember != nil {
		err = errors.Join(err, a.cfg.Remember(hash))
	}
	return err
}

// remembered notes how that ended. What failed is tried again at the next time.
func (a *Audit) remembered(err error) {
	a.end.busy = false
	if err != nil {
		a.end.hash = [sha256.Size]byte{}
		if !a.end.failed {
			a.cfg.Log.Warn("the end of the audit is not remembered", "file", a.cfg.Path, "err", err)
		}
	}
	a.end.failed = err != nil
}

// keepLastEnd is keepEnd for the time after which nothing is written.
func (a *Audit) keepLastEnd() {
	if a.end.busy {
		a.remembered(<-a.end.done)
	}
	if a.keepEnd(); a.end.busy {
		a.remembered(<-a.end.done)
	}
}

// AuditEndFile is where the hash of a line lies that the audit at path is known
// to have: the last one that was on the disk when the file was last synced.
func AuditEndFile(path string) string { return path + ".end" }

// writeEnd writes in place and does not sync: what a power cut leaves is the hash
// of that line or of one before it.
func writeEnd(path, hash string) error {
	f, err := os.OpenFile(AuditEndFile(path), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(hash+"\n"), 0)
	return errors.Join(err, f.Close())
}

// ReadAuditEnd is the hash that lies beside the audit at path. The error is
// [os.ErrNotExist] where none does.
func ReadAuditEnd(path string) (hash string, err error) {
	text, err := os.ReadFile(AuditEndFile(path))
	if err != nil {
		return "", err
	}
	hash, rest, _ := strings.Cut(string(text), "\n")
	if b, err := hex.DecodeString(hash); err != nil || len(b) != sha256.Size || rest != "" {
		return "", fmt.Errorf("%s holds no hash of a line", AuditEndFile(path))
	}
	return hash, nil
}

// endFiles is how many files are looked through for the last line remembered,
// which is at most some seconds from the end.
const endFiles = 3

// mentioned reports whether a line of the audit goes on from that of a hash. It
// begins at the end, where it is expected.
func mentioned(path, hash string) (bool, error) {
	files, err := AuditFiles(path)
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

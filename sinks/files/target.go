package files

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/sinks"
)

// An item is what is in a file: a secret or a certificate.
type item struct {
	secret *sinks.Secret
	cert   *sinks.Certificate
}

func (it item) none() bool { return it.secret == nil && it.cert == nil }

func (it item) version() string {
	switch {
	case it.secret != nil:
		return it.secret.Version
	case it.cert != nil:
		return it.cert.Serial
	}
	return ""
}

// A target is a file while the agent keeps it.
type target struct {
	File
	dir, base string
	uid, gid  int
	mode      fs.FileMode
	tmpl      *template.Template // nil without a template

	mu       sync.Mutex
	item     item              // guarded by mu: what should be in the file
	sum      [sha256.Size]byte // guarded by mu: of the content last seen to be right
	seen     identity          // guarded by mu: of the file then; zero before
	since    time.Time         // guarded by mu: when it was written
	reported string            // guarded by mu: the drift that was told and is not repaired yet
	repaired time.Time         // guarded by mu: when a drift was last repaired
	failures int               // guarded by mu: in a row
	due      time.Time         // guarded by mu: when to look again; zero for not before something happens
	err      error             // guarded by mu: why the file is not right
}

// An identity changes whenever anything about a file does.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
	mode         uint32
	uid, gid     uint32
}

func identify(st unix.Stat_t) identity {
	return identity{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim, st.Mode, st.Uid, st.Gid}
}

// repairSpacing keeps the agent and somebody else who writes the file from
// doing so in turns as fast as they can.
const repairSpacing = 300 * time.Millisecond

// maxRead bounds what is read of a file that is not ours any more.
const maxRead = 64 << 20

// publish makes it the content of the file.
func (t *target) publish(fs *Files, it item) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.item = it
	return t.settle(fs, t.sync(fs))
}

// check looks whether the file is as it should be.
func (t *target) check(fs *Files) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.item.none() {
		return
	}
	_ = t.settle(fs, t.sync(fs)) // settle has told the log
}

// withdraw forgets the content. The file stays.
func (t *target) withdraw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.item, t.seen, t.reported, t.due, t.failures, t.err = item{}, identity{}, "", time.Time{}, 0, nil
}

// settle notes how it went, and when to try again. Each error is logged when it
// is new.
func (t *target) settle(fs *Files, err error) error {
	if err == nil {
		if t.err != nil {
			fs.cfg.Log.Info("file is written again", "file", t.Path)
		}
		t.failures, t.err = 0, nil
		if t.due.IsZero() { // else a repair is put off
			t.reported = ""
		}
		return nil
	}
	if t.err == nil || t.err.Error() != err.Error() {
		fs.cfg.Log.Warn("file not written; it keeps its last content", "file", t.Path, "err", err)
	}
	t.err = err
	t.failures++
	t.due = time.Now().Add(backoff(t.failures))
	fs.wakeUp()
	return err
}

// backoff is half a second, doubled with each failure up to five minutes, and
// up to half as much again.
func backoff(failures int) time.Duration {
	d := min(500*time.Millisecond<<min(failures-1, 10), 5*time.Minute)
	return d + rand.N(d/2)
}

// sync makes the file what it should be, if it is not.
func (t *target) sync(fs *Files) error {
	t.due = time.Time{}
	content, err := t.render(t.item)
	if err != nil {
		return &Error{Path: t.Path, Op: "render", Err: err}
	}
	d, err := t.openDir()
	if err != nil {
		return err
	}
	defer d.close()
	sum := sha256.Sum256(content)
	what, st := t.compare(d, content, sum)
	if what == "" {
		t.sum, t.seen = sum, identify(st)
		return nil
	}
	// It is a drift if the file was right, and the same is still wanted.
	drift := t.seen != identity{} && sum == t.sum
	if drift {
		t.report(fs, what, st)
		if wait := repairSpacing - time.Since(t.repaired); wait > 0 {
			t.due = time.Now().Add(wait)
			fs.wakeUp()
			return nil
		}
	}
	return t.write(fs, d, content, sum, drift)
}

func (t *target) write(fs *Files, d *dir, content []byte, sum [sha256.Size]byte, drift bool) error {
	delivery := Delivery{Path: t.Path, Secret: t.Secret, Certificate: t.Certificate, Version: t.item.version(), Repaired: drift}
	if fs.cfg.Writing != nil {
		if err := fs.cfg.Writing(delivery); err != nil {
			return &Error{Path: t.Path, Op: "prepare", Err: err}
		}
	}
	st, err := d.replace(t.base, content, t.uid, t.gid, t.mode)
	if err != nil {
		return &Error{Path: t.Path, Op: "write", Err: err, Remedy: t.remedy(err)}
	}
	now := time.Now()
	t.sum, t.seen, t.since = sum, identify(st), now
	if drift {
		t.repaired = now
	}
	if fs.cfg.Written != nil {
		fs.cfg.Written(delivery)
	}
	return nil
}

// compare says what about the file is not as it should be, or "".
func (t *target) compare(d *dir, content []byte, sum [sha256.Size]byte) (what string, st unix.Stat_t) {
	st, err := d.stat(t.base)
	switch {
	case err != nil:
		return "deleted", unix.Stat_t{}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "type", st
	case identify(st) == t.seen && sum == t.sum:
		return "", st
	case st.Size != int64(len(content)):
		return "content", st
	}
	found, err := d.read(t.base, min(st.Size, maxRead)+1)
	switch {
	case err != nil || !bytes.Equal(found, content): // what cannot be read cannot be vouched for
		return "content", st
	case st.Uid != uint32(t.uid) || st.Gid != uint32(t.gid):
		return "owner", st
	case fs.FileMode(st.Mode&0o7777) != t.mode:
		return "mode", st
	}
	return "", st
}

// report tells of a drift once.
func (t *target) report(fs *Files, what string, st unix.Stat_t) {
	if t.reported == what {
		return
	}
	t.reported = what
	d := Drift{Path: t.Path, What: what, UID: st.Uid, GID: st.Gid, Mode: modeOf(st), At: time.Now()}
	fs.cfg.Log.Warn("file was changed by somebody else; it is put right", "file", t.Path, "what", what,
		"uid", d.UID, "gid", d.GID, "mode", fmt.Sprintf("%#o", d.Mode))
	if fs.cfg.Drifted != nil {
		fs.cfg.Drifted(d)
	}
}

func modeOf(st unix.Stat_t) fs.FileMode { return fs.FileMode(st.Mode & 0o7777) }

// remedy is what an operator can do about a failed write.
func (t *target) remedy(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room on the file system"
	case errors.Is(err, unix.EPERM) && (t.Owner != "" || t.Group != ""):
		return "the agent needs CAP_CHOWN to give files to another owner, or the group among its own"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "let the agent write to " + t.dir
	case errors.Is(err, unix.EROFS):
		return "add " + t.dir + " to ReadWritePaths= of the agent's unit"
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EBUSY):
		return "something stands at the path that cannot be replaced by a file, such as a directory or a mount"
	}
	return ""
}

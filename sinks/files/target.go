package files

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A target is a file or a set while the agent keeps it.
type target struct {
	path, dir, base string
	entries         []*entry
	set             *setState // nil for a file
	memory          *memory
	watching        atomic.Pointer[string] // what Run watches besides dir

	mu         sync.Mutex
	items      items           // guarded by mu: what should be in it
	withdrawn  map[ref]bool    // guarded by mu: what must not be
	purge      bool            // guarded by mu: something withdrawn is still there
	marks      map[string]mark // guarded by mu: of the entries last seen to be right, by name
	settled    bool            // guarded by mu: the marks are of the items as they are
	generation int64           // guarded by mu: in place; 0 if not seen to be right
	delivered  Delivery        // guarded by mu: that generation
	previous   Delivery        // guarded by mu: the one before it
	held       bool            // guarded by mu: rolled back, and left so
	heldFrom   string          // guarded by mu: what was wanted then
	inPlace    bool            // guarded by mu: it cannot be renamed onto
	since      time.Time       // guarded by mu: when it was written
	reported   string          // guarded by mu: the drift that was told and is not repaired yet
	repaired   time.Time       // guarded by mu: when a drift was last repaired
	failures   int             // guarded by mu: in a row
	due        time.Time       // guarded by mu: when to look again; zero for not before something happens
	err        error           // guarded by mu: why the target is not right
}

// A mark is what a file was like when it was right.
type mark struct {
	sum [sha256.Size]byte // of its content
	id  identity
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

const (
	// repairSpacing keeps the agent and somebody else who writes the file from
	// doing so in turns as fast as they can.
	repairSpacing = 300 * time.Millisecond
	// maxRead bounds what is read of a file that is not ours any more.
	maxRead = 64 << 20
)

func newTarget(path string, entries []*entry) *target {
	return &target{path: path, dir: filepath.Dir(path), base: filepath.Base(path), entries: entries,
		items: items{}, withdrawn: map[ref]bool{}, marks: map[string]mark{}}
}

// owner is whose the target is, if all of it is one user's.
func (t *target) owner() int {
	uid := t.entries[0].attr.uid
	for _, e := range t.entries {
		if e.attr.uid != uid {
			return 0
		}
	}
	return uid
}

// needs are the items of all entries.
func (t *target) needs() []ref {
	var all []ref
	for _, e := range t.entries {
		all = append(all, e.needs...)
	}
	slices.SortFunc(all, func(a, b ref) int { return cmp.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	return slices.Compact(all)
}

// give makes an item what should be in the target.
func (t *target) give(r ref, it item) {
	old, had := t.items[r]
	if !had || old != it {
		t.settled = false
	}
	t.items[r] = it
	delete(t.withdrawn, r)
	t.release()
}

// take withdraws an item. What a file holds is removed if it was delivered by
// this process, which begins by delivering all that the agent still holds: a
// file that it never wrote is not its to remove.
func (t *target) take(r ref) {
	_, had := t.items[r]
	delete(t.items, r)
	t.withdrawn[r], t.settled, t.held = true, false, false
	t.purge = t.purge || had || t.set != nil
}

// present are the entries that should be there; ok is false while an item of
// theirs was never given.
func (t *target) present() (entries []*entry, ok bool) {
	for _, e := range t.entries {
		missing := slices.ContainsFunc(e.needs, func(r ref) bool { _, ok := t.items[r]; return !ok })
		gone := slices.ContainsFunc(e.needs, func(r ref) bool { return t.withdrawn[r] })
		switch {
		case gone:
		case missing:
			return nil, false
		default:
			entries = append(entries, e)
		}
	}
	return entries, true
}

// plan says what has to be written, if anything.
func (t *target) plan(b *batch) (*job, error) {
	t.due = time.Time{}
	if t.purge {
		if err := t.purgeWithdrawn(b); err != nil {
			return nil, err
		}
		t.purge = false
	}
	entries, ok := t.present()
	if !ok || len(entries) == 0 || t.held {
		return nil, nil
	}
	d, err := b.dir(t)
	if err != nil {
		return nil, err
	}
	if t.set != nil {
		return t.planSet(b, d, entries)
	}
	return t.planFile(b, d)
}

func (t *target) planFile(b *batch, d *dir) (*job, error) {
	e := t.entries[0]
	if st, err := d.stat(t.base); err == nil && t.settled && identify(st) == t.marks[e.name].id {
		return nil, nil
	}
	c, err := e.make(t.items)
	if err != nil {
		return nil, t.renderError(err)
	}
	what, st := t.compare(d, e, c)
	if what == "" {
		t.right(map[string]mark{e.name: {c.sum, identify(st)}}, st.Mtim.Nano())
		t.delivered = t.delivery(t.entries, st.Mtim.Nano())
		return nil, d.removeMark(t.base)
	}
	// It is a drift if the file was right, and the same is still wanted.
	m, known := t.marks[e.name]
	drift := known && m.sum == c.sum
	if drift && !t.repair(b.fs, t.path, what, st) {
		return nil, nil
	}
	return &job{t: t, d: d, contents: []content{c}, drift: drift, delivery: t.deliver(t.entries, st.Mtim.Nano(), drift)}, nil
}

func (t *target) renderError(err error) error {
	return &Error{Path: t.path, Op: "render", Err: err, Remedy: "correct field, format, template or password of the file in the configuration"}
}

// right notes that all is as it should be.
func (t *target) right(marks map[string]mark, generation int64) {
	t.marks, t.generation, t.settled, t.reported = marks, generation, true, ""
}

// deliver is the delivery to come. Its generation is later than that found.
func (t *target) deliver(entries []*entry, found int64, repaired bool) Delivery {
	now := time.Now().UnixNano()
	if found > now+int64(time.Hour) {
		found = 0 // somebody else's
	}
	d := t.delivery(entries, max(now, found+1, t.generation+1))
	d.Repaired = repaired
	return d
}

func (t *target) delivery(entries []*entry, generation int64) Delivery {
	return Delivery{Target: t.path, Generation: generation, Items: t.items.of(entries), Leaves: t.items.leaves(entries)}
}

// compare says what about a file is not as it should be, or "".
func (t *target) compare(d *dir, e *entry, c content) (what string, st unix.Stat_t) {
	st, err := d.stat(e.name)
	switch {
	case err != nil:
		return "deleted", unix.Stat_t{}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "type", st
	case t.marks[e.name] == mark{c.sum, identify(st)}:
		return "", st
	case st.Size != int64(len(c.bytes)):
		return "content", st
	}
	f, err := d.open(e.name)
	if errors.Is(err, unix.EACCES) && t.memory.knows(t.pathOf(e), e, t.items, st) {
		return e.attr.differ(-1, st), st
	}
	if err != nil { // what cannot be read cannot be vouched for
		return "content", st
	}
	defer f.Close()
	found, err := readAll(f, min(st.Size, maxRead)+1)
	if err != nil || !bytes.Equal(found, c.bytes) {
		return "content", st
	}
	return e.attr.differ(int(f.Fd()), st), st
}

// repair reports a drift once, and whether it is to be repaired now.
func (t *target) repair(fs *Files, path, what string, st unix.Stat_t) bool {
	t.settled = false
	if t.reported != path+what {
		t.reported = path + what
		d := Drift{Target: t.path, Path: path, What: what, UID: st.Uid, GID: st.Gid, Mode: modeOf(st), At: time.Now()}
		fs.cfg.Log.Warn("file was changed by somebody else; it is put right", "file", path, "what", d.String())
		if fs.cfg.Drifted != nil {
			fs.cfg.Drifted(d)
		}
	}
	if wait := repairSpacing - time.Since(t.repaired); wait > 0 {
		t.due = time.Now().Add(wait)
		fs.wakeUp()
		return false
	}
	return true
}

// settle notes how it went, and when to try again. Each error is logged when it
// is new.
func (t *target) settle(fs *Files, err error) {
	if err == nil {
		if t.err != nil {
			fs.cfg.Log.Info("file is right again", "file", t.path)
		}
		t.failures, t.err = 0, nil
		return
	}
	if t.err == nil || t.err.Error() != err.Error() {
		fs.cfg.Log.Warn("file not written; it keeps its last content", "file", t.path, "err", err)
	}
	t.err, t.settled = err, false
	t.failures++
	t.due = time.Now().Add(backoff(t.failures))
	fs.wakeUp()
}

// backoff is half a second, doubled with each failure up to five minutes, and
// up to half as much again.
func backoff(failures int) time.Duration {
	d := min(500*time.Millisecond<<min(failures-1, 10), 5*time.Minute)
	return d + rand.N(d/2)
}

// status is for Files.Status.
func (t *target) status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Status{Path: t.path, Set: t.set != nil, Generation: t.generation, RolledBack: t.held, WrittenAt: t.since, Err: t.err, RetryAt: t.due}
	if t.set == nil {
		s.Secret, s.Certificate = t.entries[0].Secret, t.entries[0].Certificate
	}
	if entries, ok := t.present(); ok && len(entries) > 0 {
		for i, it := range t.items.of(entries) {
			if i > 0 {
				s.Version += ","
			}
			s.Version += it.Version
		}
	}
	if t.err == nil {
		s.RetryAt = time.Time{}
	}
	return s
}

// forget leaves nothing that a later file could be compared with.
func (t *target) forget() {
	t.marks, t.generation, t.delivered, t.previous = map[string]mark{}, 0, Delivery{}, Delivery{}
	t.reported, t.inPlace, t.settled = "", false, false
}

// purgeWithdrawn removes what holds a withdrawn item.
func (t *target) purgeWithdrawn(b *batch) error {
	d, err := b.dir(t)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if t.set != nil {
		return t.purgeSet(b.fs, d)
	}
	for _, name := range []string{prevPrefix + t.base, t.base} {
		err := d.remove(name)
		if errors.Is(err, unix.EBUSY) {
			return &Error{Path: t.path, Op: "remove", Err: errors.New("the value was withdrawn, but something is mounted here and cannot be removed"),
				Remedy: "remove the mount and the file behind it; it holds a value that is not valid any more"}
		}
		if err != nil {
			return &Error{Path: t.path, Op: "remove", Err: err, Remedy: t.remedy(err)}
		}
	}
	if t.generation != 0 {
		b.fs.cfg.Log.Warn("file removed: the upstream has withdrawn its value", "file", t.path)
	}
	t.forget()
	return nil
}

// remedy is what an operator can do about a failed write.
func (t *target) remedy(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room on the file system"
	case errors.Is(err, unix.EROFS):
		return "add " + t.dir + " to ReadWritePaths= of the agent's unit"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		for _, e := range t.entries {
			if e.Owner != "" || e.Group != "" {
				return "let the agent write to " + t.dir + "; to give files to another owner it needs CAP_CHOWN, or the group among its own"
			}
		}
		return "let the agent write to " + t.dir
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EXDEV):
		return "something stands at the path that cannot be replaced, such as a directory or a mount"
	case errors.Is(err, unix.ENOTSUP):
		return "the file system has no ACLs or labels; leave them out, or mount it with them"
	}
	return ""
}

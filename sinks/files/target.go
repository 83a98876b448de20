package files

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A target is a file or a set while the agent keeps it.
type target struct {
	path, dir, base string
	entries         []*entry
	set             *setState // nil for a file
	fs              *Files
	lane            *lane
	watching        atomic.Pointer[string] // what Run watches besides dir
	view            atomic.Pointer[view]

	next map[ref]item // guarded by fs.words: what it was told and has not taken up; the zero item is a withdrawal

	mu         mutex
	items      items           // guarded by mu: what should be in it
	withdrawn  map[ref]bool    // guarded by mu: what must not be
	purge      bool            // guarded by mu: something withdrawn is still there
	marks      map[string]mark // guarded by mu: of the entries last seen to be right, by name
	settled    bool            // guarded by mu: the marks are of the items as they are
	generation int64           // guarded by mu: in place; 0 if not seen to be right
	owed       *Delivery       // guarded by mu: what Writing was called for, and Written not yet
	delivered  Delivery        // guarded by mu: that generation
	previous   Delivery        // guarded by mu: the one before it
	held       bool            // guarded by mu: rolled back, and kept so
	back       []model         // guarded by mu: what the roll-back has put back; nil if that is not known yet
	heldFrom   string          // guarded by mu: what was wanted then
	inPlace    bool            // guarded by mu: it was a mount when it was last written
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
	return &target{path: path, dir: filepath.Dir(path), base: filepath.Base(path), entries: entries, mu: make(mutex, 1),
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
	t.withdrawn[r], t.settled = true, false
	t.unhold()
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
		if entries, ok := t.present(); ok && len(entries) == 0 {
			t.owed = nil
			if b.fs.cfg.Withdrawn != nil {
				b.fs.cfg.Withdrawn(t.path)
			}
		}
		if err := t.purgeWithdrawn(b); err != nil {
			return nil, err
		}
		t.purge = false
	}
	entries, ok := t.present()
	if !ok || len(entries) == 0 {
		return nil, nil
	}
	if err := t.resolve(); err != nil {
		return nil, err
	}
	d, err := b.dir(t)
	if err != nil {
		return nil, err
	}
	if t.held && t.back == nil && t.hold(d, Delivery{}) != nil {
		t.unhold() // what an earlier process has put back is there no more
	}
	if t.set != nil {
		return t.planSet(b, d, entries)
	}
	return t.planFile(b, d, entries)
}

// resolve looks again for users and groups that were not there.
func (t *target) resolve() error {
	for _, e := range t.entries {
		if e.missing == nil {
			continue
		}
		if e.missing = e.resolve(); e.missing != nil {
			return &Error{Path: t.path, Op: "give away", Err: e.missing, Remedy: "install the consumer, or correct owner, group and acl of the file; it is looked for again"}
		}
	}
	return nil
}

func (t *target) planFile(b *batch, d *dir, entries []*entry) (*job, error) {
	if st, err := d.stat(t.base); err == nil && t.settled && identify(st) == t.marks[t.base].id {
		return nil, nil
	}
	models, err := t.models(entries)
	if err != nil {
		return nil, err
	}
	what, st := t.compare(d, models[0])
	if what == "" {
		t.right(map[string]mark{t.base: {models[0].sum, identify(st)}}, st.Mtim.Nano())
		return t.found(d, entries), d.removeMark(t.base)
	}
	return t.rewrite(b, d, entries, models, flaw{t.path, what, st}, st.Mtim.Nano())
}

// A flaw is what is not as it should be about a target.
type flaw struct {
	path, what string
	st         unix.Stat_t
}

// errUnread is a roll-back that somebody has spoilt, with nothing to mend it by.
var errUnread = errors.New("it was rolled back and then changed, and what it held is not known: the agent may not read it")

// rewrite is the job that puts a target right. It is for a drift if it was right,
// and the same is still wanted.
func (t *target) rewrite(b *batch, d *dir, entries []*entry, models []model, f flaw, latest int64) (*job, error) {
	j := &job{t: t, d: d, models: models, drift: t.sameAsMarked(models)}
	if j.drift && !t.repair(f) {
		return nil, nil
	}
	j.delivery = t.deliver(entries, latest, j.drift)
	if !t.held {
		return j, nil
	}
	if slices.ContainsFunc(models, func(m model) bool { return m.unread }) {
		return nil, &Error{Path: t.path, Op: "repair", Err: errUnread, Remedy: "it is written again when its consumer is tried again"}
	}
	j.drift, j.silent = true, true
	j.delivery.Generation = t.sameAgain()
	return j, nil
}

// sameAsMarked reports whether the same is wanted as was last seen to be right.
func (t *target) sameAsMarked(models []model) bool {
	for _, m := range models {
		if known, ok := t.marks[m.name]; !ok || known.sum != m.sum {
			return false
		}
	}
	return len(t.marks) == len(models)
}

// found takes up that the target is right. If Writing was called and the write
// then failed on its way, what follows is still to be told.
func (t *target) found(d *dir, entries []*entry) *job {
	if t.held {
		return nil
	}
	is := t.delivery(entries, t.generation)
	if t.owed == nil {
		t.delivered = is
		return nil
	}
	is.Repaired = t.owed.Repaired
	return &job{t: t, d: d, drift: is.Repaired, right: true, delivery: is}
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
	d := Delivery{Target: t.path, Generation: generation, Items: t.items.of(entries), Leaves: t.items.leaves(entries), items: items{}}
	for _, e := range entries {
		for _, r := range e.needs {
			d.items[r] = t.items[r]
		}
	}
	return d
}

// compare says what about a file is not as it should be, or "".
func (t *target) compare(d *dir, m model) (what string, st unix.Stat_t) {
	st, err := d.stat(m.name)
	switch {
	case err != nil:
		return "deleted", unix.Stat_t{}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "type", st
	case t.marks[m.name] == mark{m.sum, identify(st)}:
		return "", st
	case m.unread:
		return cmp.Or(m.attr.differ(-1, st), "content"), st
	case st.Size != int64(len(m.bytes)):
		return "content", st
	}
	f, err := d.open(m.name)
	if errors.Is(err, unix.EACCES) && m.entry != nil && t.fs.memory.knows(t.pathOf(m.entry), m.entry, t.items, st) {
		return m.attr.differ(-1, st), st
	}
	if err != nil { // what cannot be read cannot be vouched for
		return "content", st
	}
	defer f.Close()
	found, err := readAll(f, min(st.Size, maxRead)+1)
	if err != nil || !bytes.Equal(found, m.bytes) {
		return "content", st
	}
	return m.attr.differ(int(f.Fd()), st), st
}

// repair reports a drift once, and whether it is to be repaired now.
func (t *target) repair(f flaw) bool {
	t.settled = false
	if t.reported != f.path+f.what {
		t.reported = f.path + f.what
		t.drifted(f)
	}
	if wait := repairSpacing - time.Since(t.repaired); wait > 0 {
		t.due = time.Now().Add(wait)
		return false
	}
	return true
}

// drifted tells of a drift.
func (t *target) drifted(f flaw) {
	d := Drift{Target: t.path, Path: f.path, What: f.what, UID: f.st.Uid, GID: f.st.Gid, Mode: modeOf(f.st), At: time.Now()}
	t.fs.cfg.Log.Warn("file was changed by somebody else; it is put right", "file", f.path, "what", d.String())
	if t.fs.cfg.Drifted != nil {
		t.fs.cfg.Drifted(d)
	}
}

// settle notes how it went, and when to try again. Each error is logged when it
// is new.
func (t *target) settle(err error) {
	if err == nil {
		if t.err != nil {
			t.fs.cfg.Log.Info("file is right again", "file", t.path)
		}
		t.failures, t.err = 0, nil
		return
	}
	if errors.Is(err, errNewer) {
		t.settled = false
		return
	}
	if t.err == nil || t.err.Error() != err.Error() {
		msg := "file not written; it keeps its last content"
		if t.settled {
			msg = "file written, but not all that belongs to it is done"
		}
		attrs := []any{"file", t.path, "err", err}
		if e, ok := errors.AsType[*Error](err); ok && e.Remedy != "" {
			attrs = append(attrs, "hint", e.Remedy)
		}
		t.fs.cfg.Log.Warn(msg, attrs...)
	}
	t.err, t.settled = err, false
	t.failures++
	t.due = time.Now().Add(backoff(t.failures))
}

// backoff is half a second, doubled with each failure up to five minutes, and
// up to half as much again.
func backoff(failures int) time.Duration {
	d := min(500*time.Millisecond<<min(failures-1, 10), 5*time.Minute)
	return d + rand.N(d/2)
}

// A view is what can be said of a target while its file system hangs, and mu is
// held for as long.
type view struct {
	Status
	due       time.Time // when to look again; zero for not before something happens
	watchable string    // what has to be watched besides the directory; "" is nothing
}

// show brings the view up to date. Whatever changes the target ends with it.
func (t *target) show() {
	v := &view{due: t.due, Status: Status{Path: t.path, Set: t.set != nil, Generation: t.generation, RolledBack: t.held, Err: t.err}}
	if entries, ok := t.present(); ok && len(entries) > 0 {
		for i, it := range t.items.of(entries) {
			if i > 0 {
				v.Version += ","
			}
			v.Version += it.Version
		}
	}
	if t.err != nil {
		v.RetryAt = t.due
	}
	switch {
	case t.set != nil && t.generation != 0:
		v.watchable = filepath.Join(t.dir, t.linkTo(t.generation))
	case t.inPlace:
		v.watchable = t.path
	}
	if old := t.view.Swap(v); old == nil || old.watchable != v.watchable || !old.due.Equal(v.due) {
		t.fs.wakeUp()
	}
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

package files

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// keeps is where a target has what it can be rolled back to, or "".
func (t *target) keeps() string {
	switch {
	case t.set != nil:
		return filepath.Join(t.dir, t.store())
	case t.entries[0].KeepPrevious:
		return filepath.Join(t.dir, prevPrefix+t.base)
	}
	return ""
}

// clearGone removes what was kept of targets that are not configured any more: there
// are keys in it, and nobody looks after them. What was delivered stays, as it may be
// in use; what goes with a set when its link is removed is looked for at each start.
func (fs *Files) clearGone(ctx context.Context) {
	byDir := map[string][]string{}
	for _, path := range fs.memory.gone(fs.targets) {
		byDir[filepath.Dir(path)] = append(byDir[filepath.Dir(path)], path)
	}
	var all sync.WaitGroup
	for dir, paths := range byDir {
		all.Go(func() { fs.clearIn(ctx, dir, paths) }) // a file system that hangs keeps no other waiting
	}
	all.Wait()
}

// clearIn is clearGone for one directory.
func (fs *Files) clearIn(ctx context.Context, dir string, paths []string) {
	d, err := openDir(dir, fs.trusted)
	var cleared []string
	switch {
	case errors.Is(err, unix.ENOENT):
		cleared = paths
	case err != nil:
		fs.unclear(paths[0], err)
	default:
		defer d.close()
		for _, path := range paths {
			left, err := d.clear(ctx, filepath.Base(path))
			if err != nil {
				fs.unclear(path, err)
			} else if !left {
				cleared = append(cleared, path)
			}
		}
		if err := d.sync(); err != nil {
			fs.unclear(paths[0], err)
			return
		}
	}
	if ctx.Err() == nil { // else it is the next process's memory by now
		fs.memory.forget(cleared)
	}
}

func (fs *Files) unclear(path string, err error) {
	fs.cfg.Log.Warn("old versions of a file that is not configured any more are not removed; there may be a key in them", "path", path, "err", err,
		"hint", "let the agent write there, or remove them by hand; it is tried again at the next start")
}

// clear removes what was kept under a name, and reports whether something is left
// that may be in use.
func (d *dir) clear(ctx context.Context, name string) (left bool, err error) {
	base, isSet := strings.CutPrefix(name, storePrefix)
	if !isSet {
		return false, d.remove(name)
	}
	store, err := d.below(name, func(string, unix.Stat_t) {})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	defer store.close()
	now, what, _ := newTarget(filepath.Join(d.f.Name(), base), nil).current(d)
	switch what {
	case "link": // it leads to where somebody wants it
		return true, nil
	case "":
		wait := min(time.Until(time.Unix(0, now).Add(readerGrace)), readerGrace) // as in prune
		if !sleep(ctx, wait) {
			return true, nil
		}
	default:
		now = 0 // there is no link
	}
	if err := store.clearGenerations(now); err != nil || now != 0 {
		return true, err
	}
	err = unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
	return err != nil, nil // there may be something else in it
}

// clearGenerations removes all generations but one.
func (d *dir) clearGenerations(but int64) error {
	names, err := d.f.Readdirnames(-1)
	if err != nil {
		return cause(err)
	}
	for _, name := range names {
		gen, err := strconv.ParseInt(name, 10, 64)
		if err != nil || gen == but {
			continue
		}
		if st, err := d.stat(name); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK { // see adopt
			if err := d.remove(name); err != nil {
				return err
			}
		} else if err := removeGeneration(d, gen); err != nil {
			return err
		}
	}
	return d.sync()
}

// sleep reports whether there was time for it.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// gone is where earlier configurations have kept something, and this one does not.
// It remembers where this one does.
func (m *memory) gone(now map[string]*target) []string {
	m.mu.Lock()
	kept := map[string]bool{}
	for _, t := range now {
		if path := t.keeps(); path != "" {
			kept[path] = true
		}
	}
	var gone []string
	for path := range m.kept {
		if !kept[path] {
			gone = append(gone, path)
		}
		kept[path] = true
	}
	m.dirty = m.dirty || !maps.Equal(m.kept, kept)
	m.kept = kept
	m.mu.Unlock()
	m.keep()
	slices.Sort(gone)
	return gone
}

// forget takes note that nothing is kept any more at some places.
func (m *memory) forget(paths []string) {
	m.mu.Lock()
	for _, path := range paths {
		delete(m.kept, path)
		m.dirty = true
	}
	m.mu.Unlock()
	m.keep()
}

package files

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A memory knows, over restarts, files that the agent has given away and may
// not read any more. Without it each start would write them again, and reload
// their consumers for nothing. It holds no values and no digests of them: that
// nothing about a file has changed is told by its times and numbers, and what is
// in it by the versions of its items.
//
// It also knows where old versions are kept, for a configuration that has their
// files no more.
type memory struct {
	save func([]byte) error
	log  *slog.Logger

	mu    sync.Mutex
	files map[string]memorised // guarded by mu: by path
	kept  map[string]bool      // guarded by mu: by path; see clearGone
	dirty bool                 // guarded by mu
}

// saved is a memory as it outlives the process.
type saved struct {
	Files map[string]memorised `json:"files"`
	Kept  map[string]bool      `json:"kept"`
}

// A memorised file is one as it was when it was right.
type memorised struct {
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"`
	Ctime int64  `json:"ctime"` // nobody but root can set it
	Is    string `json:"is"`    // see entry.identity
}

func newMemory(blob []byte, save func([]byte) error, log *slog.Logger) *memory {
	var is saved
	if err := json.Unmarshal(blob, &is); err != nil {
		is = saved{} // of another version: the files are written again
	}
	m := &memory{save: save, log: log, files: is.Files, kept: is.Kept}
	if m.files == nil {
		m.files = map[string]memorised{}
	}
	return m
}

// identity says what the content and the attributes of an entry are made of.
func (e *entry) identity(its items) string {
	text := fmt.Sprintf("%q %q %q %q %x %q %v", e.Format, e.Field, e.Template, e.needs, e.attr.acl, e.attr.label, its.of([]*entry{e}))
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// givenAway reports whether the agent may not be able to read the file.
func (e *entry) givenAway() bool { return os.Geteuid() != 0 && e.attr.uid != os.Geteuid() }

// knows reports whether a file is as it was when it was right.
func (m *memory) knows(path string, e *entry, its items, st unix.Stat_t) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, ok := m.files[path]
	return ok && have == memorised{st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano(), e.identity(its)}
}

// note takes up a file that was just written.
func (m *memory) note(path string, e *entry, its items, id identity) {
	if m.save == nil || !e.givenAway() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[path] = memorised{id.ino, id.size, id.mtime.Nano(), id.ctime.Nano(), e.identity(its)}
	m.dirty = true
}

// keep brings what is new to where it outlives the process.
func (m *memory) keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirty || m.save == nil {
		return
	}
	blob, err := json.Marshal(saved{m.files, m.kept})
	if err == nil {
		err = m.save(blob)
	}
	if err != nil {
		m.log.Warn("what is known of files is not remembered: the next start writes again those that cannot be read back", "err", err)
		return
	}
	m.dirty = false
}

// pathOf names an entry in messages and in the memory.
func (t *target) pathOf(e *entry) string {
	if t.set == nil {
		return t.path
	}
	return t.path + "/" + e.name
}

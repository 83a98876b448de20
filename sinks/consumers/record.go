package consumers

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"
)

// A record is what is remembered of a consumer. It is on disk before a file
// changes, so that what a crash interrupted is done at the next start.
type record struct {
	// Pending says that the consumer has not taken up its files yet.
	Pending bool `json:"pending"`
	// Since is when the first of them was about to change.
	Since time.Time `json:"since,omitzero"`
	// Targets are those that change, with the names of their leaves.
	Targets map[string]string `json:"targets,omitempty"`
	// Many says that there are more than it is worth to write down.
	Many bool `json:"many,omitempty"`
	// Leaves are the delivered certificates, by the hash of their DER.
	Leaves map[string][]byte `json:"leaves,omitempty"`

	// RolledBack are targets that have their previous content.
	RolledBack []string `json:"rolled_back,omitempty"`

	Failures int       `json:"failures,omitempty"` // in a row
	RetryAt  time.Time `json:"retry_at,omitzero"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`

	ReloadedAt time.Time `json:"reloaded_at,omitzero"`
	ProvenAt   time.Time `json:"proven_at,omitzero"`
	Skipped    bool      `json:"skipped,omitempty"` // it did not run when it was to be reloaded last
}

// manyTargets is up to how many targets are written down one by one: each is a
// write that waits for the disk.
const manyTargets = 32

// with is the record with some changes noted, and whether it differs.
func (r record) with(changes []Change, now time.Time) (record, bool) {
	dirty := !r.Pending
	if !r.Pending {
		r.Pending, r.Since = true, now
	}
	for _, ch := range changes {
		leaf := nameOf(ch.Leaf)
		if _, known := r.Leaves[leaf]; leaf != "" && !known {
			r.Leaves = maps.Clone(r.Leaves)
			if r.Leaves == nil {
				r.Leaves = map[string][]byte{}
			}
			r.Leaves[leaf], dirty = ch.Leaf, true
		}
		if slices.Contains(r.RolledBack, ch.Target) {
			back := slices.Clone(r.RolledBack)
			r.RolledBack, dirty = slices.DeleteFunc(back, func(t string) bool { return t == ch.Target }), true
		}
		was, known := r.Targets[ch.Target]
		if known && was == leaf || r.Many {
			continue
		}
		r.Targets = maps.Clone(r.Targets)
		if r.Targets == nil {
			r.Targets = map[string]string{}
		}
		r.Targets[ch.Target], dirty = leaf, true
	}
	if len(r.Targets) > manyTargets {
		r.Targets, r.Many = nil, true
	}
	return r, dirty
}

// settled is the record once all targets but some are taken up.
func (r record) settled(left map[string]bool) record {
	if len(left) == 0 {
		return record{ReloadedAt: r.ReloadedAt, ProvenAt: r.ProvenAt, Skipped: r.Skipped}
	}
	r.Failures, r.RetryAt, r.Error, r.Hint, r.RolledBack = 0, time.Time{}, "", "", nil
	r.Targets = maps.Clone(r.Targets)
	maps.DeleteFunc(r.Targets, func(t, _ string) bool { _, ok := left[t]; return !ok })
	return r
}

// targets are those that a run before this one was to reload. What it rolled
// back is left out: that is delivered anew when it is published.
func (r record) targets(of Consumer) []string {
	var all []string
	for _, t := range of.Targets {
		_, noted := r.Targets[t.Path]
		if (noted || r.Many && changedSince(t.Path, r.Since)) && !slices.Contains(r.RolledBack, t.Path) {
			all = append(all, t.Path)
		}
	}
	return all
}

// leaves are those that a proof of some targets looks for.
func (r record) leaves(targets []string) [][]byte {
	var out [][]byte
	for name, leaf := range r.Leaves {
		if r.Many || slices.ContainsFunc(targets, func(t string) bool { return r.Targets[t] == name }) {
			out = append(out, leaf)
		}
	}
	return out
}

// changedSince reports whether a path was renamed onto since a time, or rather
// whether it cannot be told that it was not.
func changedSince(path string, since time.Time) bool {
	st, err := os.Lstat(path)
	if err != nil {
		return false
	}
	changed := st.Sys().(*syscall.Stat_t).Ctim
	return !time.Unix(changed.Unix()).Before(since.Add(-time.Second)) // the clock of files is coarse
}

func nameOf(leaf []byte) string {
	if leaf == nil {
		return ""
	}
	sum := sha256.Sum256(leaf)
	return hex.EncodeToString(sum[:8])
}

// backoff is how long to wait after so many failures in a row: 20 to 40
// seconds, doubled with each up to an hour.
func backoff(failures int) time.Duration {
	d := min(40*time.Second<<min(failures-1, 10), time.Hour)
	return d/2 + rand.N(d/2)
}

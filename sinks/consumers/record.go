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
	// Targets are those that change, with what is written to them.
	Targets map[string]written `json:"targets,omitempty"`
	// Many says that there are more than it is worth to write down.
	Many bool `json:"many,omitempty"`
	// Of are all targets of the consumer, if there are Many: whose they are may be
	// configured otherwise by the time they are looked at.
	Of []string `json:"of,omitempty"`
	// Leaves are the delivered certificates, by the hash of their DER.
	Leaves map[string][]byte `json:"leaves,omitempty"`

	// Untaken are the targets of which not all was taken up, each with the first
	// generation that was not. With more than manyTargets it is UntakenFrom, for all.
	Untaken     map[string]int64 `json:"untaken,omitempty"`
	UntakenFrom int64            `json:"untaken_from,omitempty"`

	// RolledBack are the targets that have their previous content, with what was
	// wanted of them when that did not work.
	RolledBack map[string]string `json:"rolled_back,omitempty"`
	// As names how the consumer was configured when it failed.
	As string `json:"as,omitempty"`

	Failures int       `json:"failures,omitempty"` // in a row
	RetryAt  time.Time `json:"retry_at,omitzero"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`

	ReloadedAt time.Time `json:"reloaded_at,omitzero"`
	ProvenAt   time.Time `json:"proven_at,omitzero"`
	Skipped    bool      `json:"skipped,omitempty"` // it did not run when it was to be reloaded last
}

// written is what was noted of a target.
type written struct {
	Leaves     []string `json:"leaves,omitempty"` // their names in the record's Leaves
	Generation int64    `json:"generation"`
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
		if _, back := r.RolledBack[ch.Target]; back && !ch.Repaired {
			r.RolledBack = maps.Clone(r.RolledBack)
			delete(r.RolledBack, ch.Target)
			dirty = true
		}
		if _, named := r.Targets[ch.Target]; r.Many && !named {
			continue
		}
		w := written{Generation: ch.Generation}
		r.Leaves = writable(r.Leaves)
		for _, leaf := range ch.Leaves {
			name := nameOf(leaf)
			w.Leaves = append(w.Leaves, name)
			r.Leaves[name] = leaf
		}
		r.Targets = writable(r.Targets)
		r.Targets[ch.Target], dirty = w, true
	}
	if len(r.Targets) > manyTargets {
		r.Targets, r.Leaves, r.Many = nil, nil, true
	}
	return r, dirty
}

// writable is a copy of a map, also of none.
func writable[V any](m map[string]V) map[string]V {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]V{}
	}
	return out
}

// without is the record without a target.
func (r record) without(target string) record {
	r.Targets, r.RolledBack = maps.Clone(r.Targets), maps.Clone(r.RolledBack)
	delete(r.Targets, target)
	delete(r.RolledBack, target)
	return r
}

// untaken are those of some targets of which not all was taken up.
func (r record) untaken(paths []string) map[string]int64 {
	out := map[string]int64{}
	for _, t := range paths {
		if from, ok := r.Untaken[t]; ok {
			out[t] = from
		} else if r.UntakenFrom != 0 {
			out[t] = r.UntakenFrom
		}
	}
	return out
}

// withUntaken is the record with what was not taken up, and whether it differs.
func (r record) withUntaken(from map[string]int64) (record, bool) {
	all := int64(0)
	if len(from) > manyTargets {
		all = slices.Min(slices.Collect(maps.Values(from)))
		from = nil
	}
	if all == r.UntakenFrom && maps.Equal(from, r.Untaken) {
		return r, false
	}
	r.Untaken, r.UntakenFrom = maps.Clone(from), all
	return r, true
}

// settled is the record once all targets but some are taken up.
func (r record) settled(left map[string]bool) record {
	if len(left) == 0 {
		return record{ReloadedAt: r.ReloadedAt, ProvenAt: r.ProvenAt, Skipped: r.Skipped, Untaken: r.Untaken, UntakenFrom: r.UntakenFrom}
	}
	r.Failures, r.RetryAt, r.Error, r.Hint = 0, time.Time{}, "", ""
	r.Targets, r.RolledBack = maps.Clone(r.Targets), maps.Clone(r.RolledBack)
	maps.DeleteFunc(r.Targets, func(t string, _ written) bool { _, ok := left[t]; return !ok })
	maps.DeleteFunc(r.RolledBack, func(t, _ string) bool { _, ok := left[t]; return !ok })
	needed := map[string]bool{}
	for _, w := range r.Targets {
		for _, name := range w.Leaves {
			needed[name] = true
		}
	}
	r.Leaves = maps.Clone(r.Leaves)
	maps.DeleteFunc(r.Leaves, func(name string, _ []byte) bool { return !needed[name] })
	return r
}

// recover is what a run before this one has left to do: the targets that it
// noted, and of these what it has written. A target that has another generation
// was not written, or was rolled back: it is reloaded as it is.
func (r record) recover(of Consumer, generation func(string) (int64, error)) (targets []string, deliveries map[string]delivery) {
	deliveries = map[string]delivery{}
	for _, t := range of.Targets {
		w, noted := r.Targets[t.Path]
		if !noted && !r.Many {
			continue
		}
		gen, err := generation(t.Path)
		switch {
		case noted:
			targets = append(targets, t.Path)
			if err == nil && gen == w.Generation {
				d := delivery{generation: gen}
				for _, name := range w.Leaves {
					d.leaves = append(d.leaves, r.Leaves[name])
				}
				deliveries[t.Path] = d
			}
		case changedSince(t.Path, r.Since):
			targets = append(targets, t.Path)
			deliveries[t.Path] = delivery{gen, nil}
		}
	}
	return targets, deliveries
}

// changedSince reports whether a path was renamed onto since a time.
func changedSince(path string, since time.Time) bool {
	st, err := os.Lstat(path)
	if err != nil {
		return false
	}
	changed := st.Sys().(*syscall.Stat_t).Ctim
	return !time.Unix(changed.Unix()).Before(since.Add(-time.Second)) // the clock of files is coarse
}

func nameOf(leaf []byte) string {
	sum := sha256.Sum256(leaf)
	return hex.EncodeToString(sum[:8])
}

// longestBackoff is the longest wait after a failure.
const longestBackoff = time.Hour

// backoff is how long to wait after so many failures in a row: 20 to 40
// seconds, doubled with each up to an hour.
func backoff(failures int) time.Duration {
	d := min(40*time.Second<<min(failures-1, 10), longestBackoff)
	return d/2 + rand.N(d/2)
}

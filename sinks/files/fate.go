package files

import "slices"

// A fate is what becomes of what is in a target when something else is written.
// What a Rollback puts back is what worked last, which need not be what was there
// last.
type fate int

const (
	dropped fate = iota // it goes; what is kept stays
	kept                // it is kept, in place of what was kept
	revoked             // it goes, with all that is kept
)

// judge says what becomes of the generation in place.
func (t *target) judge(j *job, gen int64) {
	switch {
	case j.drift: // it is not as it was delivered
		j.fate = dropped
	case len(t.revoked(t.delivered)) > 0:
		j.fate = revoked
	case t.takenUp(gen):
		j.fate = kept
	default:
		j.fate = dropped
	}
}

// judgeFile is judge for a file. What may not come back is removed before what
// replaces it is there: a crash leaves nothing that could.
func (t *target) judgeFile(b *batch, j *job) {
	st, err := j.d.stat(t.base)
	t.judge(j, st.Mtim.Nano())
	if err != nil && j.fate == kept {
		j.fate = dropped // there is nothing to keep
	}
	if j.fate != revoked {
		return
	}
	if err := j.d.remove(prevPrefix + t.base); err != nil {
		b.fs.cfg.Log.Warn("previous version not removed, whose certificate is revoked", "file", t.path, "err", err)
	}
}

// takenUp reports whether a generation works, as far as is known.
func (t *target) takenUp(gen int64) bool {
	return t.fs.cfg.TakenUp == nil || t.fs.cfg.TakenUp(t.path, gen)
}

// replaced takes up that something else is in place.
func (t *target) replaced(j *job) {
	switch j.fate {
	case kept:
		t.previous = t.delivered
	case revoked:
		t.previous = Delivery{}
	}
}

// sameAgain is the generation of what a roll-back has put back, once it is repaired.
// It is still before what did not work.
func (t *target) sameAgain() int64 {
	if t.set == nil {
		return t.generation
	}
	gen := t.generation + 2 // with one before it for adopt
	for slices.Contains(t.set.gens, gen) || slices.Contains(t.set.gens, gen-1) {
		gen++
	}
	return gen
}

// revoked are the certificates of which a delivery has, or may have, one of a key
// that is revoked by now.
func (t *target) revoked(d Delivery) (names []string) {
	for _, r := range t.needs() {
		now := t.items[r].cert
		if now == nil || now.UsableFrom <= 1 {
			continue
		}
		if had := d.items[r].cert; had == nil || had.Generation < now.UsableFrom {
			names = append(names, r.Name)
		}
	}
	return names
}

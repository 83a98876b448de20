package consumers

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// load reads what earlier runs have left to do, by consumer.
func load(s Store) (map[string]record, error) {
	blobs, err := s.Records(kind)
	if err != nil {
		return nil, err
	}
	records := map[string]record{}
	latest := time.Now().Add(longestBackoff)
	for name, blob := range blobs {
		var rec record
		if err := json.Unmarshal(blob, &rec); err != nil { // of another version: better once too often than never
			rec = record{Pending: true, Many: true}
		}
		if rec.RetryAt.After(latest) { // the clock was set back
			rec.RetryAt = latest
		}
		records[name] = rec
	}
	return records, nil
}

// handOver gives what is left to do of a target to whoever is told of it now. A
// consumer is named after how it is told, so that who corrects this has made another
// one, and must not lose the reload by that. It is saved with the new one before it
// goes from the old: a crash in between has it made once too often, and not never.
func (cs *Consumers) handOver(records map[string]record) error {
	gained := map[*consumer]bool{}
	for name, rec := range records {
		moved := map[*consumer][]string{}
		for _, path := range rec.targets() {
			if to := cs.owner[path]; to != nil && to.Name != name {
				moved[to] = append(moved[to], path)
			}
		}
		for to, paths := range moved {
			cs.cfg.Log.Info("what is left to reload is another consumer's now", "was", name, "consumer", to.Name, "targets", len(paths))
			to.rec, gained[to] = to.rec.joined(rec, paths), true
		}
	}
	for c := range gained {
		if err := c.save(c.rec); err != nil {
			return err
		}
	}
	for _, c := range cs.all {
		if rec, dirty := c.rec.kept(c.paths()); dirty {
			if err := c.save(rec); err != nil {
				return err
			}
		}
		delete(records, c.Name)
	}
	for name := range records { // not configured any more
		if err := cs.cfg.Store.DeleteRecord(kind, name); err != nil {
			return fmt.Errorf("forget consumer %q: %w", name, err)
		}
	}
	return nil
}

// targets are those that the record may have something left to do of.
func (r record) targets() []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(r.Targets)), maps.Keys(r.RolledBack))
	all = slices.AppendSeq(all, maps.Keys(r.Untaken))
	if r.Many {
		all = append(all, r.Of...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// joined is the record with what another one says of some targets. They are tried at
// once: they are told in another way now.
func (r record) joined(from record, paths []string) record {
	if !r.Pending || from.Since.Before(r.Since) {
		r.Since = from.Since
	}
	r.Pending, r.As = true, ""
	r.Targets, r.Leaves, r.RolledBack, r.Untaken = writable(r.Targets), writable(r.Leaves), writable(r.RolledBack), writable(r.Untaken)
	maps.Copy(r.Untaken, from.untaken(paths))
	for _, path := range paths {
		if w, named := from.Targets[path]; named {
			r.Targets[path] = w
			for _, name := range w.Leaves {
				r.Leaves[name] = from.Leaves[name]
			}
		} else if from.Many {
			r.Many, r.Of = true, append(slices.Clip(r.Of), path)
		}
		if wanted, back := from.RolledBack[path]; back {
			r.RolledBack[path] = wanted
		}
	}
	return r
}

// kept is the record without the targets that are not the consumer's any more, and
// whether it differs.
func (r record) kept(paths []string) (record, bool) {
	own, left := map[string]bool{}, map[string]bool{}
	for _, path := range paths {
		own[path] = true
	}
	all := r.targets()
	for _, path := range all {
		if own[path] {
			left[path] = true
		}
	}
	dirty := len(left) < len(all)
	if dirty {
		r = r.settled(left)
		r.Untaken = maps.Clone(r.Untaken)
		maps.DeleteFunc(r.Untaken, func(path string, _ int64) bool { return !own[path] })
	}
	if r.Many && !slices.Equal(r.Of, paths) {
		r.Of, dirty = paths, true
	}
	return r, dirty
}

package consumers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// attempt makes one try: test, reload, proof, and what follows of it.
func (c *consumer) attempt(ctx context.Context) {
	if c.postpone() {
		return
	}
	c.awaitLeaves(ctx)
	defer c.gate.open()
	again, err := c.redeliver()
	targets := c.begin()
	defer c.end()
	proven := false
	if err == nil {
		proven, err = c.try(ctx, targets)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		c.gate.read() // nobody waits at the end
		return        // it stays pending, and is made up for at the next start
	case errors.Is(err, ErrNotRunning):
		// What was not refused is taken to be good, and what it has when it is
		// started again: an older one may have ended by then.
		c.succeeded(slices.DeleteFunc(targets, func(t string) bool { return slices.Contains(again, t) }), OutcomeSkipped, false)
	case err == nil:
		c.succeeded(targets, OutcomeOK, proven)
	case c.superseded():
		c.cs.cfg.Log.Info("reload given up for a newer delivery", "consumer", c.Name, "err", err)
		c.again(targets)
	default:
		c.failed(ctx, targets, err)
	}
}

// nextLook is when it is looked again for items that have not come.
const nextLook = time.Second

// postpone puts a try off while what was rolled back cannot be written again, as
// its items have not come since the start. A reload with the previous files would
// be taken for a success.
func (c *consumer) postpone() bool {
	c.mu.Lock()
	back, anew := slices.Collect(maps.Keys(c.rolledBack)), c.superseding()
	c.mu.Unlock()
	if anew || !slices.ContainsFunc(back, c.itemless) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.postponed = time.Now().Add(nextLook)
	return true
}

// itemless reports whether it is not known yet what should be in a target.
func (c *consumer) itemless(target string) bool {
	wanted, err := c.cs.cfg.Files.Wanted(target)
	return err == nil && wanted == ""
}

// awaitLeaves waits, for a while, until it is known which certificates are in what
// an earlier run has left to do. That run may have noted more than it wrote, or too
// much to name it all; the files learn it from the items, which come at a start.
func (c *consumer) awaitLeaves(ctx context.Context) {
	c.mu.Lock()
	groups := c.proofs(c.left)
	first := c.tried.IsZero()
	c.mu.Unlock()
	unknown := func(group []string) bool { return len(c.leaves(group)) == 0 }
	for until := time.Now().Add(longestBurst); first && !c.superseded() && slices.ContainsFunc(groups, unknown) && time.Now().Before(until); {
		if !sleep(ctx, quiet) {
			return
		}
	}
}

// redeliver puts the new content back where the last failure has put the
// previous one.
func (c *consumer) redeliver() (again []string, err error) {
	c.mu.Lock()
	back := slices.Sorted(maps.Keys(c.rolledBack))
	c.mu.Unlock()
	for _, t := range back {
		if c.itemless(t) {
			continue
		}
		if err := c.cs.cfg.Files.Redeliver(t); err != nil {
			return again, &Error{Consumer: c.Name, Op: OpReload, Err: err}
		}
		again = append(again, t)
		c.mu.Lock()
		delete(c.rolledBack, t)
		c.left = append(c.left, t) // also if a crash kept it from going back
		c.mu.Unlock()
	}
	return again, nil
}

// try takes the steps, and reports whether there was a proof.
func (c *consumer) try(ctx context.Context, targets []string) (proven bool, err error) {
	c.gate.shut(ctx) // tests read the files too
	for _, t := range c.tests(targets) {
		if err := limited(ctx, t.Limit, func(ctx context.Context) error { return run(ctx, c.Name, t.Test) }); err != nil {
			return false, &Error{Consumer: c.Name, Op: OpTest, Err: err}
		}
	}
	if err := c.reload(ctx, targets); err != nil {
		return false, err
	}
	var shown [][]byte
	for _, group := range c.proofs(targets) {
		leaves := c.leaves(group)
		if len(leaves) == 0 {
			c.cs.cfg.Log.Warn("consumer reloaded and not proven: it is not known which certificate is in place", "consumer", c.Name, "targets", group)
			continue
		}
		if err := c.proof(group).make(ctx, leaves, c.superseded); err != nil {
			return false, &Error{Consumer: c.Name, Op: OpProve, Err: err}
		}
		proven, shown = true, append(shown, leaves...)
	}
	if proven {
		c.prove(shown)
	}
	return proven, nil
}

// prove takes up what a proof has shown. What was served before the consumer was
// told does not show that it has read its files since.
func (c *consumer) prove(leaves [][]byte) {
	before := func(leaf []byte) bool {
		return slices.ContainsFunc(c.shown, func(l []byte) bool { return bytes.Equal(l, leaf) })
	}
	if c.shown != nil && !slices.ContainsFunc(leaves, before) {
		c.gate.read()
	}
	c.shown = leaves
}

// reload tells the consumer, in each of the ways that the targets have.
func (c *consumer) reload(ctx context.Context, targets []string) error {
	c.gate.tell(ctx)
	for _, t := range c.ways(targets) {
		err := limited(ctx, t.Limit, t.Way.Reload)
		if errors.Is(err, ErrNotRunning) && len(c.proofs(targets)) > 0 {
			err = withHint("start it; a proof is configured, and nothing that is stopped can give one", "%s: %v", t.Way, err)
		}
		if err != nil {
			return &Error{Consumer: c.Name, Op: OpReload, Err: err}
		}
	}
	return nil
}

// limited runs f with a time limit.
func limited(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	if limit == 0 {
		limit = 30 * time.Second
	}
	lctx, done := context.WithTimeout(ctx, limit)
	defer done()
	err := f(lctx)
	if err != nil && errors.Is(lctx.Err(), context.DeadlineExceeded) {
		return withHint("see what it waits for; the limit is reload.timeout", "not within %v: %w", limit, err)
	}
	return err
}

// succeeded notes that nothing is left to do, unless something changed meanwhile,
// and what was taken up.
func (c *consumer) succeeded(taken []string, outcome string, proven bool) {
	now := time.Now()
	c.mu.Lock()
	rec := c.rec
	failures := rec.Failures
	rec.Skipped = outcome == OutcomeSkipped
	if outcome == OutcomeOK {
		rec.ReloadedAt = now
	}
	if proven {
		rec.ProvenAt = now
	}
	unfinished := c.unfinished()
	c.takeUp(taken, unfinished)
	rec, _ = rec.settled(unfinished).withUntaken(c.untaken)
	c.tried = now
	if err := c.save(rec); err != nil {
		c.rec = rec // else it would be tried again at once
		c.cs.cfg.Log.Warn("reload not taken off the queue; it will be made again at the next start", "consumer", c.Name, "err", err)
	}
	c.mu.Unlock()
	c.cs.cfg.Observe(c.Name, outcome)
	if outcome == OutcomeSkipped {
		c.cs.cfg.Log.Info("consumer not reloaded: it does not run, and reads its files when it starts", "consumer", c.Name)
		return
	}
	c.cs.cfg.Log.Info("consumer reloaded", "consumer", c.Name, "proven", proven, "failures_before", failures)
}

// mostNotes is how much is said of what followed a failure: a consumer may have a
// thousand files.
const mostNotes = 3

// failed puts the previous files back and reloads the consumer with them. That
// a try failed is on disk first: a crash amid this leads to another try.
func (c *consumer) failed(ctx context.Context, targets []string, cause error) {
	e, ok := errors.AsType[*Error](cause)
	if !ok {
		e = &Error{Consumer: c.Name, Op: OpReload, Err: cause}
	}
	c.mu.Lock()
	rec := c.rec
	rec.Failures++
	rec.RetryAt, rec.Error, rec.Hint, rec.As = time.Time{}, e.Error(), e.Hint(), c.how()
	c.keep(rec)
	c.mu.Unlock()

	c.shown = nil
	c.gate.shut(ctx)
	back, notes := c.rollBack(targets)
	if len(back) > 0 && e.Op != OpTest { // before a test nobody was told of the new files
		if err := c.reload(ctx, back); err != nil && !errors.Is(err, ErrNotRunning) && err.Error() != e.Error() {
			notes = append(notes, fmt.Sprintf("with the previous files: %v", errors.Unwrap(err)))
		}
	}
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	rec = c.rec
	rec.RetryAt = time.Now().Add(backoff(rec.Failures))
	if more := len(notes) - mostNotes; more > 0 {
		notes = append(notes[:mostNotes], fmt.Sprintf("and %d more", more))
	}
	if len(notes) > 0 {
		rec.Error += "; " + strings.Join(notes, "; ")
	}
	c.tried, c.left = time.Now(), targets
	c.keep(rec)
	c.mu.Unlock()
	c.cs.cfg.Observe(c.Name, outcomes[e.Op])
	c.cs.cfg.Log.Error("consumer did not take up its files", "consumer", c.Name, "err", rec.Error, "hint", rec.Hint,
		"rolled_back", back, "failures", rec.Failures, "retry_at", rec.RetryAt)
	c.cs.cfg.Failed(Failure{Consumer: c.Name, Op: e.Op, Err: e, RolledBack: back, RetryAt: rec.RetryAt})
}

var outcomes = map[string]string{OpTest: OutcomeTestFailed, OpReload: OutcomeFailed, OpProve: OutcomeUnproven}

// keep saves a record after a failure, or at least remembers it. Called with mu
// held.
func (c *consumer) keep(rec record) {
	if err := c.save(rec); err != nil {
		c.rec = rec
		c.cs.cfg.Log.Warn("state of a reload not written", "consumer", c.Name, "err", err)
	}
}

// rollBack puts back what was taken up last, where it can be put back, and says
// where it cannot. A secret that was replaced does not come back: its upstream may
// have revoked it, and who is started meanwhile would have that. Nor does a
// certificate that is revoked. What goes back is on disk first, for a start
// that would else write again what did not work.
func (c *consumer) rollBack(targets []string) (back, notes []string) {
	wanted := map[string]string{}
	for _, t := range targets {
		if !c.inPlace(t) {
			continue // what is in place is not what was tried
		}
		why, err := c.cs.cfg.Files.Revives(t)
		if err == nil && len(why) > 0 {
			err = fmt.Errorf("%s: %s", t, strings.Join(why, ", "))
		}
		if err == nil {
			wanted[t], err = c.cs.cfg.Files.Wanted(t)
		}
		if err != nil {
			delete(wanted, t)
			notes = append(notes, fmt.Sprintf("not rolled back: %v", err))
		}
	}
	c.noteRolledBack(wanted)
	for _, t := range slices.Sorted(maps.Keys(wanted)) {
		c.setRolledBack(t, true) // before it is, as a newer delivery may come just after
		done, err := c.cs.cfg.Files.Rollback(t, c.tryOf(t))
		if done {
			back = append(back, t)
			continue
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("not rolled back: %v", err))
		}
		c.setRolledBack(t, false)
		delete(wanted, t)
	}
	c.noteRolledBack(wanted)
	return back, notes
}

// inPlace reports whether a target has what this try was about, and that was not
// taken up before.
func (c *consumer) inPlace(target string) bool {
	gen, err := c.cs.cfg.Files.Generation(target)
	return err == nil && gen == c.tryOf(target) && !c.takenUp(target, gen)
}

// tryOf is the generation of a target that the try is about; 0 is none that is known.
func (c *consumer) tryOf(target string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries[target]
}

func (c *consumer) setRolledBack(target string, back bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if back {
		c.rolledBack[target] = true
	} else {
		delete(c.rolledBack, target)
	}
}

// noteRolledBack writes down what goes back, beside what is back already.
func (c *consumer) noteRolledBack(wanted map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := maps.Clone(wanted)
	for t, w := range c.rec.RolledBack {
		if _, anew := wanted[t]; !anew && c.rolledBack[t] {
			all[t] = w
		}
	}
	if !maps.Equal(c.rec.RolledBack, all) {
		rec := c.rec
		rec.RolledBack = all
		c.keep(rec)
	}
}

// tests are targets with different tests.
func (c *consumer) tests(targets []string) []Target {
	return c.distinct(targets, func(t Target) string { return strings.Join(t.Test, "\x00") })
}

// ways are targets with different ways.
func (c *consumer) ways(targets []string) []Target {
	return c.distinct(targets, func(t Target) string {
		if t.Way == nil {
			return ""
		}
		return t.Way.String()
	})
}

// how is how the consumer is configured. It holds no secret.
func (c *consumer) how() string {
	h := sha256.New()
	for _, t := range c.Targets {
		fmt.Fprintf(h, "%q %q %v %v %+v\n", t.Path, t.Test, t.Way, t.Limit, t.Proof)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// distinct are those of the targets with different keys, but not "".
func (c *consumer) distinct(targets []string, key func(Target) string) []Target {
	var out []Target
	seen := map[string]bool{"": true}
	for _, t := range c.Targets {
		if k := key(t); !seen[k] && slices.Contains(targets, t.Path) {
			seen[k] = true
			out = append(out, t)
		}
	}
	return out
}

// proofs are the paths of the targets, by proof.
func (c *consumer) proofs(targets []string) [][]string {
	var out [][]string
	at := map[Proof]int{}
	for _, t := range c.Targets {
		if t.Proof.none() || !slices.Contains(targets, t.Path) {
			continue
		}
		i, ok := at[t.Proof]
		if !ok {
			i = len(out)
			at[t.Proof] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], t.Path)
	}
	return out
}

// proof is that of a group.
func (c *consumer) proof(group []string) Proof {
	i := slices.IndexFunc(c.Targets, func(t Target) bool { return t.Path == group[0] })
	return c.Targets[i].Proof
}

// leaves are what was delivered to a group, or is in place there.
func (c *consumer) leaves(group []string) [][]byte {
	var out [][]byte
	for _, t := range group {
		c.mu.Lock()
		leaves := c.delivered[t].leaves
		c.mu.Unlock()
		if leaves == nil {
			leaves = c.cs.cfg.Files.Leaves(t)
		}
		out = append(out, leaves...)
	}
	return out
}

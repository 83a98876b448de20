package consumers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// kind is what the records are kept under.
const kind = "reload"

// Consumers is the queue of reloads.
type Consumers struct {
	cfg   Config
	all   []*consumer
	owner map[string]*consumer // by target
}

// A Status is the state of one consumer.
type Status struct {
	Consumer string
	Targets  []string
	// Pending says that the consumer has not taken up its files yet.
	Pending bool
	// Skipped says that it did not run when it was to be reloaded.
	Skipped    bool
	RolledBack []string // targets that have their previous content
	Failures   int      // in a row
	Error      string   // of the last try, if it failed
	Hint       string
	RetryAt    time.Time
	ReloadedAt time.Time
	ProvenAt   time.Time
}

// New reads what an earlier run has left to do, also for consumers that are not
// configured any more: who is told of the same targets now is told of that. It
// touches no file system that files are on.
func New(cfg Config) (*Consumers, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, string) {}
	}
	if cfg.Failed == nil {
		cfg.Failed = func(Failure) {}
	}
	cs := &Consumers{cfg: cfg, owner: map[string]*consumer{}}
	records, err := load(cfg.Store)
	if err != nil {
		return nil, fmt.Errorf("reload queue: %w", err)
	}
	for _, c := range cfg.Consumers {
		own := &consumer{Consumer: c, cs: cs, wake: make(chan struct{}, 1), rec: records[c.Name], busy: true,
			noted: map[string]bool{}, unwritten: map[string]bool{}, changed: map[string]bool{}, delivered: map[string]delivery{}, rolledBack: map[string]bool{}}
		cs.all = append(cs.all, own)
		for _, t := range c.Targets {
			cs.owner[t.Path] = own
		}
	}
	if err := cs.handOver(records); err != nil {
		return nil, fmt.Errorf("reload queue: %w", err)
	}
	for _, c := range cs.all {
		c.earlier, c.untaken = c.rec, c.rec.untaken(c.paths())
		c.hold()
	}
	return cs, nil
}

// Run reloads what is due until ctx is done.
func (cs *Consumers) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, c := range cs.all {
		wg.Go(func() { c.run(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

// Writing notes, before some targets change, that their consumers have to
// notice. An error means that nothing may be changed.
func (cs *Consumers) Writing(changes []Change) error {
	var errs []error
	for c, own := range cs.split(changes) {
		errs = append(errs, c.note(own))
	}
	return errors.Join(errs...)
}

// Written sets off the reloads of targets that have changed.
func (cs *Consumers) Written(changes []Change) {
	for c, own := range cs.split(changes) {
		c.take(own)
	}
}

// Unwritten takes note that targets were not changed after all, or not in full: no
// reload waits for them. What was noted stays, for one that has changed and that a
// crash keeps from being found so.
func (cs *Consumers) Unwritten(changes []Change) {
	for c, own := range cs.split(changes) {
		c.giveUp(own)
	}
}

// TakenUp reports whether what was in a target before it changed, or is there, was
// taken up by its consumer: the reload succeeded and so did the proof. So does what
// nobody is told of.
func (cs *Consumers) TakenUp(target string, generation int64) bool {
	c := cs.owner[target]
	return c == nil || c.takenUp(target, generation)
}

// Withdrawn takes note that a target has no content any more: nothing is left to do
// for it.
func (cs *Consumers) Withdrawn(target string) {
	if c := cs.owner[target]; c != nil {
		c.forget(target)
	}
}

// split sorts changes by consumer. Targets that nobody is reloaded for are left
// out.
func (cs *Consumers) split(changes []Change) map[*consumer][]Change {
	by := map[*consumer][]Change{}
	for _, ch := range changes {
		if c := cs.owner[ch.Target]; c != nil {
			by[c] = append(by[c], ch)
		}
	}
	return by
}

// Status is the state of all consumers, as they are configured.
func (cs *Consumers) Status() []Status {
	out := make([]Status, len(cs.all))
	for i, c := range cs.all {
		out[i] = c.status()
	}
	return out
}

// Check looks whether a consumer could be reloaded, without reloading it.
func (cs *Consumers) Check(ctx context.Context, name string) error {
	for _, c := range cs.all {
		if c.Name != name {
			continue
		}
		for _, t := range c.tests(c.paths()) {
			if _, err := find(t.Test[0]); err != nil {
				return &Error{Consumer: name, Op: OpTest, Err: err}
			}
		}
		for _, t := range c.ways(c.paths()) {
			wctx, done := context.WithTimeout(ctx, 5*time.Second)
			err := t.Way.Check(wctx)
			done()
			if err != nil {
				return &Error{Consumer: name, Op: OpReload, Err: err}
			}
		}
	}
	return nil
}

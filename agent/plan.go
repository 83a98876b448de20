package agent

import (
	"cmp"
	"slices"
	"time"
)

// Plan is the answer of `signet plan --json`: what will happen next, soonest
// first, if nothing goes wrong.
type Plan struct {
	Steps []PlannedStep `json:"steps"`
	// Files are what is written where, if its item changes.
	Files []PlannedFile `json:"files"`
}

// PlannedStep is one thing that will be done.
type PlannedStep struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"` // of the item
	Name   string    `json:"name"`
	Action string    `json:"action"` // fetch, renew, rotate, retire, ...
	Reason string    `json:"reason,omitempty"`
}

// Plan is for socket.Backend.
func (b backend) Plan() any {
	now := time.Now()
	p := Plan{Steps: []PlannedStep{}, Files: b.plannedFiles()}
	for _, it := range b.status(now).Items {
		if it.NextAction == "" {
			continue
		}
		s := PlannedStep{At: later(it.NextAt, now), Kind: it.Kind, Name: it.Name, Action: it.NextAction, Reason: cmp.Or(it.NextReason, it.Hint)}
		if it.Failures > 0 && it.LastError != "" {
			s.Reason = "again, after: " + it.LastError
		}
		p.Steps = append(p.Steps, s)
	}
	for name, r := range b.rotators {
		snap := r.snap.Load()
		if snap == nil {
			continue
		}
		for _, old := range snap.Old {
			p.Steps = append(p.Steps, PlannedStep{At: later(old.DropAt, now), Kind: "key", Name: name, Action: "retire",
				Reason: "the time of grace of the version before ends"})
		}
	}
	slices.SortStableFunc(p.Steps, func(x, y PlannedStep) int { return x.At.Compare(y.At) })
	return p
}

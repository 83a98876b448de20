package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Diagnosis is the answer of `signet doctor --json`.
type Diagnosis struct {
	Checks []Check `json:"checks"`
}

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warning, failed or skipped
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// The results of checks.
const (
	checkOK      = "ok"
	checkWarning = "warning"
	checkFailed  = "failed"
	checkSkipped = "skipped"
)

// Doctor is for socket.Backend.
func (b backend) Doctor(ctx context.Context) any {
	var d Diagnosis
	for _, name := range slices.Sorted(maps.Keys(b.tokens)) {
		d.Checks = append(d.Checks, checkToken(ctx, name, b.tokens[name])...)
	}
	if e := b.astray(); e != nil {
		d.Checks = append(d.Checks, failedCheck("keys", e))
	}
	state := Check{Name: "state", Status: checkOK, Detail: "open"}
	if err := b.notOpen(); err != nil {
		state = failedCheck(state.Name, err)
	}
	d.Checks = append(d.Checks, state)
	for _, name := range slices.Sorted(maps.Keys(b.services)) {
		d.Checks = append(d.Checks, b.services[name].check(ctx)...)
	}
	d.Checks = append(d.Checks, b.checkConsumers(ctx)...)
	for _, it := range b.status(time.Now()).Items {
		d.Checks = append(d.Checks, checkItem(it))
	}
	audit := Check{Name: "audit", Status: checkOK}
	if err := b.audit.Err(); err != nil {
		audit = failedCheck(audit.Name, err)
	} else if cut := b.audit.Cut(); cut != nil {
		audit = failedCheck(audit.Name, cut)
	}
	d.Checks = append(d.Checks, audit)
	return d
}

func failedCheck(name string, err error) Check {
	return Check{Name: name, Status: checkFailed, Detail: err.Error(), Hint: hintOf(err)}
}

// check asks an upstream for what the agent needs of it first.
func (s *service) check(ctx context.Context) []Check {
	c := Check{Name: "upstream " + s.name, Status: checkSkipped, Detail: "nothing to ask without side effects"}
	switch {
	case s.tokens != nil:
		if _, err := s.tokens.Token(ctx); err != nil {
			return []Check{failedCheck(c.Name, err)}
		}
		c.Status, c.Detail = checkOK, "gives access tokens"
	case s.manager != nil:
		if skew := s.manager.Skew(); skew.Abs() > time.Minute {
			c.Status, c.Detail = checkWarning, fmt.Sprintf("its clock differs from this host's by %v", skew.Round(time.Second))
			c.Hint = "check the time service on both"
		}
	}
	return []Check{c}
}

func checkItem(it Item) Check {
	c := Check{Name: it.Kind + " " + it.Name, Status: checkOK, Detail: it.State, Hint: it.Hint}
	switch it.State {
	case stateFresh, stateValid, stateWritten, stateIdle, stateReloaded, stateProven:
	case stateStale, stateWaiting, stateExpiring, stateFallback, statePending, stateStopped:
		c.Status = checkWarning
	default:
		c.Status = checkFailed
	}
	if it.LastError != "" {
		c.Detail = strings.Join([]string{it.State, it.LastError}, ": ")
		if c.Status == checkOK {
			c.Status = checkWarning
		}
	}
	return c
}

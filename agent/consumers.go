package agent

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/sinks/consumers"
	"github.com/signet-agent/signet/sinks/files"
)

// The states of consumers in `signet status`.
const (
	stateIdle     = "idle"     // nothing of its files has changed so far
	stateReloaded = "reloaded" // and no proof is configured
	stateProven   = "proven"
	statePending  = "pending"
	stateStopped  = "not running"
)

// makeConsumers makes the queue of reloads. Files whose reloads have the same
// consumer are one entry in it.
func (a *Agent) makeConsumers() (err error) {
	c := consumers.Config{Store: a.store, Files: a.files, Failed: a.onReloadFailed, Log: a.log,
		Observe: func(consumer, outcome string) { a.metrics.reloads.WithLabelValues(consumer, outcome).Inc() }}
	at := map[string]int{}
	add := func(name string, t consumers.Target) {
		i, ok := at[name]
		if !ok {
			i = len(c.Consumers)
			at[name] = i
			c.Consumers = append(c.Consumers, consumers.Consumer{Name: name})
		}
		c.Consumers[i].Targets = append(c.Consumers[i].Targets, t)
	}
	for _, f := range a.cfg.Files {
		if f.Reload.IsZero() && f.Prove.IsZero() && len(f.Test) == 0 {
			continue
		}
		add(consumerOf(f), consumers.Target{
			Path: f.Target(), Test: f.Test, Way: a.wayOf(f), Limit: f.Reload.Limit(),
			Proof: consumers.Proof{Address: f.Prove.TLS, ServerName: f.Prove.ServerName, StartTLS: f.Prove.StartTLS,
				Within: f.Prove.TimeLimit(), Connections: f.Prove.Tries()},
		})
	}
	if a.opt.Refreshes != nil {
		for _, unit := range a.cfg.CredentialUnits() {
			add(unit, consumers.Target{Path: credentialsOf(unit), Way: consumers.Unit{Name: unit}})
		}
	}
	a.consumers, err = consumers.New(c)
	return err
}

// consumerOf is the name of who reads a file. One that notices by itself, and
// only has to prove it, is called by its file.
func consumerOf(f config.File) string {
	if name := f.Reload.Consumer(); name != "" {
		return name
	}
	return f.Target()
}

// wayOf is how a consumer is told, or nil.
func (a *Agent) wayOf(f config.File) consumers.Way {
	r := f.Reload
	switch {
	case r.Unit != "":
		return consumers.Unit{Name: r.Unit}
	case len(r.Exec) > 0:
		return consumers.Exec{Consumer: consumerOf(f), Argv: r.Exec}
	case r.Signal.PIDFile != "":
		return consumers.Signal{PIDFile: r.Signal.PIDFile, Name: r.Signal.Name(), Program: r.Signal.Program}
	case r.HAProxy.Socket != "":
		cert := r.HAProxy.CertName(f.Path)
		name := filepath.Base(cert) // of a set it is the file that HAProxy knows
		return consumers.HAProxy{Socket: r.HAProxy.Socket, Cert: cert, Read: func() ([]byte, error) { return a.files.Read(f.Target(), name) }}
	case r.Redis.Address != "":
		way := consumers.Redis{Address: r.Redis.Address, CAFile: r.Redis.CAFile, Username: r.Redis.Username,
			CertFile: r.Redis.Cert(f.Path), KeyFile: r.Redis.Key(f.Path)}
		if !r.Redis.Password.IsZero() {
			way.Password = r.Redis.Password.Read
		}
		return way
	}
	return nil
}

// onDelivery has newer files wait while who reads them may be doing so.
func (a *Agent) onDelivery(targets []string, deliver func([]string)) {
	a.consumers.InTurn(targets, deliver)
}

// onWriting notes the reloads that a change of files makes due, before it.
func (a *Agent) onWriting(ds []files.Delivery) error { return a.consumers.Writing(changes(ds)) }

// onWritten sets them off.
func (a *Agent) onWritten(ds []files.Delivery) { a.consumers.Written(changes(ds)) }

// onUnwritten keeps no reload waiting for files that could not be written.
func (a *Agent) onUnwritten(ds []files.Delivery) { a.consumers.Unwritten(changes(ds)) }

func changes(ds []files.Delivery) []consumers.Change {
	out := make([]consumers.Change, len(ds))
	for i, d := range ds {
		out[i] = consumers.Change{Target: d.Target, Generation: d.Generation, Leaves: d.Leaves, Repaired: d.Repaired}
	}
	return out
}

// onReloadFailed raises the alarm.
func (a *Agent) onReloadFailed(f consumers.Failure) {
	e := event{Type: eventReloadFailed, Name: f.Consumer, Error: f.Err.Error(), At: time.Now()}
	if f.Op == consumers.OpProve {
		e.Type = eventProofFailed
	}
	a.emit(e)
}

func (a *Agent) consumerItems() []Item {
	var items []Item
	for _, st := range a.consumers.Status() {
		it := Item{Kind: "consumer", Name: st.Consumer, State: stateIdle, Failures: st.Failures, LastError: st.Error, Hint: st.Hint,
			ReloadedAt: st.ReloadedAt, ProvenAt: st.ProvenAt}
		switch {
		case st.Failures > 0 && !st.RetryAt.IsZero():
			it.State, it.RetryAt, it.NextAction, it.NextAt = stateFailed, st.RetryAt, "reload", st.RetryAt
			if len(st.RolledBack) > 0 {
				it.State = stateRolledBack
			}
		case st.Pending:
			it.State, it.NextAction = statePending, "reload"
		case st.Skipped:
			it.State = stateStopped
		case !st.ProvenAt.IsZero() && !st.ProvenAt.Before(st.ReloadedAt):
			it.State = stateProven
		case !st.ReloadedAt.IsZero():
			it.State = stateReloaded
		}
		items = append(items, it)
	}
	return items
}

// standing is how a host stands that is ready, in the words for the service
// manager.
func (a *Agent) standing() string {
	var failing []string
	for _, st := range a.consumers.Status() {
		if st.Failures > 0 {
			failing = append(failing, st.Consumer)
		}
	}
	if failing == nil {
		return "all fresh"
	}
	return "did not take up what was delivered: " + strings.Join(failing, ", ")
}

// checkConsumers looks whether the agent could reload its consumers, and has
// the right to.
func (a *Agent) checkConsumers(ctx context.Context) []Check {
	var checks []Check
	for _, st := range a.consumers.Status() {
		checks = append(checks, a.checkConsumer(ctx, st.Consumer))
	}
	return checks
}

func (a *Agent) checkConsumer(ctx context.Context, name string) Check {
	c := Check{Name: "reload " + name, Status: checkSkipped}
	i := slices.IndexFunc(a.cfg.Files, func(f config.File) bool { return consumerOf(f) == name })
	if i < 0 { // reloaded for its credentials alone
		switch refreshes, err := a.refreshes(ctx, name); {
		case err != nil:
			return failedCheck(c.Name, err)
		case !refreshes:
			c.Detail = "it has no RefreshOnReload=credentials, and new ones with its next start"
			return c
		}
	} else if a.cfg.Files[i].Reload.IsZero() {
		c.Detail = "it notices by itself"
		return c
	}
	if err := a.consumers.Check(ctx, name); err != nil {
		return failedCheck(c.Name, err)
	}
	c.Status = checkOK
	return c
}

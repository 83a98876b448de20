package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/signet-agent/signet/hsm/wire"
)

const (
	// startInterval is the least time between two starts of workers.
	startInterval = time.Second
	// crashWait is the longest wait for the next worker while they can open the
	// token; absentWait while they cannot.
	crashWait  = 2 * time.Second
	absentWait = 30 * time.Second
	// stableAfter is how long a worker must live for its end not to count
	// towards a longer wait.
	stableAfter = 10 * time.Second
	// healthInterval is how often the token is asked whether it is well.
	healthInterval = 5 * time.Second
	// closeTimeout is how long a worker may take to end when it is told to.
	closeTimeout = 5 * time.Second
	// lostOpens is how many workers in a row may end, or hang, while opening the
	// token before callers are told instead of left waiting.
	lostOpens = 3
)

// Run opens the token and keeps it open, replacing its worker as often as it
// takes. It returns nil when ctx is done, and never otherwise: a token that
// cannot be opened is a state to report, and may pass.
func (t *Token) Run(ctx context.Context) error {
	defer t.update(func() {
		t.cur, t.err = nil, errors.New("the agent has stopped")
		t.status.Open, t.status.Since, t.status.PID = false, time.Now(), 0
	})
	if t.cfgErr != nil {
		t.log.Error("HSM cannot be used", "err", t.cfgErr)
		<-ctx.Done()
		return nil
	}
	failures := 0
	for first := true; ; first = false {
		start := time.Now()
		if !first {
			t.update(func() { t.status.Restarts++ })
		}
		p, err := t.open(ctx)
		opened := err == nil
		if opened {
			err = t.hold(ctx, p)
		}
		if ctx.Err() != nil {
			return nil
		}
		if opened && time.Since(start) > stableAfter {
			failures = 0
		}
		failures++
		wait := restartWait(failures, opened, time.Since(start))
		t.closed(err, opened, failures, wait)
		if !opened {
			t.update(func() { t.status.Tried = start })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.kick:
		case <-time.After(wait):
		}
	}
}

// restartWait is how long to wait for the next worker, after so many failures in
// a row and a last start so long ago. Its jitter never takes it to nothing.
func restartWait(failures int, opened bool, since time.Duration) time.Duration {
	most := absentWait
	if opened {
		most = crashWait
	}
	wait := startInterval
	for range failures - 1 {
		wait = min(2*wait, most)
	}
	if failures > 1 {
		wait = wait*3/4 + rand.N(wait/4)
	}
	return max(wait-since, 0)
}

// closed notes that the worker has ended, and tells once what keeps the token
// closed.
func (t *Token) closed(err error, opened bool, failures int, wait time.Duration) {
	definite := err
	unclear := errors.Is(err, errLost) || errors.Is(err, ErrDeadline)
	if opened || unclear && failures <= lostOpens {
		definite = nil // the next worker may well do better: let callers wait for it
	}
	before := t.Status().Err
	t.update(func() {
		t.cur = nil
		if definite != nil || t.err == nil {
			t.err = definite
		}
		if t.status.Open {
			t.status.Since = time.Now()
		}
		t.status.Open, t.status.Err, t.status.PID = false, err, 0
	})
	level := slog.LevelWarn
	if before != nil && before.Error() == err.Error() {
		level = slog.LevelDebug
	} else if errors.Is(err, ErrPIN) || errors.Is(err, ErrReplaced) {
		level = slog.LevelError
	}
	args := []any{"err", err, "retry_in", wait}
	var e *Error
	if errors.As(err, &e) && e.Hint() != "" {
		args = append(args, "hint", e.Hint())
	}
	t.log.Log(context.Background(), level, "HSM closed", args...)
}

// hold uses an open worker until it ends or ctx is done.
func (t *Token) hold(ctx context.Context, p *process) error {
	health := time.NewTicker(healthInterval)
	defer health.Stop()
	for {
		select {
		case <-ctx.Done():
			t.update(func() { t.cur = nil })
			p.shutdown(closeTimeout)
			return nil
		case <-p.done:
			return t.fail("use", "", p.given())
		case <-health.C:
			t.checkHealth(ctx, p)
		}
	}
}

// checkHealth asks the token whether it is well. If not, the worker answers
// with a fatal error, and ends.
func (t *Token) checkHealth(ctx context.Context, p *process) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	req := wire.Health{Serial: p.serial, ID: p.canary}
	if req.ID != "" {
		// A key that was destroyed meanwhile, on purpose, says nothing.
		if k, err := t.ledgerKey("check", req.ID); err != nil || !k.alive() {
			req.ID = ""
		}
	}
	payload, err := wire.Marshal(req)
	if err == nil {
		_, err = p.call(ctx, 1, t.cfg.Timeout, wire.OpHealth, payload)
	}
	if err != nil && ctx.Err() == nil {
		t.log.Warn("HSM health check failed", "err", err)
	}
}

// open starts a worker and opens the token with it.
func (t *Token) open(ctx context.Context) (*process, error) {
	salt, err := t.cfg.Guard.Salt()
	if err != nil {
		return nil, t.fail("read PIN guard", "", err)
	}
	keys, err := t.ledgerKeys()
	if err != nil {
		return nil, err
	}
	p, err := startProcess(t.cfg.Worker, t.cfg.environment(), wire.Lanes(t.cfg.Sessions), t.log)
	if err != nil {
		return nil, t.fail("open", "", err)
	}
	// A stop ends the opening too: nobody waits for a slow module then.
	stop := context.AfterFunc(ctx, func() { p.giveUp(errLost) })
	o, err := t.openWith(ctx, p, salt, keys)
	var lost []string
	if err == nil {
		lost, err = t.findOurs(ctx, p, o)
	}
	if stop() && err == nil {
		t.opening(p, o, lost)
		return p, nil
	}
	if err == nil {
		err = ctx.Err()
	}
	p.giveUp(errLost)
	<-p.done
	return nil, t.fail("open", "", err)
}

// findOurs finds which keys of the ledger are on a token that has just been opened.
func (t *Token) findOurs(ctx context.Context, p *process, o *wire.Opened) (lost []string, err error) {
	if err := t.adopt(ctx, p, o); err != nil {
		return nil, err
	}
	keys, err := t.ledgerKeys()
	if err != nil {
		return nil, err
	}
	return t.resolve(ctx, p, o, keys)
}

// openWith takes a new worker through opening and login.
func (t *Token) openWith(ctx context.Context, p *process, salt []byte, keys []LedgerKey) (*wire.Opened, error) {
	o := &wire.Opened{}
	err := t.ask(ctx, p, wire.OpOpen, wire.Open{
		Module: t.cfg.Module, InitArgs: t.cfg.InitArgs, Token: t.selector,
		PIN: t.pin, Salt: salt, QuickKey: t.quick, Accepted: t.good,
		Sessions: t.cfg.Sessions, Sandbox: !t.cfg.NoSandbox, Network: t.cfg.Network,
	}, o)
	if err != nil {
		return nil, t.fail("open", "", err)
	}
	if err := t.sameSerial(o, keys); err != nil {
		return nil, err
	}
	if o.Flags&wire.FlagLoginRequired != 0 {
		if err := t.permit(o); err != nil {
			return nil, t.fail("open", "", err)
		}
		if err := t.learn(o, t.ask(ctx, p, wire.OpLogin, wire.Login{Salt: salt}, nil)); err != nil {
			return nil, t.fail("log in", "", err)
		}
	}
	return o, nil
}

// ask makes a call on a worker that is not open yet.
func (t *Token) ask(ctx context.Context, p *process, op wire.Op, req, reply any) error {
	payload, err := wire.Marshal(req)
	if err != nil {
		return err
	}
	b, err := p.call(ctx, 1, t.cfg.Timeout, op, payload)
	if err != nil {
		return err
	}
	return wire.Unmarshal(b, reply)
}

// sameSerial refuses, before the PIN is given away, a token on which none of our
// keys was made, unless the configuration names it by its serial.
func (t *Token) sameSerial(o *wire.Opened, keys []LedgerKey) error {
	if t.selector.Serial != "" {
		return nil
	}
	was := ""
	for _, k := range keys {
		if !k.alive() || k.Serial == "" {
			continue
		}
		if k.Serial == o.Serial {
			return nil
		}
		was = k.Serial
	}
	if was == "" {
		return nil
	}
	return t.fail("open", "", &wire.Error{Name: wire.TokenReplaced,
		Text: fmt.Sprintf("token %q has serial %s, our keys were made on serial %s%s", o.Label, o.Serial, was, t.knownAs(o.Serial))})
}

// knownAs says by which other name a token holds keys of ours.
func (t *Token) knownAs(serial string) string {
	all, _ := t.ledgerAll() // it was read before; without it there is less to say
	for _, k := range alive(all) {
		if k.Serial == serial && k.Token != t.cfg.Name {
			return fmt.Sprintf("; this is the one called %q before", k.Token)
		}
	}
	return ""
}

// resolve has the worker find the keys that are in use, and says which of the
// ledger's are lost. It takes as many calls on a token with many keys as on one
// with few: the others are found when they are first asked for. The whole token
// is read only if the first key is missing, or to find what a generation that was
// cut short has left.
func (t *Token) resolve(ctx context.Context, p *process, o *wire.Opened, keys []LedgerKey) (lost []string, err error) {
	want := t.wanted(keys)
	missing := func(LedgerKey) bool { return false }
	if len(want) > 0 {
		req, found := wire.Resolve{}, wire.Resolved{}
		for _, k := range want {
			req.Keys = append(req.Keys, wire.Wanted{ID: k.ID, Type: string(k.Type)})
		}
		if err := t.ask(ctx, p, wire.OpResolve, req, &found); err != nil {
			return nil, t.fail("find keys", "", err)
		}
		missing = func(k LedgerKey) bool { return slices.Contains(found.Missing, k.ID) }
	}
	intents := slices.ContainsFunc(keys, func(k LedgerKey) bool { return k.State == Intended })
	if intents || len(want) > 0 && missing(want[0]) {
		listed := wire.Listed{}
		if err := t.ask(ctx, p, wire.OpList, nil, &listed); err != nil {
			return nil, t.fail("list", "", err)
		}
		if intents {
			p.remains, p.remainsSeen = remains(&listed), time.Now()
		}
		there := present(&listed)
		want, missing = alive(keys), func(k LedgerKey) bool { return !there[k.ID] }
	}
	for _, k := range want {
		switch {
		case missing(k):
			lost = append(lost, k.String())
		case p.canary == "":
			p.canary = k.ID
		}
	}
	if len(want) > 0 && p.canary == "" {
		return nil, t.fail("open", "", &wire.Error{Name: wire.TokenReplaced,
			Text: fmt.Sprintf("token %q (serial %s) holds none of our %d keys", o.Label, o.Serial, len(want))})
	}
	slices.Sort(lost)
	return lost, nil
}

// wanted are the keys that a new worker has to know: those that unseal, because
// that is asked first, and those that were used with the worker before. If there
// are none, it is any key: one has to be there, or this is another token.
func (t *Token) wanted(keys []LedgerKey) []LedgerKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	live := alive(keys)
	var want []LedgerKey
	for _, k := range live {
		if k.Type.seals() {
			want = append(want, k)
		}
	}
	slices.Reverse(want) // the newest first: it is in use for certain
	for _, k := range live {
		if !k.Type.seals() && t.trusted[k.ID] != nil {
			want = append(want, k)
		}
	}
	if len(want) == 0 {
		return live[:min(len(live), 1)]
	}
	return want
}

// alive are the keys that must be on the token.
func alive(keys []LedgerKey) []LedgerKey {
	return slices.DeleteFunc(slices.Clone(keys), func(k LedgerKey) bool { return !k.alive() })
}

func present(listed *wire.Listed) map[string]bool {
	there := map[string]bool{}
	for _, f := range listed.Found {
		there[f.ID] = f.Private+f.Secret > 0
	}
	return there
}

// opening puts a worker that has opened the token to use.
func (t *Token) opening(p *process, o *wire.Opened, lost []string) {
	p.use(o.Sessions)
	p.serial = o.Serial
	t.update(func() {
		t.cur, t.err, t.opened = p, nil, o
		t.status.Open, t.status.Since, t.status.Err = true, time.Now(), nil
		t.status.PID = p.cmd.Process.Pid
		t.status.Label, t.status.Serial, t.status.Module = o.Label, o.Serial, o.Library
		t.status.Sessions, t.status.Limits, t.status.Warnings, t.status.Lost = o.Sessions, limits(o), t.warnings(o), lost
		t.status.Types = slices.DeleteFunc(supported(o), KeyType.seals)
		select {
		case <-t.ready:
		default:
			close(t.ready)
		}
	})
	t.log.Info("HSM open", "label", o.Label, "serial", o.Serial, "module", o.Library, "sessions", o.Sessions)
	for _, w := range t.warnings(o) {
		t.log.Warn("HSM warning", "text", w)
	}
	if len(lost) > 0 {
		t.log.Error("keys of the ledger are not on the token", "keys", lost)
	}
}

// nowLost notes that a key of the ledger was looked for and is not there.
func (t *Token) nowLost(k LedgerKey) {
	t.setLost(func(lost []string) []string {
		if slices.Contains(lost, k.String()) {
			return lost
		}
		return append(lost, k.String())
	})
}

// notLost notes that it is there, or that nobody looks for it any more.
func (t *Token) notLost(k LedgerKey) {
	t.setLost(func(lost []string) []string {
		return slices.DeleteFunc(lost, func(name string) bool { return name == k.String() })
	})
}

// setUnfit notes whether a key that was looked at has failed its checks.
func (t *Token) setUnfit(k LedgerKey, unfit bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	after := slices.DeleteFunc(slices.Clone(t.status.Unfit), func(name string) bool { return name == k.String() })
	if unfit {
		after = append(after, k.String())
		slices.Sort(after)
	}
	if !slices.Equal(after, t.status.Unfit) {
		t.status.Unfit = after
		t.tell()
	}
}

// setLost changes which keys are lost. That they are the same as before is no
// change of the status: those who wait for one may look for a lost key then.
func (t *Token) setLost(change func(lost []string) []string) {
	t.mu.Lock()
	before := t.status.Lost
	after := change(slices.Clone(before))
	slices.Sort(after)
	if !slices.Equal(before, after) {
		t.status.Lost = after
		t.tell()
	}
	t.mu.Unlock()
	for _, name := range after {
		if !slices.Contains(before, name) {
			t.log.Error("a key of the ledger is not on the token", "key", name)
		}
	}
}

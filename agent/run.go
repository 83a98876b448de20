package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-agent/signet/hsm"
)

// A part runs until its context is done, and then returns nil. Any other
// return, even of nil, means that it has failed.
type part struct {
	name string
	run  func(context.Context) error
}

// serve runs the parts until ctx is done or one of them fails, and returns when
// the last has returned.
func serve(ctx context.Context, log *slog.Logger, parts ...part) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range parts {
		g.Go(func() error {
			err := p.run(gctx)
			switch {
			case gctx.Err() != nil: // asked to stop
				log.Debug("stopped", "part", p.name, "err", err)
				return nil
			case err != nil:
				return fmt.Errorf("%s: %w", p.name, err)
			}
			return fmt.Errorf("%s: ended of itself", p.name)
		})
	}
	return g.Wait()
}

// run is the order in which everything starts and stops. The tokens outlive the
// rest: nothing signs after they are closed. The socket answers from the start,
// long before the first fetch.
func (a *Agent) run(ctx context.Context) error {
	a.life = ctx
	ln, err := a.listen()
	if err != nil {
		return &StartError{errors.Join(err, a.audit.Close())}
	}
	creds, err := a.listenCredentials()
	if err != nil {
		return &StartError{errors.Join(err, ln.Close(), a.audit.Close())}
	}
	var tokens, rest []part
	for name, t := range a.tokens {
		tokens = append(tokens, part{"hsm " + name, t.Run})
		rest = append(rest, part{"hsm watch " + name, func(ctx context.Context) error { return a.watchToken(ctx, t) }})
	}
	rest = append(rest,
		part{"socket", func(ctx context.Context) error { return a.socket.Serve(ctx, ln) }},
		part{"files", a.files.Run},
		part{"consumers", a.consumers.Run},
		part{"secrets", a.runSecrets},
		part{"audit key", a.prepareAudit},
		part{"notify", a.notify},
		part{"clock", a.watchClock},
		part{"watchdog", func(ctx context.Context) error { return a.opt.Notifier.Watchdog(ctx, a.alive) }},
	)
	if a.opt.Refreshes != nil {
		rest = append(rest, part{"credentials refresh", a.credentials.RunRefresh})
	}
	if creds != nil || len(a.opt.Held) > 0 {
		rest = append(rest, a.credentialsPart(creds))
	}
	for name, r := range a.rotators {
		rest = append(rest, part{"certificate " + name, func(ctx context.Context) error {
			if !a.awaitOpen(ctx) {
				return nil
			}
			return r.run(ctx)
		}})
	}
	for name, w := range a.expiries {
		rest = append(rest, part{"events of the issuer of " + name, w.run})
	}
	for name, s := range a.services {
		if s.tokens != nil {
			rest = append(rest, part{"access token " + name, func(ctx context.Context) error {
				if s.login != nil && !a.awaitOpen(ctx) { // its refresh token is sealed
					return nil
				}
				return s.keepToken(ctx)
			}})
		}
	}

	outer, closeTokens := context.WithCancel(context.WithoutCancel(ctx))
	defer closeTokens()
	done := make(chan error, 1)
	go func() { done <- serve(outer, a.log, tokens...) }()
	inner, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // a token part that fails stops the rest
		select {
		case err := <-done:
			done <- err
			stop()
		case <-inner.Done():
		}
	}()
	err = serve(inner, a.log, rest...)
	a.signAudit(3 * time.Second)
	closeTokens()
	return errors.Join(err, <-done, a.audit.Close())
}

// awaitOpen waits until the data key is unwrapped, and reports false if ctx
// ends first.
func (a *Agent) awaitOpen(ctx context.Context) bool {
	select {
	case <-a.opened:
		return true
	case <-ctx.Done():
		return false
	}
}

// runSecrets reads the cache while the token opens, unwraps the data key as soon
// as it has, and then keeps the secrets fresh.
func (a *Agent) runSecrets(ctx context.Context) error {
	blobs, err := a.store.Secrets()
	if err != nil {
		return fmt.Errorf("read the sealed secrets: %w", err)
	}
	if !a.awaitSealing(ctx) || !a.unwrapDataKey(ctx) {
		return nil
	}
	a.refresher.load(blobs)
	a.unlockAudit(a.refresher.sealer)
	close(a.opened)
	return a.refresher.run(ctx)
}

// unwrapWait is the longest wait for the next try to unwrap the data key. The token
// may have come back.
const unwrapWait = 30 * time.Second

// unwrapDataKey tries to until it is done, and reports false if ctx ends first. A
// data key that was changed is replaced.
func (a *Agent) unwrapDataKey(ctx context.Context) bool {
	changed, said := 0, ""
	for n := 1; ; n++ {
		s, err := a.tryDataKey(ctx, changed >= unwrapTries-1)
		if err == nil {
			a.refresher.sealer = s
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if changed++; !errors.Is(err, hsm.ErrSealed) {
			changed = 0
		}
		a.unopened.Store(&err)
		if now := err.Error(); now != said {
			said = now
			a.log.Error("cache not readable", "err", err, "hint", hintOf(err))
		}
		next := time.NewTimer(min(backoff(n, 0), unwrapWait))
		select {
		case <-next.C:
		case <-a.unseal:
		case <-ctx.Done():
			return false
		}
	}
}

// tryDataKey unwraps the data key, or if it was changed on disk, and has been for
// long enough, makes another one.
func (a *Agent) tryDataKey(ctx context.Context, enough bool) (*sealer, error) {
	a.sealed.Lock()
	defer a.sealed.Unlock()
	s, err := openSealer(ctx, a.sealing(), a.store)
	if !enough || !errors.Is(err, hsm.ErrSealed) {
		return s, err
	}
	a.log.Error("the data key was changed on disk; it is set aside and another one made", "err", err,
		"hint", "secrets are fetched anew; whoever had logged in has to again; rotate the certificates whose keys are in files")
	return replaceSealer(ctx, a.sealing(), a.store)
}

// watchToken tells everything that waits for the token when it comes back, and
// has it find the keys that are going to be used. Before the data key is unwrapped
// nobody waits, and the first answers would have to.
func (a *Agent) watchToken(ctx context.Context, t *hsm.Token) error {
	if !a.awaitOpen(ctx) {
		return nil
	}
	tried := map[string]bool{}
	for {
		changed := t.Changed()
		if t.Status().Open {
			for _, r := range a.rotators {
				r.poke()
			}
			a.findKeys(ctx, t, tried)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// findKeys has an open token find and check the keys of our certificates, so that
// nobody's first signature waits for that; the next workers know them then. Each
// is tried once, as one may well be what ends the worker; who signs with it is
// told why it cannot be used.
func (a *Agent) findKeys(ctx context.Context, t *hsm.Token, tried map[string]bool) {
	for _, k := range t.Keys() {
		if k.State != hsm.Live && k.State != hsm.Retiring || a.tokenOf(k.Name) == nil || tried[k.ID] {
			continue
		}
		_, err := t.Key(ctx, k.ID)
		if ctx.Err() != nil || errors.Is(err, hsm.ErrClosed) {
			return // the rest is tried when it is open again
		}
		tried[k.ID] = true
		if err != nil {
			a.log.Warn("key cannot be used", "key", k.String(), "err", err)
		}
	}
}

// notify tells the service manager how it stands: READY once, when the token is
// open and the socket listens, and a line of status whenever it changes.
func (a *Agent) notify(ctx context.Context) error {
	if !a.awaitOpen(ctx) {
		return nil
	}
	a.opt.Notifier.Ready()
	if a.opt.Settled != nil {
		a.opt.Settled()
	}
	a.log.Info("ready", "socket", a.cfg.SocketPath())
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for last := ""; ; {
		line := a.standing()
		if err := a.ready(time.Now()); err != nil {
			line = "not ready: " + err.Error()
		}
		if line != last {
			a.opt.Notifier.Status(line)
			last = line
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// alive reports that nothing that a status needs is stuck.
func (a *Agent) alive() bool {
	a.status(time.Now())
	return true
}

// keepToken keeps the access token of an upstream fresh, so that no caller
// waits for a log-in.
func (s *service) keepToken(ctx context.Context) error {
	if s.identity != nil {
		select {
		case <-s.identity.enrolled:
		case <-ctx.Done():
			return nil
		}
	}
	for ctx.Err() == nil {
		if due := s.tokens.Due(); due.IsZero() {
			sleep(ctx, time.Minute)
		} else if wait := time.Until(due); wait > 0 {
			sleep(ctx, min(wait, time.Minute))
		} else if _, err := s.tokens.Token(ctx); err != nil {
			sleep(ctx, time.Second) // Due says when the next try may be made
		}
	}
	return nil
}

// sleep waits for d, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// workerPath is the worker's program: as configured, or beside this one.
func workerPath(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find signet-hsm: %w", err)
	}
	return filepath.Join(filepath.Dir(self), "signet-hsm"), nil
}

// withHint is an error with what an operator can do about it, in one line.
func withHint(err error) string {
	if h := hintOf(err); h != "" {
		return err.Error() + "; " + h
	}
	return err.Error()
}

func hintOf(err error) string {
	type hinter interface {
		error
		Hint() string
	}
	if h, ok := errors.AsType[hinter](err); ok {
		return h.Hint()
	}
	return ""
}

package client

import (
	"context"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"
)

const (
	pollWait   = 5 * time.Minute  // how long the agent holds a poll; it writes each into its audit
	pollMargin = 15 * time.Second // beyond it, the agent is taken for hung
	hasty      = time.Second      // an unchanged answer within this did not wait
	minPause   = 50 * time.Millisecond
	maxPause   = 5 * time.Second
	maxRefused = time.Minute // maxPause after a definite no
)

// Watch yields a secret each time it changes, in order and each version once,
// beginning with the first version that is not since. With since "" that is
// the one of now.
//
// When the agent says that the caller can not have the secret (any more), Watch
// yields that error once and goes on, as this may be temporary; the secret that
// comes after it is yielded even if its version is that of before. That the
// agent does not answer is not yielded: it is asked again until it does. Watch
// ends when ctx is done or the loop over it is left.
func (c *Client) Watch(ctx context.Context, name, since string) iter.Seq2[*Secret, error] {
	return func(yield func(*Secret, error) bool) {
		var failed Code
		var back backOff
		for ctx.Err() == nil {
			asked, seen := time.Now(), since
			if failed != "" {
				seen = "" // the version of before may well come back
			}
			s, err := c.poll(ctx, name, seen, pollWait)
			switch code := CodeOf(err); {
			case ctx.Err() != nil:
				return
			case err == nil && (s == nil || s.Version == seen):
				if time.Since(asked) > hasty {
					back.reset()
					continue
				}
			case err == nil:
				since, failed = s.Version, ""
				back.reset()
				if !yield(s, nil) {
					return
				}
				continue
			case definite(err) && code != failed:
				failed = code
				if !yield(nil, err) {
					return
				}
			}
			if !back.wait(ctx, err) {
				return
			}
		}
	}
}

// poll asks for a secret whose version is not since, for at most wait. It
// returns nil if there is none.
func (c *Client) poll(ctx context.Context, name, since string, wait time.Duration) (*Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+pollMargin)
	defer cancel()
	k := call{method: http.MethodGet, path: secretPath(name), what: whatSecret(name)}
	if since != "" {
		k.query = url.Values{"wait": {wait.String()}, "version": {since}}
	}
	s := new(Secret)
	if err := c.read(ctx, k, s); err != nil {
		return nil, err
	}
	if s.Version == "" { // 304
		return nil, nil
	}
	return s, nil
}

// A backOff spaces attempts: longer each time, never in step with others, never
// without a pause.
type backOff struct{ pause time.Duration }

func (b *backOff) reset() { b.pause = 0 }

// wait waits, as err asks if it does, and reports whether ctx is still going.
func (b *backOff) wait(ctx context.Context, err error) bool {
	limit := maxPause
	if definite(err) {
		limit = maxRefused
	}
	b.pause = min(max(2*b.pause, minPause), limit)
	pause := b.pause/2 + rand.N(b.pause/2+1)
	if e, ok := err.(*Error); ok && e.RetryAfter > pause { //nolint:errorlint // made by this package, never wrapped
		pause = min(e.RetryAfter, time.Minute)
	}
	return sleep(ctx, pause)
}

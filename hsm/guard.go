package hsm

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"github.com/signet-agent/signet/hsm/wire"
)

// pinRefusals are the answers to C_Login after which the same PIN is not tried
// again.
var pinRefusals = map[string]uint{
	"CKR_PIN_INCORRECT": wire.CKRPINIncorrect,
	"CKR_PIN_INVALID":   wire.CKRPINInvalid,
	"CKR_PIN_LEN_RANGE": wire.CKRPINLenRange,
	"CKR_PIN_EXPIRED":   wire.CKRPINExpired,
	"CKR_PIN_LOCKED":    wire.CKRPINLocked,
}

// Reasons that stand in the guard while a PIN is being tried. If one is found
// later, a process ended during the try and nobody knows what the token thought
// of the PIN: it may be tried once more, not twice.
const (
	trying      = "TRYING"
	tryingAgain = "TRYING_AGAIN"
)

// A login is the decision whether a PIN may be tried.
type login struct {
	salt, digest []byte // what the guard remembers; nil if nothing
	reason       string
}

// remembered reads the guard.
func (t *Token) remembered() (login, error) {
	var l login
	var err error
	if l.salt, l.digest, l.reason, err = t.cfg.Guard.Refused(); err != nil {
		return l, t.fail("read PIN guard", "", err)
	}
	return l, nil
}

// permit decides whether the PIN that was read may be tried, and writes down
// that it is about to be.
func (t *Token) permit(l login, o *wire.Opened, salt []byte) error {
	if o.Flags&wire.FlagPINLocked != 0 {
		return &wire.Error{CKR: wire.CKRPINLocked, Name: "CKR_PIN_LOCKED", Text: "log in: not tried"}
	}
	if o.PINDigest == nil {
		return nil // no PIN is asked for, or it is typed at the token, or it was accepted before by this token in this process
	}
	same := l.digest != nil && bytes.Equal(l.digest, o.PINDigest)
	unknown := t.unknown.Load()
	next := trying
	switch {
	case same && l.reason == tryingAgain:
		return &wire.Error{Name: wire.PINUnfinished, Text: "log in: not tried"}
	case same && l.reason != trying:
		return &wire.Error{CKR: pinRefusals[l.reason], Name: l.reason, Text: "log in: not tried again after it was refused"}
	case o.Flags&wire.FlagPINFinalTry != 0:
		return &wire.Error{Name: wire.PINFinalTry, Text: "log in: not tried"}
	case unknown && o.Flags&wire.FlagPINCountLow != 0:
		return &wire.Error{Name: wire.PINUnfinished, Text: "log in: not tried, for the token has counted a wrong PIN"}
	case unknown, same:
		next = tryingAgain
	}
	if err := t.cfg.Guard.SetRefused(salt, o.PINDigest, next); err != nil {
		return t.fail("write PIN guard", "", err)
	}
	return nil
}

// learn writes down what the token thought of the PIN.
func (t *Token) learn(o *wire.Opened, salt []byte, outcome error) error {
	if o.PINQuick == nil {
		return outcome
	}
	var werr *wire.Error
	t.good = nil
	answered := errors.As(outcome, &werr)
	t.unknown.Store(outcome != nil && (!answered || pinRefusals[werr.Name] == 0))
	switch {
	case outcome == nil:
		t.good = o.PINQuick
		if o.PINDigest == nil {
			return nil
		}
	case !answered:
		return outcome // the worker ended: what is written down stands
	case pinRefusals[werr.Name] != 0:
		digest := o.PINDigest
		if digest == nil {
			digest = werr.PINDigest
		}
		if err := t.cfg.Guard.SetRefused(salt, digest, werr.Name); err != nil {
			return errors.Join(outcome, t.fail("write PIN guard", "", err))
		}
		return outcome
	}
	if err := t.cfg.Guard.Clear(); err != nil {
		return errors.Join(outcome, t.fail("write PIN guard", "", err))
	}
	return outcome
}

// A MemoryGuard is the Guard of a Config without one: it remembers for as long as
// the process lives. The zero MemoryGuard remembers nothing yet.
type MemoryGuard struct {
	mu           sync.Mutex
	salt, digest []byte
	reason       string
}

// Refused is for Guard.
func (g *MemoryGuard) Refused() (salt, digest []byte, reason string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.salt, g.digest, g.reason, nil
}

// SetRefused is for Guard.
func (g *MemoryGuard) SetRefused(salt, digest []byte, reason string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.salt, g.digest, g.reason = slices.Clone(salt), slices.Clone(digest), reason
	return nil
}

// Clear is for Guard.
func (g *MemoryGuard) Clear() error { return g.SetRefused(nil, nil, "") }

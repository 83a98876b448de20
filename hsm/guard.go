package hsm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
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

// A Guard remembers which PINs must not be tried again, of each token by a digest of
// the PIN. Tokens are told apart by what they say of themselves, whatever the
// configuration calls them. It is durable when its methods return.
type Guard interface {
	// Salt is what goes into all digests, always the same.
	Salt() ([]byte, error)
	// Refused returns what SetRefused was last given for a PIN, or "".
	Refused(token string, digest []byte) (reason string, err error)
	// SetRefused remembers a PIN, or forgets it if there is no reason.
	SetRefused(token string, digest []byte, reason string) error
	// Clear forgets all PINs of a token.
	Clear(token string) error
}

// guarded is what a token is for the guard. The label goes with the serial number,
// because some modules give all their tokens the same of those.
func guarded(o *wire.Opened) string { return fmt.Sprintf("%q %q", o.Label, o.Serial) }

// permit decides whether the PIN that was read may be tried, and writes down
// that it is about to be.
func (t *Token) permit(o *wire.Opened) error {
	if t.pardon.Swap(false) {
		if err := t.cfg.Guard.Clear(guarded(o)); err != nil {
			t.pardon.Store(true)
			return t.fail("clear PIN guard", "", err)
		}
		t.unknown.Store(false)
	}
	if o.Flags&wire.FlagPINLocked != 0 {
		return &wire.Error{CKR: wire.CKRPINLocked, Name: "CKR_PIN_LOCKED", Text: "log in: not tried"}
	}
	if o.PINDigest == nil {
		return nil // no PIN is asked for, or it is typed at the token, or it was accepted before by this token in this process
	}
	reason, err := t.cfg.Guard.Refused(guarded(o), o.PINDigest)
	if err != nil {
		return t.fail("read PIN guard", "", err)
	}
	same := reason != ""
	unknown := t.unknown.Load()
	next := trying
	switch {
	case reason == tryingAgain:
		return &wire.Error{Name: wire.PINUnfinished, Text: "log in: not tried"}
	case same && reason != trying:
		return &wire.Error{CKR: pinRefusals[reason], Name: reason, Text: fmt.Sprintf("log in: not tried again after token %s refused it", guarded(o))}
	case o.Flags&wire.FlagPINFinalTry != 0:
		return &wire.Error{Name: wire.PINFinalTry, Text: "log in: not tried"}
	case unknown && o.Flags&wire.FlagPINCountLow != 0:
		return &wire.Error{Name: wire.PINUnfinished, Text: "log in: not tried, for the token has counted a wrong PIN"}
	case unknown, same:
		next = tryingAgain
	}
	if err := t.cfg.Guard.SetRefused(guarded(o), o.PINDigest, next); err != nil {
		return t.fail("write PIN guard", "", err)
	}
	return nil
}

// learn writes down what the token thought of the PIN.
func (t *Token) learn(o *wire.Opened, outcome error) error {
	if o.PINQuick == nil {
		return outcome
	}
	var werr *wire.Error
	t.good = nil
	answered := errors.As(outcome, &werr)
	t.unknown.Store(outcome != nil && (!answered || pinRefusals[werr.Name] == 0))
	var err error
	switch {
	case outcome == nil:
		t.good = o.PINQuick
		if o.PINDigest != nil {
			err = t.cfg.Guard.Clear(guarded(o))
		}
	case !answered:
		return outcome // the worker ended: what is written down stands
	case pinRefusals[werr.Name] != 0:
		digest := o.PINDigest
		if digest == nil {
			digest = werr.PINDigest
		}
		err = t.cfg.Guard.SetRefused(guarded(o), digest, werr.Name)
	case o.PINDigest != nil:
		err = t.cfg.Guard.SetRefused(guarded(o), o.PINDigest, "")
	}
	if err != nil {
		return errors.Join(outcome, t.fail("write PIN guard", "", err))
	}
	return outcome
}

// A MemoryGuard is the Guard of a Config without one: it remembers for as long as
// the process lives. The zero MemoryGuard remembers nothing yet.
type MemoryGuard struct {
	mu      sync.Mutex
	salt    []byte
	refused map[pin]string // the reasons
}

// A pin is one that a token was given.
type pin struct{ token, digest string }

// Salt is for Guard.
func (g *MemoryGuard) Salt() ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.salt == nil {
		g.salt = make([]byte, 16)
		rand.Read(g.salt) // never fails
	}
	return g.salt, nil
}

// Refused is for Guard.
func (g *MemoryGuard) Refused(token string, digest []byte) (reason string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused[pin{token, string(digest)}], nil
}

// SetRefused is for Guard.
func (g *MemoryGuard) SetRefused(token string, digest []byte, reason string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if reason == "" {
		delete(g.refused, pin{token, string(digest)})
		return nil
	}
	if g.refused == nil {
		g.refused = map[pin]string{}
	}
	g.refused[pin{token, string(digest)}] = reason
	return nil
}

// Clear is for Guard.
func (g *MemoryGuard) Clear(token string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.refused, func(p pin, _ string) bool { return p.token == token })
	return nil
}

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/socket"
)

// A noSealingKeyError says that the data key cannot be unwrapped because the token
// does not have the key for that, or one that fails its checks.
type noSealingKeyError struct{ err error }

func (e *noSealingKeyError) Error() string { return e.err.Error() }
func (e *noSealingKeyError) Unwrap() error { return e.err }

// Hint says what an operator can do about it.
func (e *noSealingKeyError) Hint() string {
	last := "if that cannot be, `signet key rotate-sealing --discard-sealed` begins anew without what it has sealed; docs/hsm.md says what is lost"
	switch {
	case errors.Is(e.err, hsm.ErrElsewhere):
		return "name that token under hsm: again, by any name; " + last
	case errors.Is(e.err, hsm.ErrUntrusted):
		return "`signet key show kek` tells which check failed; have the token pass it; " + last
	}
	return "bring back the token, or a copy of it, that has the sealing key; " + last
}

// A resealer is a token whose sealing key can be replaced.
type resealer interface {
	wrapper
	RotateKEK(ctx context.Context) error
	RetireKEKs(ctx context.Context) error
}

// RotateSealingKey is for socket.Backend. The data key is wrapped anew; what it
// seals is not touched. While the data key cannot be unwrapped for want of the key
// that wraps it, both are replaced if what they seal may be discarded.
func (b backend) RotateSealingKey(ctx context.Context, discard bool) error {
	t := b.sealing()
	if err := b.reseal(ctx, t, discard); err != nil {
		return problem(err)
	}
	b.log.Info("sealing key rotated", "hsm", t.Status().Name)
	if !b.isOpen() {
		select {
		case b.unseal <- struct{}{}:
		default: // it is about to be looked at
		}
		if !b.awaitOpen(ctx) {
			return problem(b.notOpen())
		}
	}
	return nil
}

func (b backend) reseal(ctx context.Context, t *hsm.Token, discard bool) error {
	b.sealed.Lock()
	defer b.sealed.Unlock()
	switch {
	case b.isOpen():
		return b.refresher.sealer.rewrap(ctx, t, b.store)
	case discard:
		return b.beginAnew(ctx, t)
	}
	return b.notOpen()
}

// rewrap replaces the sealing key: the data key is wrapped by the new one, and the
// older ones are destroyed once that is on disk, in the copy too, and was seen to
// open. They are not needed for it. It may be repeated.
func (s *sealer) rewrap(ctx context.Context, t resealer, on safe) error {
	if err := t.RotateKEK(ctx); err != nil {
		return err
	}
	var err error
	s.box.Key().Use(func(key []byte) { err = rewrap(ctx, t, on, key) })
	if err != nil {
		return err
	}
	if err := t.RetireKEKs(ctx); err != nil {
		return err
	}
	return on.Copy() // which would call the old keys lost
}

func rewrap(ctx context.Context, t wrapper, on safe, key []byte) error {
	blob, err := t.Wrap(ctx, key)
	if err != nil {
		return fmt.Errorf("wrap the data key anew: %w", err)
	}
	again, err := t.Unwrap(ctx, blob)
	if err != nil {
		return fmt.Errorf("unwrap the data key: %w", err)
	}
	defer clear(again)
	if !bytes.Equal(again, key) {
		return errors.New("wrap the data key anew: it does not open as it was")
	}
	return keepDataKey(on, blob)
}

// beginAnew makes another sealing key and another data key if what the data key is
// wrapped by is gone. The old data key is set aside; what it sealed is lost.
func (a *Agent) beginAnew(ctx context.Context, t resealer) error {
	_, err := openSealer(ctx, t, a.store)
	if _, lost := errors.AsType[*noSealingKeyError](err); !lost {
		return err // nil if it opens after all
	}
	if err := t.RotateKEK(ctx); err != nil {
		return err
	}
	if _, err := replaceSealer(ctx, t, a.store); err != nil {
		return err
	}
	a.log.Error("the sealing key is lost; an administrator had the agent begin anew, with another one and another data key", "err", err,
		"hint", "secrets are fetched anew; whoever had logged in has to again; rotate the certificates whose keys are in files")
	if err := t.RetireKEKs(ctx); err != nil {
		return err
	}
	return a.store.Copy()
}

// sealingKeyInfo is the sealing key in use as the socket shows it.
func (a *Agent) sealingKeyInfo(ctx context.Context) (socket.KeyInfo, error) {
	var newest hsm.LedgerKey
	for _, k := range a.sealing().Keys() {
		if k.Name == access.SealingKey && k.State == hsm.Live && k.Generation > newest.Generation {
			newest = k
		}
	}
	if newest.ID == "" {
		return socket.KeyInfo{}, &refusal{socket.CodeUnavailable, "the sealing key is not made yet"}
	}
	got, err := a.sealing().Info(ctx, newest.ID)
	if err != nil {
		return socket.KeyInfo{}, err
	}
	info := socket.KeyInfo{Name: newest.Name, Generation: newest.Generation, Algorithm: string(newest.Type), Attributes: attributesOf(got)}
	if got.Public != nil {
		info.PublicKey, err = pemOf(got.Public)
	}
	return info, err
}

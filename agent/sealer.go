package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/secret"
)

// A sealer keeps what must not be readable without the HSM: with AES-256-GCM,
// under a data key that only the HSM can unwrap. What a blob is of is bound
// into it, so that blobs cannot be exchanged for one another.
type sealer struct{ box *secret.Box }

// A wrapper wraps and unwraps the data key; the HSM's token is one.
type wrapper interface {
	Wrap(ctx context.Context, plain []byte) ([]byte, error)
	Unwrap(ctx context.Context, blob []byte) ([]byte, error)
}

// A shelf keeps small things durably by name; the store is one. Meta reports
// nil for what is not there.
type shelf interface {
	Meta(name string) ([]byte, error)
	SetMeta(name string, value []byte) error
}

// A safe is a shelf of which a copy is kept, for when it is damaged.
type safe interface {
	shelf
	Copy() error
}

const (
	// metaDataKey is where the wrapped data key lies.
	metaDataKey = "data-key"
	// metaDataKeyAside is where one lies that could not be unwrapped.
	metaDataKeyAside = "data-key-damaged"
	// unwrapTries is how often in a row the token says of a data key that it was
	// changed before another one is made. Each time it was not one worker alone.
	unwrapTries = 3
)

// openSealer unwraps the data key, or makes one where there is none yet.
func openSealer(ctx context.Context, w wrapper, s safe) (*sealer, error) {
	blob, err := s.Meta(metaDataKey)
	if err != nil {
		return nil, fmt.Errorf("read the wrapped data key: %w", err)
	}
	if blob == nil {
		return freshSealer(ctx, w, s)
	}
	key, err := w.Unwrap(ctx, blob)
	if errors.Is(err, hsm.ErrKeyLost) || errors.Is(err, hsm.ErrUntrusted) || errors.Is(err, hsm.ErrElsewhere) {
		return nil, &noSealingKeyError{fmt.Errorf("unwrap the data key: %w", err)}
	}
	if err != nil {
		return nil, fmt.Errorf("unwrap the data key: %w", err)
	}
	defer clear(key)
	return newSealer(key)
}

// freshSealer makes a new data key.
func freshSealer(ctx context.Context, w wrapper, s safe) (*sealer, error) {
	key := make([]byte, 32)
	defer clear(key)
	rand.Read(key)
	blob, err := w.Wrap(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("wrap a new data key: %w", err)
	}
	if err := keepDataKey(s, blob); err != nil {
		return nil, err
	}
	return newSealer(key)
}

// keepDataKey keeps the wrapped data key, in the copy of the state too: that must
// not go on with one that nothing unwraps any more.
func keepDataKey(s safe, blob []byte) error {
	if err := errors.Join(s.SetMeta(metaDataKey, blob), s.Copy()); err != nil {
		return fmt.Errorf("keep the wrapped data key: %w", err)
	}
	return nil
}

// replaceSealer sets a data key aside that cannot be unwrapped any more, and makes
// another: what the old one sealed is lost, and must not keep what comes after it
// from being served.
func replaceSealer(ctx context.Context, w wrapper, s safe) (*sealer, error) {
	blob, err := s.Meta(metaDataKey)
	if err != nil {
		return nil, fmt.Errorf("read the wrapped data key: %w", err)
	}
	if err := s.SetMeta(metaDataKeyAside, blob); err != nil {
		return nil, fmt.Errorf("set the damaged data key aside: %w", err)
	}
	return freshSealer(ctx, w, s)
}

func newSealer(key []byte) (*sealer, error) {
	box, err := secret.NewBox(key)
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	return &sealer{box}, nil
}

// seal seals plain as what of says.
func (s *sealer) seal(of string, plain []byte) []byte {
	return s.box.Seal(nil, plain, []byte(of))
}

// open opens what seal sealed as the same.
func (s *sealer) open(of string, blob []byte) ([]byte, error) {
	plain, err := s.box.Open(nil, blob, []byte(of))
	if err != nil {
		return nil, fmt.Errorf("sealed %s: %w", of, err)
	}
	return plain, nil
}

// errTampered is all that can be known of a blob that does not open.
var errTampered = secret.ErrSealed

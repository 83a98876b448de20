package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"time"
)

// A SignFunc signs a digest and says with which key: "audit#1".
type SignFunc func(ctx context.Context, digest [sha256.Size]byte) (signature []byte, key string, err error)

const (
	// signLines and signEvery are how much may be unsigned.
	signLines = 10000
	signEvery = 5 * time.Minute
	// signTimeout is how long one signature may take, and how long after a
	// failure the next one is tried.
	signTimeout = 15 * time.Second
)

// sealing is the state of signing. It is owned by Audit.run.
type sealing struct {
	sign    SignFunc
	lines   uint64             // that no signature covers; those that sign do not count
	since   time.Time          // the last signature, or the start
	retryAt time.Time          // after a failure
	busy    bool               // a signature is being made
	stop    context.CancelFunc // of that
	done    chan signed
}

// signed is a signature that was made, or not.
type signed struct {
	hash           string
	lines          uint64
	signature, key string
	err            error
}

// signAsk asks run for a signature now.
type signAsk struct {
	ctx  context.Context
	done chan error
}

// HeadDigest is what is signed of a chain that ends with the line of that hash.
func HeadDigest(hash string) [sha256.Size]byte {
	return sha256.Sum256([]byte("signet audit chain\n" + hash + "\n"))
}

// SignHead signs the chain as it now is, if there is anything unsigned, such as
// before the HSM is closed.
func (a *Audit) SignHead(ctx context.Context) error {
	if a == nil {
		return nil
	}
	ask := signAsk{ctx, make(chan error, 1)}
	select {
	case a.asks <- ask:
		return <-ask.done
	case <-a.done:
		return errors.New("closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start begins a signature if one is due. Lines are written on meanwhile.
func (s *sealing) start(w *writer, now time.Time) {
	due := s.lines >= signLines || s.lines > 0 && now.Sub(s.since) >= signEvery
	if s.sign == nil || s.busy || !due || now.Before(s.retryAt) {
		return
	}
	s.busy = true
	hash, lines := hex.EncodeToString(w.prev[:]), s.lines
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	s.stop = cancel
	go func() {
		defer cancel()
		s.done <- s.make(ctx, hash, lines)
	}()
}

// endSigning gives up a signature that is being made, and waits until it is: what
// makes it uses the state, which is closed after the audit.
func (a *Audit) endSigning() {
	if !a.seal.busy {
		return
	}
	a.seal.stop()
	if s := <-a.seal.done; s.err == nil {
		a.signed(s)
	}
}

func (s *sealing) make(ctx context.Context, hash string, lines uint64) signed {
	sig, key, err := s.sign(ctx, HeadDigest(hash))
	return signed{hash, lines, base64.StdEncoding.EncodeToString(sig), key, err}
}

// signed writes a signature down.
func (a *Audit) signed(s signed) {
	now := time.Now()
	a.seal.busy = false
	if s.err != nil {
		a.seal.retryAt = now.Add(signTimeout)
		a.cfg.Log.Warn("audit chain not signed", "file", a.cfg.Path, "err", s.err, "unsigned_lines", a.seal.lines, "retry_at", a.seal.retryAt)
		return
	}
	e := Entry{Time: now, Event: eventSigned, Outcome: "ok", Hash: s.hash, Signature: s.signature, KeyName: s.key}
	a.w.chain(e.appendTo(nil))
	a.seal.lines -= s.lines
	a.seal.since = now
	a.write()
}

// eventSigned is the event of a line that signs those before it.
const eventSigned = "audit.signed"

// signNow waits for a signature of all that is written. It is called by run.
func (a *Audit) signNow(ctx context.Context) error {
	if a.seal.busy {
		select {
		case s := <-a.seal.done:
			a.signed(s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if a.seal.sign == nil || a.seal.lines == 0 {
		return nil
	}
	s := a.seal.make(ctx, hex.EncodeToString(a.w.prev[:]), a.seal.lines)
	a.signed(s)
	return s.err
}

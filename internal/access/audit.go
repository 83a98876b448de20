package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// AuditConfig configures an Audit.
type AuditConfig struct {
	// Path of the file. Its directory has to exist.
	Path string
	// Allow lets accesses pass that cannot be recorded. They are counted, and
	// the count is recorded when that works again.
	Allow bool
	// Buffer is how many bytes may wait for the disk; 0 is 8 MiB.
	Buffer int
	// MaxSize is from how many bytes on the file is set aside, as PATH.000001
	// and so on, and a new one begun; 0 is never. Keep is how many of those
	// stay; 0 is all.
	MaxSize int64
	Keep    int
	// Sign signs the chain, every 10,000 lines and every five minutes that
	// have lines; nil does not.
	Sign SignFunc
	// Known is the hash of a line that is in the file, "" if none is known; where
	// it is missing, [Audit.Cut] says so. Remember keeps the hash of the last line
	// that is on the disk: each second that has one, and at the end; nil does not.
	Known    string
	Remember func(hash string) error
	// Log is told when the file fails and when it works again; nil is nobody.
	Log *slog.Logger
}

// An Audit is a file of JSON lines, one per access, each carrying the hash of
// the line before it. Its methods may be called from several goroutines.
//
// A line is in memory when Append returns and reaches the file some
// milliseconds later; the file is synced every second. A crash loses at most
// that much, and the chain shows where writing began anew.
type Audit struct {
	cfg    AuditConfig
	failed atomic.Pointer[AuditError]
	head   atomic.Pointer[Head]
	wake   chan struct{} // there are lines
	many   chan struct{} // there are as many as are written at once
	done   chan struct{}
	asks   chan signAsk
	lines  sync.Pool // of *[]byte, to format entries in
	cut    atomic.Pointer[CutError]

	mu      sync.Mutex
	pending []byte // guarded by mu: lines that lack their end, "prev"
	lost    int    // guarded by mu: accesses that were allowed unrecorded
	closed  bool   // guarded by mu

	w    writer  // owned by run
	seal sealing // owned by run
	end  end     // owned by run
}

// A Head is the state of the chain.
type Head struct {
	Hash  string // of the last line written, in hex
	Lines uint64 // written since the file was opened
}

// An AuditError says why accesses cannot be recorded.
type AuditError struct {
	Path string
	Err  error
}

func (e *AuditError) Error() string { return fmt.Sprintf("audit file %q: %v", e.Path, e.Err) }
func (e *AuditError) Unwrap() error { return e.Err }

// Hint says what an operator can do about it.
func (e *AuditError) Hint() string {
	return "make room or restore the file's directory; `audit: {on_failure: allow}` serves without a record"
}

var errAuditFull = errors.New("the disk does not keep up, the buffer is full")

const (
	// linger is how long a line waits for others to be written with it. It is
	// also how long it takes until a failing disk is noticed under load.
	linger = 10 * time.Millisecond
	// atOnce is from how many bytes of lines on they wait no longer, so that the
	// buffers stay small under load.
	atOnce = 64 << 10
	// probeEvery is how often an idle file is synced and looked at.
	probeEvery = time.Second
)

// OpenAudit opens the file, or makes it, and continues its chain. A last line
// that was not written whole, as a crash leaves it, is cut off; how much is
// recorded.
func OpenAudit(cfg AuditConfig) (*Audit, error) {
	if cfg.Buffer == 0 {
		cfg.Buffer = 8 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Audit{cfg: cfg, wake: make(chan struct{}, 1), many: make(chan struct{}, 1), done: make(chan struct{}), asks: make(chan signAsk)}
	a.seal = sealing{sign: cfg.Sign, done: make(chan signed, 1), since: time.Now()}
	a.lines.New = func() any { b := make([]byte, 0, 512); return &b }
	a.w.path, a.w.maxSize, a.w.keep = cfg.Path, cfg.MaxSize, cfg.Keep
	torn, err := a.w.open()
	if err != nil {
		return nil, &AuditError{cfg.Path, err}
	}
	a.head.Store(&Head{Hash: hex.EncodeToString(a.w.prev[:])})
	a.end = end{hash: a.w.durable, done: make(chan error, 1)}
	err = a.Append(&Entry{Time: time.Now(), Event: "audit.opened", Outcome: "ok", Count: torn})
	if err == nil && cfg.Known != "" {
		err = a.Expect(cfg.Known)
	}
	if err != nil {
		a.w.close()
		return nil, err
	}
	go a.run()
	return a, nil
}

// Append records an access. An error means that it cannot be recorded, and must
// not be granted. It never waits for the disk. A nil Audit records nothing.
func (a *Audit) Append(e *Entry) error {
	if a == nil {
		return nil
	}
	if f := a.failed.Load(); f != nil && !a.cfg.Allow {
		return f
	}
	buf := a.lines.Get().(*[]byte)
	defer a.lines.Put(buf)
	*buf = e.appendTo((*buf)[:0])
	if err := a.enqueue(*buf); err != nil && !a.cfg.Allow {
		return &AuditError{a.cfg.Path, err}
	}
	return nil
}

func (a *Audit) enqueue(line []byte) error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return errors.New("closed")
	}
	if len(a.pending)+len(line) > a.cfg.Buffer {
		if a.cfg.Allow {
			a.lost++
		}
		a.mu.Unlock()
		return errAuditFull
	}
	before := len(a.pending)
	a.pending = append(a.pending, line...)
	after := len(a.pending)
	a.mu.Unlock()
	if before == 0 {
		signal(a.wake)
	}
	if before < atOnce && after >= atOnce {
		signal(a.many)
	}
	return nil
}

// signal sends to a channel with room for one, unless that is there already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Err is why accesses cannot be recorded, or nil.
func (a *Audit) Err() error {
	if a == nil {
		return nil
	}
	if f := a.failed.Load(); f != nil {
		return f
	}
	return nil
}

// Refusing reports whether Append is known to fail.
func (a *Audit) Refusing() bool { return a != nil && !a.cfg.Allow && a.failed.Load() != nil }

// Head is the end of the chain as it is in the file.
func (a *Audit) Head() Head { return *a.head.Load() }

// Close writes what is pending, syncs, and closes the file.
func (a *Audit) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	was := a.closed
	a.closed = true
	a.mu.Unlock()
	if !was {
		close(a.wake)
	}
	<-a.done
	return a.Err()
}

// run is the only one that touches the file.
func (a *Audit) run() {
	defer close(a.done)
	defer a.w.close()
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	var spare []byte
	for {
		open := true
		select {
		case _, open = <-a.wake:
			if open {
				a.gather()
			}
		case <-probe.C:
			a.settle(a.w.probe())
			a.keepEnd()
		case s := <-a.seal.done:
			a.signed(s)
		case err := <-a.end.done:
			a.remembered(err)
			continue
		case ask := <-a.asks:
			spare = a.flush(spare)
			ask.done <- a.signNow(ask.ctx)
			continue
		}
		spare = a.flush(spare)
		if open {
			a.seal.start(&a.w, time.Now())
		} else {
			a.endSigning()
			a.settle(a.w.sync())
			a.keepLastEnd()
			return
		}
	}
}

// gather waits for more lines. Close waits for the write in any case.
func (a *Audit) gather() {
	select {
	case <-time.After(linger):
	case <-a.many: // or of lines that are written, which does no harm
	}
}

// flush writes what is pending and returns the buffer for the next time. While
// earlier lines cannot be written, later ones stay where they count against
// the buffer's limit.
func (a *Audit) flush(spare []byte) []byte {
	if err := a.w.drain(); err != nil {
		a.settle(err)
		return spare
	}
	a.mu.Lock()
	batch, lost := a.pending, a.lost
	a.pending, a.lost = spare[:0], 0
	a.mu.Unlock()
	if lost > 0 {
		batch = (&Entry{Time: time.Now(), Event: "audit.lost", Outcome: "error", Count: lost}).appendTo(batch)
	}
	if len(batch) == 0 {
		return batch
	}
	a.seal.lines += a.w.chain(batch)
	a.write()
	const keep = 256 << 10
	if cap(batch) > keep { // a burst does not stay in memory
		return nil
	}
	return batch
}

// write writes what is chained and says where the chain ends.
func (a *Audit) write() {
	err := a.w.drain()
	a.settle(err)
	if err == nil {
		a.head.Store(&Head{Hash: hex.EncodeToString(a.w.prev[:]), Lines: a.w.lines})
	}
}

// settle notes whether the file works and tells the operator of a change.
func (a *Audit) settle(err error) {
	was := a.failed.Load()
	switch {
	case err != nil:
		a.failed.Store(&AuditError{a.cfg.Path, err})
		if was == nil {
			a.cfg.Log.Error("audit file cannot be written", "file", a.cfg.Path, "err", err, "reads_allowed", a.cfg.Allow)
		}
	case was != nil:
		a.failed.Store(nil)
		a.cfg.Log.Info("audit file is written again", "file", a.cfg.Path)
	}
}

// hashLine is what the next line carries as "prev".
func hashLine(line []byte) [sha256.Size]byte { return sha256.Sum256(line) }
